"""Samples of noisy devices against Aer's simulator as it comes, and a ready flow on every profile."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable

import numpy as np
from qiskit import QuantumCircuit
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    depolarizing_error,
    pauli_error,
    thermal_relaxation_error,
)

from backends.circuits import FrozenCircuit
from backends.error_rates import depolarising_parameter
from backends.gates import without_moves
from backends.profiles import Profile, load_profile, shipped
from benchmarks.rows import Row, timed
from benchmarks.setting import ROOT, scratch_run
from hpcqc import open_qpu
from orchestrator.transpile import Transpiler

__all__ = ["measure"]

_SHOTS = 500
_ROUNDS = 5
# By profile, the goal. Where T2 ≤ T1 the usual form of the noise is the cheapest already, and
# Aer spreads shots over its threads by itself.
_SAMPLED = {"vlq": 0.5, "vtt-q50": None}
_NODES = 12
_FLOW_S = {"aer": 12.0}
_FLOW_ON_A_DEVICE_S = 120.0


def measure() -> list[Row]:
    """Sample a QAOA circuit both ways in turn, then run the ready flow with such circuits."""
    with scratch_run("noisy", profiles=tuple(_SAMPLED)):
        rows = [_sampled(name, goal) for name, goal in _SAMPLED.items()]
    wide = [name for name in shipped() if load_profile(name).num_qubits >= _NODES]
    return rows + [_flow(name) for name in ("aer", *wide)]


def _sampled(name: str, goal: float | None) -> Row:
    profile = load_profile(name)
    bound = _circuit()
    native = without_moves(
        Transpiler().transpile(FrozenCircuit.of(bound), profile.target()).circuit.circuit
    )
    sampler = open_qpu(name).sampler()
    simulator = AerSimulator(noise_model=_usual_noise(profile))
    ways: list[Callable[[], object]] = [
        lambda: sampler.run([bound], shots=_SHOTS).result(),
        lambda: _bare(simulator, native),
    ]
    for way in ways:
        way()
    rounds = [[timed(way) for way in ways] for _ in range(_ROUNDS)]
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(mine / other for mine, other in rounds)
    gates = sum(n for gate, n in native.count_ops().items() if gate not in ("barrier", "measure"))
    return Row(
        name=f"{_SHOTS} shots of {gates} gates on {name}",
        ours=f"{1e3 * ours / _SHOTS:.1f} ms a shot",
        against=f"{1e3 * theirs / _SHOTS:.1f} ms a shot",
        what="AerSimulator(noise_model) as it comes",
        ratio=ratio,
        goal="stated" if goal is None else f"≤ {goal}",
        met=None if goal is None else ratio <= goal,
    )


def _circuit() -> QuantumCircuit:
    """Return two layers of QAOA on a Möbius ladder, the graph that the flow has by default."""
    circuit = QuantumCircuit(_NODES)
    circuit.h(range(_NODES))
    ring = [(node, (node + 1) % _NODES) for node in range(_NODES)]
    rungs = [(node, node + _NODES // 2) for node in range(_NODES // 2)]
    for phase, mixer in ((0.3, 1.1), (0.9, 0.4)):
        for u, v in ring + rungs:
            circuit.rzz(phase, u, v)
        circuit.rx(mixer, range(_NODES))
    circuit.measure_all()
    return circuit


def _bare(simulator: AerSimulator, circuit: QuantumCircuit) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Aer's own, of names Qiskit will rename
        simulator.run(circuit, shots=_SHOTS).result()


def _usual_noise(profile: Profile) -> NoiseModel:
    """Return a profile's noise as the functions of Aer make it."""
    model = NoiseModel()
    for gate in profile.gates:
        coherences = profile.gate_coherences(gate)
        if not gate.error:
            continue
        relaxing = [
            thermal_relaxation_error(one.t1_s, one.t2_s, gate.duration_s)
            if one is not None
            else pauli_error([("I", 1.0)])
            for one in coherences
        ]
        error = relaxing[0]
        for other in relaxing[1:]:
            error = error.expand(other)
        parameter = depolarising_parameter(gate.error, gate.duration_s, coherences)
        error = error.compose(depolarizing_error(parameter, gate.num_qubits))
        model.add_all_qubit_quantum_error(error, "swap" if gate.name == "move" else gate.name)
    up, down = profile.readout.zero_as_one, profile.readout.one_as_zero
    model.add_all_qubit_readout_error(ReadoutError(np.array([[1 - up, up], [down, 1 - down]])))
    return model


def _flow(qpu: str) -> Row:
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as folder:
        command = [sys.executable, "-m", "orchestrator.cli", "run", "flows.maxcut", "--qpu", qpu]
        environment = os.environ | {"HPCQC_STATE_DIR": f"{folder}/state"}
        seconds = timed(
            lambda: subprocess.run(
                [*command, "--out", f"{folder}/run"],
                cwd=ROOT,
                env=environment,
                check=True,
                capture_output=True,
            )
        )
    most_s = _FLOW_S.get(qpu, _FLOW_ON_A_DEVICE_S)
    return Row(
        name=f"flows.maxcut with its defaults on {qpu}",
        ours=f"{seconds:.0f} s",
        against="–",
        what="wall time of `hpcqc run`",
        ratio=None,
        goal=f"≤ {most_s:.0f} s",
        met=seconds <= most_s,
    )
