"""What one warm Bell sampler call costs over bare Aer, synced ledger writes included."""

from __future__ import annotations

from qiskit import QuantumCircuit
from qiskit_aer.primitives import SamplerV2

from benchmarks.environments import PeerFailed, run_other
from benchmarks.rows import Row, interleaved, peer_failed
from benchmarks.setting import scratch_run
from hpcqc import open_qpu

__all__ = ["measure"]

_MS = 1e3


def bell() -> QuantumCircuit:
    """Return a measured Bell circuit."""
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def measure() -> list[Row]:
    """Compare with bare Aer in this process and with prefect-qiskit in its own."""
    circuit = bell()
    bare = SamplerV2()
    with scratch_run("bell"):
        ours = open_qpu("aer").sampler()
        mine_s, bare_s = interleaved(
            [
                lambda: ours.run([circuit], shots=1024).result(),
                lambda: bare.run([circuit], shots=1024).result(),
            ],
            rounds=300,
            warmup=30,
        )
    over_ms = (mine_s - bare_s) * _MS
    return [
        Row(
            name="warm Bell sampler call",
            ours=f"{mine_s * _MS:.2f} ms",
            against=f"{bare_s * _MS:.2f} ms",
            what="bare qiskit_aer SamplerV2, same process",
            ratio=mine_s / bare_s,
            goal=f"≤ 2 ms more (is {over_ms:+.2f} ms)",
            met=over_ms <= 2.0,
        ),
        _beside_prefect_qiskit(over_ms),
    ]


def _beside_prefect_qiskit(over_ms: float) -> Row:
    name, what = "overhead of that call", "prefect-qiskit 0.2.1 over bare Aer, its own environment"
    try:
        other = run_other("prefect_qiskit_bell.py")
    except PeerFailed as error:
        return peer_failed(name, f"{over_ms:.2f} ms", f"{what}: {error}")
    theirs_ms = (other["theirs"] - other["bare"]) * _MS
    # An overhead at or below zero is taken as a microsecond, so that a ratio exists.
    ratio = theirs_ms / max(over_ms, 1e-3)
    return Row(
        name=name,
        ours=f"{over_ms:.2f} ms",
        against=f"{theirs_ms:.0f} ms",
        what=what,
        ratio=ratio,
        goal="≥ 100 times less",
        met=ratio >= 100,
    )
