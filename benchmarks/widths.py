"""Sampler PUBs of several widths, alone and four flows at once, against the two obvious ways."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit.library import efficient_su2
from qiskit_aer.primitives import SamplerV2

from benchmarks.rows import Row, timed
from benchmarks.setting import ROOT, scratch_run
from hpcqc import open_qpu

__all__ = ["measure"]

_SETS = {12: 100, 16: 40, 20: 12}
_SHOTS = 1024
_FLOWS = 4
_ROUNDS = 5


def circuits(qubits: int, count: int) -> list[QuantumCircuit]:
    """Return bound circuits of one width, each with its own angles."""
    template = efficient_su2(qubits, reps=3)
    rng = np.random.default_rng(qubits)
    bound = []
    for _ in range(count):
        circuit = template.assign_parameters(rng.uniform(0, np.pi, template.num_parameters))
        circuit.measure_all()
        bound.append(circuit)
    return bound


class _Single:
    """A process with one Aer thread that runs half of a set when told to."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.widths"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def ask(self, qubits: int, count: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([qubits, count]) + "\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def __enter__(self) -> _Single:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure() -> list[Row]:
    """Time all three ways in turn at each width, alone and four at once."""
    rows = []
    with scratch_run("widths"), _Single() as one, _Single() as two:
        sampler = open_qpu("aer").sampler()
        bare = SamplerV2()
        for qubits, count in _SETS.items():
            pubs = circuits(qubits, count)
            for flows in (1, _FLOWS):
                ways: list[Callable[[], object]] = [
                    lambda p=pubs, f=flows: _ours(sampler, p, f),
                    lambda p=pubs, f=flows: bare.run(p * f, shots=_SHOTS).result(),
                    lambda q=qubits, c=count * flows: _two(one, two, q, c),
                ]
                rows.append(_row(qubits, count, flows, _medians(ways)))
        rows.append(_broadcast(sampler, bare))
    return rows


def _medians(ways: Sequence[Callable[[], object]]) -> list[list[float]]:
    for way in ways:
        way()
    return [[timed(way) for way in ways] for _ in range(_ROUNDS)]


def _row(qubits: int, count: int, flows: int, rounds: list[list[float]]) -> Row:
    ours, threads, processes = (statistics.median(column) for column in zip(*rounds, strict=True))
    best = min(threads, processes)
    # Pair by pair, so that a slow moment of the machine does not decide.
    best_column = 1 if threads <= processes else 2
    ratio = statistics.median(times[0] / times[best_column] for times in rounds)
    who = "one process, default threads" if threads <= processes else "two single-threaded"
    return Row(
        name=f"{count} PUBs of {qubits} qubits" + (f", {flows} flows at once" if flows > 1 else ""),
        ours=f"{ours:.2f} s",
        against=f"{best:.2f} s",
        what=f"{who} (the other way {max(threads, processes):.2f} s)",
        ratio=ratio,
        goal="≤ 1.05 of the better",
        met=ratio <= 1.05,
    )


def _ours(sampler: object, pubs: list[QuantumCircuit], flows: int) -> None:
    def one_flow(_: int) -> None:
        sampler.run(pubs, shots=_SHOTS).result()  # type: ignore[attr-defined]

    with ThreadPoolExecutor(flows) as pool:
        list(pool.map(one_flow, range(flows)))


def _two(one: _Single, two: _Single, qubits: int, count: int) -> None:
    for process, share in ((one, count - count // 2), (two, count // 2)):
        process.ask(qubits, share)
    one.wait()
    two.wait()


def _broadcast(sampler: object, bare: SamplerV2) -> Row:
    template = efficient_su2(12, reps=3)
    values = np.random.default_rng(1).uniform(0, np.pi, (100, template.num_parameters))
    template.measure_all()
    pub = (template, values)
    ways: list[Callable[[], object]] = [
        lambda: sampler.run([pub], shots=_SHOTS).result(),  # type: ignore[attr-defined]
        lambda: bare.run([pub], shots=_SHOTS).result(),
    ]
    rounds = _medians(ways)
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    return Row(
        name="100 points of one 12-qubit circuit as one broadcast PUB",
        ours=f"{ours:.2f} s",
        against=f"{theirs:.2f} s",
        what="bare Aer SamplerV2 with the same PUB",
        ratio=ours / theirs,
        goal="≤ 1.05",
        met=ours <= 1.05 * theirs,
    )


def _main() -> None:
    prepared: dict[tuple[int, int], list[QuantumCircuit]] = {}
    sampler = SamplerV2(options={"backend_options": {"max_parallel_threads": 1}})
    for line in sys.stdin:
        qubits, count = json.loads(line)
        if (qubits, count) not in prepared:
            prepared[qubits, count] = circuits(qubits, count)
        sampler.run(prepared[qubits, count], shots=_SHOTS).result()
        print("done", flush=True)


if __name__ == "__main__":
    _main()
