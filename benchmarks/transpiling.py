"""Circuits brought to a star, against the vendor's own transpiler, circuit by circuit."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import rustworkx
from qiskit import QuantumCircuit, qasm2

from backends.circuits import FrozenCircuit
from backends.profiles import load_profile
from benchmarks.environments import ROOT, other_interpreter
from benchmarks.rows import Row, timed
from orchestrator.transpile import Transpiler

__all__ = ["measure"]

_CIRCUITS, _AT_ONCE = 1000, 10
_QUBITS = 20
_FASTER = 1.5
_FOLDER = ROOT / ".bench-venv-iqm"
_PACKAGES = ("iqm-client[qiskit]==36.0.0",)


def measure() -> list[Row]:
    """Transpile the same circuits here and there in turn, ten at a time, each circuit another one."""
    target, transpiler, rng = load_profile("vlq").target(), Transpiler(), random.Random(1)
    ratios: list[float] = []
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    gates: dict[str, Counter[str]] = {"ours": Counter(), "theirs": Counter()}
    with _vendor() as ask:
        for number in range(-1, _CIRCUITS // _AT_ONCE):  # the first batch warms both up
            kind = _KINDS[number % len(_KINDS)]
            circuits = [kind(rng) for _ in range(_AT_ONCE)]
            native: list[QuantumCircuit] = []

            def ours(circuits: list[QuantumCircuit] = circuits, into: Any = native) -> None:
                for circuit in circuits:
                    into.append(transpiler.transpile(FrozenCircuit.of(circuit), target))

            ours_s = timed(ours)
            told = ask(circuits)
            if number < 0:
                continue
            ratios.append(told["took_s"] / ours_s)
            spent["ours"].append(ours_s)
            spent["theirs"].append(told["took_s"])
            for one in native:
                gates["ours"].update(one.circuit.circuit.count_ops())
            gates["theirs"].update(told["gates"])
    ratio = statistics.median(ratios)
    rates = {who: f"{_CIRCUITS / sum(times):.0f}/s" for who, times in spent.items()}
    faster = Row(
        name=f"{_CIRCUITS:,} circuits of {_QUBITS} qubits, of four kinds, brought to a star",
        ours=rates["ours"],
        against=rates["theirs"],
        what=f"{_PACKAGES[0]}: transpile_to_IQM, one by one; median of {len(ratios)} batches",
        ratio=ratio,
        goal=f"≥ {_FASTER:g} of it",
        met=ratio >= _FASTER,
    )
    return [faster, *(_gates(name, gates) for name in ("move", "cz", "r"))]


def _gates(name: str, gates: Mapping[str, Counter[str]]) -> Row:
    ours, theirs = (gates[who][name] for who in ("ours", "theirs"))
    bounded = name in ("move", "cz")
    return Row(
        name=f"their {name} gates",
        ours=f"{ours / _CIRCUITS:.1f} a circuit",
        against=f"{theirs / _CIRCUITS:.1f} a circuit",
        what="the same",
        ratio=ours / theirs,
        goal="≤ 1" if bounded else "stated",
        met=ours <= theirs if bounded else None,
    )


@contextmanager
def _vendor() -> Iterator[Callable[[list[QuantumCircuit]], dict[str, Any]]]:
    """Give what has circuits transpiled in the vendor's environment: times and gates."""
    python = other_interpreter(_FOLDER, _PACKAGES)
    script = ROOT / "benchmarks" / "others" / "iqm_star.py"
    with subprocess.Popen(
        [str(python), "-W", "ignore", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(circuits: list[QuantumCircuit]) -> dict[str, Any]:
            texts = [qasm2.dumps(circuit) for circuit in circuits]
            print(json.dumps(texts), file=process.stdin, flush=True)
            told: dict[str, Any] = json.loads(process.stdout.readline())
            return told

        try:
            yield ask
        finally:
            process.stdin.close()


def _layers(rng: random.Random) -> QuantumCircuit:
    """Return layers of rotations and CX between neighbours."""
    circuit = QuantumCircuit(_QUBITS)
    for layer in range(8):
        for qubit in range(_QUBITS):
            circuit.ry(rng.uniform(0, 6), qubit)
            circuit.rz(rng.uniform(0, 6), qubit)
        for qubit in range(layer % 2, _QUBITS - 1, 2):
            circuit.cx(qubit, qubit + 1)
    circuit.measure_all()
    return circuit


def _qaoa(rng: random.Random) -> QuantumCircuit:
    """Return two layers of QAOA for a random graph of 30 edges."""
    graph = rustworkx.undirected_gnm_random_graph(_QUBITS, 30, seed=rng.randrange(1 << 30))
    circuit = QuantumCircuit(_QUBITS)
    circuit.h(range(_QUBITS))
    for _ in range(2):
        angle, mixed = rng.uniform(0, 3), rng.uniform(0, 3)
        for a, b in graph.edge_list():
            circuit.rzz(angle, a, b)
        circuit.rx(mixed, range(_QUBITS))
    circuit.measure_all()
    return circuit


def _trotter(rng: random.Random) -> QuantumCircuit:
    """Return three Trotter steps of an Ising chain whose fields are random."""
    circuit = QuantumCircuit(_QUBITS)
    for _ in range(3):
        for first in (0, 1):
            for qubit in range(first, _QUBITS - 1, 2):
                circuit.rzz(rng.uniform(0, 1), qubit, qubit + 1)
        for qubit in range(_QUBITS):
            circuit.rx(rng.uniform(0, 1), qubit)
    circuit.measure_all()
    return circuit


def _random(rng: random.Random) -> QuantumCircuit:
    """Return 150 random gates between random qubits."""
    circuit = QuantumCircuit(_QUBITS)
    turns = (circuit.rx, circuit.ry, circuit.rz)
    for _ in range(150):
        if rng.random() < 0.4:
            circuit.cx(*rng.sample(range(_QUBITS), 2))
        else:
            rng.choice(turns)(rng.uniform(0, 6), rng.randrange(_QUBITS))
    circuit.measure_all()
    return circuit


_KINDS = (_layers, _qaoa, _trotter, _random)
