"""Flat circuits as circuits of the Qiskit that an SDK's environment has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping

from backends.devices.api import BoundStep, FlatPub, bound_steps
from backends.devices.outcomes import spread, written_bits
from backends.errors import PayloadRejected

__all__ = ["counts_of", "qiskit_circuit"]


def qiskit_circuit(
    num_qubits: int, steps: Iterable[BoundStep], gates: Mapping[str, Any] | None = None
) -> QuantumCircuit:
    """Return a circuit whose classical bits are the measured ones, in order.

    gates: classes of the vendor's own gates, by name.
    """
    steps = list(steps)
    places = {bit: place for place, bit in enumerate(written_bits(steps))}
    known = get_standard_gate_name_mapping()
    circuit = QuantumCircuit(num_qubits, len(places))
    for name, qubits, clbits, angles in steps:
        if name == "measure":
            circuit.measure(qubits[0], places[clbits[0]])
        elif name == "barrier":
            circuit.barrier(list(qubits))
        elif name == "delay":
            circuit.delay(angles[0], qubits[0], unit="s")
        elif gates is not None and name in gates:
            circuit.append(gates[name](*angles), list(qubits))
        elif name in known:
            circuit.append(known[name].base_class(*angles), list(qubits))
        else:
            raise PayloadRejected(f"gate {name!r} is not among those of this device")
    return circuit


def counts_of(
    backend: Any, pub: FlatPub, point: int, gates: Mapping[str, Any] | None = None
) -> Mapping[str, int]:
    """Run one point on a vendor's Qiskit backend, and return counts over all classical bits.

    Not with Qiskit's ``BackendSamplerV2``, which returns wrong counts for IQM's backends.
    """
    steps = list(bound_steps(pub, point))
    circuit = qiskit_circuit(pub.num_qubits, steps, gates)
    counts = backend.run(circuit, shots=pub.shots).result().get_counts()
    return spread(counts, written_bits(steps), pub.num_clbits)
