"""A circuit that no longer changes: its QPY bytes and a digest of its content."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import cached_property

from qiskit import QuantumCircuit, qpy
from qiskit.circuit import CircuitInstruction

from backends.api import PayloadRejected
from backends.fingerprint import circuit_digest

__all__ = ["MOST_BITS", "FrozenCircuit", "is_panic", "load_qpy"]

# Qubits, and classical bits, of one circuit. No QPU or simulator takes as many; a file that
# says it has more is damaged or a mistake, and reading it would take all memory.
MOST_BITS = 100_000
_NAME = "circuit"
# QPY's headers (https://quantum.cloud.ibm.com/docs/api/qiskit/qpy): preface, version, Qiskit's
# version, number of programs; then, for each circuit, sizes of what follows.
_FILE_HEADER = struct.Struct("!6sB3sQ")
_CIRCUIT_HEADER = struct.Struct("!HcHIIQIQ")
_ENCODING_SINCE, _TABLE_SINCE = 10, 16


def load_qpy(data: bytes) -> QuantumCircuit:
    """Read exactly one circuit from QPY bytes. Raises `PayloadRejected` if it cannot."""
    try:
        _check_sizes(data)
        circuits = qpy.load(io.BytesIO(data))
    except PayloadRejected:
        raise
    except BaseException as error:  # qpy raises many kinds on damaged input
        if isinstance(error, Exception) or is_panic(error):
            raise PayloadRejected(f"not readable as QPY: {error}") from error
        raise
    if len(circuits) != 1:
        raise PayloadRejected(f"expected one circuit in the QPY data, found {len(circuits)}")
    circuit: QuantumCircuit = circuits[0]
    return circuit


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of Qiskit's Rust code, which is no ``Exception``."""
    return type(error).__name__ == "PanicException"


def _is_gate(instruction: CircuitInstruction) -> bool:
    return instruction.name not in ("barrier", "measure", "reset", "delay")


def _check_sizes(data: bytes) -> None:
    """Refuse sizes that no file of this length can have: Qiskit allocates before it reads."""
    magic, version, _, programs = _FILE_HEADER.unpack_from(data)
    if magic != b"QISKIT":
        raise PayloadRejected("not readable as QPY: it does not begin with QISKIT")
    if programs != 1:
        raise PayloadRejected(f"expected one circuit in the QPY data, found {programs}")
    if version < 5:  # before Qiskit 0.21: no type key, and another header
        return
    start = _FILE_HEADER.size + (version >= _ENCODING_SINCE) + 1
    if version >= _TABLE_SINCE:
        (start,) = struct.unpack_from("!Q", data, start)
    header = _CIRCUIT_HEADER.unpack_from(data, start)
    name, _, phase, qubits, clbits, metadata, registers, instructions = header
    if max(qubits, clbits) > MOST_BITS:
        raise PayloadRejected(
            f"not readable as QPY: it tells of {qubits} qubits and {clbits} bits; "
            f"at most {MOST_BITS} of each are read"
        )
    if name + phase + metadata + registers + instructions > len(data):
        raise PayloadRejected("not readable as QPY: it is cut short or damaged")


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

    @cached_property
    def active_qubits(self) -> int:
        """How many qubits any instruction but a barrier touches."""
        touched = set()
        for instruction in self.circuit.data:
            if instruction.name != "barrier":
                touched.update(instruction.qubits)
        return len(touched)

    @cached_property
    def layers(self) -> int:
        """Depth in layers of gates: measurements, resets, delays and barriers do not count."""
        depth: int = self.circuit.depth(_is_gate)
        return depth

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the free parameters in Qiskit's order, the columns of a values array."""
        return tuple(p.name for p in self.circuit.parameters)
