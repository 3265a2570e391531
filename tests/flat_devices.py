"""What the tests of devices by flat circuits share: a run, and what a gate must do."""

from __future__ import annotations

import math
import uuid
from typing import Any

from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.quantum_info import Statevector

from backends.payloads import SamplerPayload
from tests.patience import until

__all__ = ["check_bit_order", "check_gate", "sampled"]

_SHOTS = 4000


def sampled(backend: Any, pubs: list[Any], *, shots: int, seed: int | None = None) -> Any:
    """Run PUBs to their end and return the native result."""
    payload = SamplerPayload.coerce(pubs, shots=shots, seed=seed)
    task = backend.start(backend.acquire(), payload, uuid.uuid4().hex)
    assert until(lambda: backend.status(task).is_final)
    return backend.result(task).native


def check_gate(backend: Any, name: str) -> None:
    """Compare counts after a gate, between general rotations, with Qiskit's matrix of its name."""
    known = get_standard_gate_name_mapping()[name]
    gate = known.base_class(*[0.4 + 0.7 * number for number in range(len(known.params))])
    circuit = QuantumCircuit(2)
    circuit.u(0.3, 0.5, 0.7, 0)
    circuit.u(1.1, 0.2, 1.3, 1)
    circuit.append(gate, range(gate.num_qubits))
    circuit.u(0.9, 0.4, 0.2, 0)
    circuit.u(0.6, 1.4, 0.8, 1)
    expected = Statevector(circuit).probabilities_dict()
    circuit.measure_all()
    counts = sampled(backend, [circuit], shots=_SHOTS)[0].data.meas.get_counts()
    for outcome in ("00", "01", "10", "11"):
        p = expected.get(outcome, 0.0)
        spread = math.sqrt(_SHOTS * p * (1 - p)) + 1
        assert abs(counts.get(outcome, 0) - _SHOTS * p) < 6 * spread, (name, expected, counts)


def check_bit_order(backend: Any) -> None:
    """Check that measured bits come back in the places that the circuit gives them."""
    qubits, low, high = (
        QuantumRegister(3),
        ClassicalRegister(3, "low"),
        ClassicalRegister(2, "high"),
    )
    circuit = QuantumCircuit(qubits, low, high)
    circuit.x(0)
    circuit.measure(0, high[1])
    circuit.measure(1, low[0])
    data = sampled(backend, [circuit], shots=10)[0].data
    assert data.low.get_counts() == {"000": 10}
    assert data.high.get_counts() == {"10": 10}
