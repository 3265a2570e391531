"""What the checks of a payload from a client cost beside reading it without them."""

from __future__ import annotations

from qiskit import QuantumCircuit

from backends.payloads import (
    PayloadLimits,
    SamplerPayload,
    payload_from_bytes,
    payload_from_untrusted,
)
from benchmarks.rows import Row, interleaved

__all__ = ["measure"]

_MOST = 6.0


def measure() -> list[Row]:
    """Read a Bell circuit, the least there is to read, with and without the checks."""
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    data = SamplerPayload.coerce([circuit], shots=100).to_bytes()
    limits = PayloadLimits()
    checked_s, plain_s = interleaved(
        [
            lambda: payload_from_untrusted(data, limits=limits),
            lambda: payload_from_bytes(data),
        ],
        rounds=200,
        warmup=20,
    )
    ratio = checked_s / plain_s
    return [
        Row(
            name="reading a client's Bell payload",
            ours=f"{1e3 * checked_s:.2f} ms",
            against=f"{1e3 * plain_s:.2f} ms",
            what="the same without the checks",
            ratio=ratio,
            goal=f"≤ {_MOST:g} times",
            met=ratio <= _MOST,
        )
    ]
