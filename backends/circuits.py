"""A circuit that no longer changes: its QPY bytes and a digest of its content."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

from qiskit import QuantumCircuit, qpy

from backends.api import PayloadRejected
from backends.fingerprint import circuit_digest

__all__ = ["FrozenCircuit", "load_qpy"]

_NAME = "circuit"


def load_qpy(data: bytes) -> QuantumCircuit:
    """Read exactly one circuit from QPY bytes. Raises `PayloadRejected` if it cannot."""
    try:
        circuits = qpy.load(io.BytesIO(data))
    except Exception as error:  # qpy raises many kinds on damaged input
        raise PayloadRejected(f"not readable as QPY: {error}") from error
    if len(circuits) != 1:
        raise PayloadRejected(f"expected one circuit in the QPY data, found {len(circuits)}")
    circuit: QuantumCircuit = circuits[0]
    return circuit


@dataclass(frozen=True, eq=False)
class FrozenCircuit:
    """A private copy of a circuit; nobody else holds it, so its digest stays true.

    Two circuits have equal digests if they have the same registers, instructions and
    parameter names, whatever the circuits are called, whatever their metadata, and
    whenever their parameters were made (Qiskit gives each parameter a random uuid).
    """

    circuit: QuantumCircuit

    @classmethod
    def of(cls, circuit: QuantumCircuit) -> FrozenCircuit:
        """Copy a circuit, dropping its name and metadata, which do not affect results."""
        private = circuit.copy(name=_NAME)
        private.metadata = {}
        return cls(private)

    @classmethod
    def from_qpy(cls, data: bytes) -> FrozenCircuit:
        """Read from `qpy` bytes. Raises `PayloadRejected` if they hold no circuit."""
        return cls.of(load_qpy(data))

    @cached_property
    def qpy(self) -> bytes:
        """The circuit in Qiskit's binary format."""
        buffer = io.BytesIO()
        qpy.dump(self.circuit, buffer)
        return buffer.getvalue()

    @cached_property
    def digest(self) -> str:
        """Hex digest of the circuit's content (see `circuit_digest`), equal in every process."""
        return circuit_digest(self.circuit)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the free parameters in Qiskit's order, the columns of a values array."""
        return tuple(p.name for p in self.circuit.parameters)
