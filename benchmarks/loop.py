"""A variational loop of 100 iterations on 8 qubits, beside the same loop in plain Qiskit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from qiskit.circuit.library import efficient_su2
from qiskit.quantum_info import SparsePauliOp
from qiskit_aer.primitives import EstimatorV2

from benchmarks.rows import Row, interleaved
from benchmarks.setting import ROOT, scratch_run
from hpcqc import open_qpu

__all__ = ["measure", "optimise"]

_QUBITS = 8
_ITERATIONS = 100


def _ising() -> SparsePauliOp:
    terms = [("ZZ", [i, i + 1], 1.0) for i in range(_QUBITS - 1)]
    terms += [("X", [i], 0.7) for i in range(_QUBITS)]
    return SparsePauliOp.from_sparse_list(terms, num_qubits=_QUBITS)


def optimise(estimator: Any, *, points: int) -> float:
    """Walk 100 steps of SPSA with ``points`` energies each as one broadcast PUB."""
    circuit = efficient_su2(_QUBITS, reps=2)
    rng = np.random.default_rng(7)
    theta = rng.uniform(-0.1, 0.1, circuit.num_parameters)
    energy = 0.0
    for step in range(_ITERATIONS):
        signs = rng.choice([-1.0, 1.0], size=(points // 2, theta.size))
        shift = 0.1 / (step + 1) ** 0.1
        values = np.concatenate([theta + shift * signs, theta - shift * signs])
        evs = estimator.run([(circuit, _ising(), values)]).result()[0].data.evs
        up, down = evs[: len(signs)], evs[len(signs) :]
        theta = theta - 0.05 * ((up - down)[:, None] / (2 * shift) * signs).mean(axis=0)
        energy = float(evs.mean())
    return energy


def measure() -> list[Row]:
    """Time both loops in turn, and take each one's memory in a process of its own."""
    rows = []
    with scratch_run("loop"):
        bare = EstimatorV2()
        for points in (2, 20):
            ours_s, bare_s = interleaved(
                [
                    lambda p=points: optimise(open_qpu("aer").estimator(), points=p),
                    lambda p=points: optimise(bare, points=p),
                ],
                rounds=5,
                warmup=1,
            )
            rows.append(
                Row(
                    name=f"100 iterations, 8 qubits, {points} energies each",
                    ours=f"{ours_s:.2f} s",
                    against=f"{bare_s:.2f} s",
                    what="plain Qiskit and Aer EstimatorV2, same process",
                    ratio=ours_s / bare_s,
                    goal="≤ 1.2 times",
                    met=ours_s <= 1.2 * bare_s,
                )
            )
    ours_mib, bare_mib = _peak_mib("ours"), _peak_mib("bare")
    rows.append(
        Row(
            name="peak memory of the flow's process",
            ours=f"{ours_mib:.0f} MiB",
            against=f"{bare_mib:.0f} MiB",
            what="the same loop in plain Qiskit (simulation included there)",
            ratio=ours_mib / bare_mib,
            goal="stated",
            met=None,
        )
    )
    return rows


def _peak_mib(which: str) -> float:
    command = [sys.executable, "-m", "benchmarks.loop", which]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


def _main(which: str) -> None:
    if which == "ours":
        with scratch_run("memory"):
            optimise(open_qpu("aer").estimator(), points=2)
    else:
        optimise(EstimatorV2(), points=2)
    # Not getrusage: what a process was before exec counts there.
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))
    print(json.dumps({"peak_mib": peak_kib / 1024}))


if __name__ == "__main__":
    _main(sys.argv[1])
