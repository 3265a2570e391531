"""A circuit that no longer changes: its QPY bytes and their digest."""

from __future__ import annotations

import gc
import hashlib
import io
import struct
import threading
from dataclasses import dataclass, field
from functools import cached_property

from qiskit import QuantumCircuit, qpy

from backends.canonical import canonical, canonical_qpy
from backends.delays import delays_as_numbers
from backends.errors import PayloadRejected
from backends.qpy_outline import MOST_BITS

__all__ = ["FrozenCircuit", "is_panic", "load_qpy"]

# QPY's headers (https://quantum.cloud.ibm.com/docs/api/qiskit/qpy): preface, version, Qiskit's
# version, number of programs; then, for each circuit, sizes of what follows.
_FILE_HEADER = struct.Struct("!6sB3sQ")
_CIRCUIT_HEADER = struct.Struct("!HcHIIQIQ")
_ENCODING_SINCE, _TABLE_SINCE = 10, 16


@dataclass(slots=True)
class _Unreclaimed:
    """Bytes of QPY read since the garbage collector last freed unused circuits.

    Circuits refer to themselves, and the collector counts objects, not their megabytes in Rust.
    """

    most: int
    read: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, size: int) -> None:
        """Count a file before it is read; collect garbage first if the sum exceeds the limit."""
        with self._lock:
            self.read += size
            due = self.read > self.most
            if due:
                self.read = size
        if due:
            gc.collect()


_unreclaimed = _Unreclaimed(16 << 20)


def load_qpy(data: bytes) -> QuantumCircuit:
    """Read exactly one circuit from QPY bytes. Raises `PayloadRejected` if it cannot."""
    _unreclaimed.add(len(data))
    try:
        _check_sizes(data)
        circuits = [delays_as_numbers(circuit) for circuit in qpy.load(io.BytesIO(data))]
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
    """Return whether an error is a panic of Qiskit's Rust code, which is not an ``Exception``."""
    return type(error).__name__ == "PanicException"


def _check_sizes(data: bytes) -> None:
    """Refuse sizes that no file of this length can have: Qiskit allocates before it reads."""
    magic, version, _, programs = _FILE_HEADER.unpack_from(data)
    if magic != b"QISKIT":
        raise PayloadRejected(
            "not readable as QPY: it does not start with QISKIT; write it with qiskit.qpy.dump"
        )
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
            f"not readable as QPY: it states {qubits} qubits and {clbits} bits; "
            f"at most {MOST_BITS} of each are read"
        )
    if name + phase + metadata + registers + instructions > len(data):
        raise PayloadRejected("not readable as QPY: it is cut short or damaged")


_MOST_LAYERS = 4096
_layers: dict[str, int] = {}  # by digest of the circuit


@dataclass(frozen=True, eq=False)
class FrozenCircuit:
    """A circuit in canonical form that nothing else references, so its digest stays valid.

    Equal circuits have equal QPY bytes and digests, whatever their names (see `canonical`).
    """

    circuit: QuantumCircuit

    @classmethod
    def of(cls, circuit: QuantumCircuit) -> FrozenCircuit:
        """Copy a circuit. Raises `PayloadRejected` for what cannot run anywhere."""
        return cls(canonical(circuit))

    @classmethod
    def from_qpy(cls, data: bytes) -> FrozenCircuit:
        """Read and keep bytes as they are. Raises `PayloadRejected` if they hold no circuit."""
        frozen = cls(load_qpy(data))
        frozen.__dict__["qpy"] = data
        return frozen

    @cached_property
    def qpy(self) -> bytes:
        """The circuit in Qiskit's binary format."""
        try:
            return canonical_qpy(self.circuit)
        except PayloadRejected:
            raise
        except BaseException as error:  # the writer raises many kinds, and panics
            if isinstance(error, Exception) or is_panic(error):
                raise PayloadRejected(f"the circuit cannot be written as QPY: {error}") from error
            raise

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `qpy`, in hex."""
        return hashlib.sha256(self.qpy).hexdigest()

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
        # A variational loop hands in one circuit over and over, and each time it is another object.
        depth = _layers.get(self.digest)
        if depth is None:
            if len(_layers) >= _MOST_LAYERS:
                _layers.clear()
            others = ("barrier", "measure", "reset", "delay")
            depth = self.circuit.depth(lambda step: step.name not in others)
            _layers[self.digest] = depth
        return depth

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the free parameters in Qiskit's order, the columns of a values array."""
        return tuple(p.name for p in self.circuit.parameters)
