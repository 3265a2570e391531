"""The outline of a QPY file from a stranger: what Qiskit would build, told before it builds it.

Qiskit's loader allocates what a file states (a register of four thousand million bits takes
thirty bytes to state) and calls any class of its library by name. So the file is walked first.
Layout: https://quantum.cloud.ibm.com/docs/api/qiskit/qpy, versions 17 and 18, which are what
Qiskit 2.4 and newer write.
"""

from __future__ import annotations

import inspect
import struct
import sys
from dataclasses import dataclass, field
from functools import lru_cache

from backends.errors import PayloadRejected

__all__ = ["MOST_BITS", "Bounds", "check_qpy", "put_in_order"]

# Qubits, and classical bits, of one circuit. No QPU or simulator takes as many; a file that
# says it has more is damaged or a mistake, and reading it would take all memory.
MOST_BITS = 100_000

_VERSIONS = (17, 18)
_FILE = struct.Struct("!6sB3sQcc")
_CIRCUIT = struct.Struct("!HcHIIQIQI")
_REGISTER = {17: struct.Struct("!c?IH?"), 18: struct.Struct("!c?IH?B")}
_VARIABLE = struct.Struct("!16scH")
_VECTOR = struct.Struct("!HQ16s")
_VECTOR_ELEMENT = struct.Struct("!HQ16sQ")  # version 17 states the vector's size in each
_CUSTOM = struct.Struct("!HcII?QIIQ")
_STEP = struct.Struct("!HHHIIBHqII")
_TYPED = struct.Struct("!cQ")
_SYMBOL = struct.Struct("!ccQ")
_MODIFIER = struct.Struct("!cIId")
_RANGE = struct.Struct("!qqq")
_LONG, _INT, _SHORT = struct.Struct("!Q"), struct.Struct("!I"), struct.Struct("!H")
_WIRE_BYTES = 5
_EXPRESSION, _ANNOTATED = 2, 0x80
# Their constructors work through what they are given, at whatever length.
_EAGER = frozenset(
    {
        "BitFlipOracleGate",
        "LinearAmplitudeFunctionGate",
        "PhaseOracleGate",
        "PiecewiseChebyshevGate",
        "WeightedSumGate",
    }
)
_MOST_CONTROLS = 4096
_MOST_POWER = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one circuit may hold.

    file_bytes: Qiskit reads a circuit in one go, during which a process does nothing else, 5 ms per
    megabyte. steps: instructions; those of definitions and loops count as often as they occur, as
    nested gates would otherwise grow without bound. depth: of nested circuits. expression_bytes: of
    one parameter expression, 35 per operation; Qiskit's time grows with the square, its stack with
    the depth.
    """

    file_bytes: int = 8 << 20
    bits: int = MOST_BITS
    steps: int = 500_000
    depth: int = 16
    vector: int = 20_000
    expression_bytes: int = 20_000


_UNBOUNDED = Bounds(bits=sys.maxsize, steps=sys.maxsize, depth=sys.maxsize, vector=sys.maxsize)


def check_qpy(data: bytes, bounds: Bounds) -> None:
    """Raise `PayloadRejected` for a file that Qiskit should not be asked to load."""
    try:
        if len(data) > bounds.file_bytes:
            raise PayloadRejected(
                f"a circuit of {len(data)} bytes as QPY; at most {bounds.file_bytes} are read, "
                "which are some 130 000 gates"
            )
        magic, version, _, programs, _, kind = _FILE.unpack_from(data)
        if magic != b"QISKIT" or kind != b"q" or programs != 1:
            raise PayloadRejected("not readable as QPY: it is no file with one circuit")
        if version not in _VERSIONS:
            raise PayloadRejected(
                f"QPY of version {version} is not taken; write versions {_VERSIONS[0]} to "
                f"{_VERSIONS[-1]} (Qiskit 2.4 or newer)"
            )
        (start,) = _LONG.unpack_from(data, _FILE.size)
        if start != _FILE.size + _LONG.size:
            raise PayloadRejected("not readable as QPY: its circuit does not follow its head")
        _Walk(data=data, version=version, bounds=bounds).circuit(start, bounds.depth)
    except (struct.error, UnicodeDecodeError) as error:
        raise PayloadRejected(f"not readable as QPY: {error}") from error


def put_in_order(data: bytes) -> bytes:
    """Sort what Qiskit's writer takes out of hash maps: gate definitions and expression symbols."""
    walk = _Walk(data=data, version=data[6], bounds=_UNBOUNDED, any_name=True)
    walk.circuit(_FILE.size + _LONG.size, sys.maxsize)
    ordered = bytearray(data)
    for spans in walk.unordered:  # those inside others come first
        pieces = sorted(bytes(ordered[start:end]) for start, end in spans)
        ordered[spans[0][0] : spans[-1][1]] = b"".join(pieces)
    return bytes(ordered)


@lru_cache(maxsize=1)
def _known() -> frozenset[bytes]:
    """Names of the operations that Qiskit's loader may look up."""
    from qiskit import circuit
    from qiskit.circuit import Operation, controlflow, library

    return frozenset(
        name.encode()
        for module in (library, circuit, controlflow)
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, Operation) and name not in _EAGER
    )


@dataclass(slots=True)
class _Walk:
    """A walk through one file; methods take a position and return where they ended.

    weight: steps of the last circuit, value or instruction. unordered: bounds of what has no order.
    any_name: whether instructions may have names that Qiskit does not know.
    """

    data: bytes
    version: int
    bounds: Bounds
    weight: int = 0
    stated: int = 0
    expressions: int = 0
    vectors: dict[bytes, int] = field(default_factory=dict)
    any_name: bool = False
    unordered: list[list[tuple[int, int]]] = field(default_factory=list)

    def circuit(self, at: int, depth: int) -> int:
        """Walk through a circuit, with those inside it, up to its last instruction."""
        if depth < 0:
            raise PayloadRejected(f"circuits lie more than {self.bounds.depth} deep in each other")
        name, phase_kind, phase, qubits, clbits, metadata, registers, steps, variables = (
            _CIRCUIT.unpack_from(self.data, at)
        )
        self._bits(max(qubits, clbits))
        at = self._ahead(at + _CIRCUIT.size, name)
        self._value(phase_kind, at, phase, depth)
        at = self._ahead(at, phase + metadata)
        at = self._registers(at, registers)
        at = self._variables(at, variables)
        (namespaces,) = _INT.unpack_from(self.data, at)
        if namespaces:
            raise PayloadRejected("annotations of circuits are not taken; remove them")
        at += _INT.size
        if self.version >= 18:
            at = self._vector_table(at)
        at, custom = self._custom(at, depth)
        weight = steps
        for _ in range(self._few(steps)):
            at = self._step(at, custom, depth, wires=True)
            weight = self._few(weight + self.weight)
        self.weight = weight
        return at

    def _registers(self, at: int, count: int) -> int:
        layout, total = _REGISTER[self.version], 0
        for _ in range(count):
            _, _, size, name, _, *attached = layout.unpack_from(self.data, at)
            total += size
            self._bits(total)
            width = 8 if self.version < 18 else 4
            indices = 1 if attached == [1] else size
            at = self._ahead(at + layout.size, name + width * indices)
        return at

    def _variables(self, at: int, count: int) -> int:
        for _ in range(count):
            _, _, name = _VARIABLE.unpack_from(self.data, at)
            at += _VARIABLE.size
            at += 1 + (_INT.size if self.data[at : at + 1] == b"u" else 0)
            at = self._ahead(at, name)
        return at

    def _vector_table(self, at: int) -> int:
        (count,) = _SHORT.unpack_from(self.data, at)
        at += _SHORT.size
        for _ in range(count):
            name, size, _ = _VECTOR.unpack_from(self.data, at)
            self._vector(at.to_bytes(8, "big"), size)
            at = self._ahead(at + _VECTOR.size, name)
        return at

    def _custom(self, at: int, depth: int) -> tuple[int, dict[bytes, int]]:
        """Walk through the definitions of gates; return the end and what each gate weighs."""
        (count,) = _LONG.unpack_from(self.data, at)
        at += _LONG.size
        found: dict[bytes, int] = {}
        inner: list[tuple[bytes, int]] = []  # what a gate controls may be defined after it
        spans: list[tuple[int, int]] = []
        for _ in range(count):
            begin = at
            head = _CUSTOM.unpack_from(self.data, at)
            length, _, qubits, clbits, is_defined, size, controls, _, inside = head
            self._bits(max(qubits, clbits))
            self._controls(controls)
            at += _CUSTOM.size
            end = self._ahead(at, length)
            name = self.data[at:end]
            found[name], at = 0, end
            if is_defined:
                if not name.startswith(b"###PauliEvolutionGate_"):
                    self.circuit(at, depth - 1)
                    found[name] = self.weight
                at = self._ahead(at, size)
            if inside:
                inner.append((name, at))
            at = self._ahead(at, inside)
            spans.append((begin, at))
        for name, start in inner:
            self._step(start, found, depth, wires=False)
            found[name] = self._few(found[name] + self.weight)
        self._no_order(spans)
        return at, found

    def _step(self, at: int, custom: dict[bytes, int], depth: int, *, wires: bool) -> int:
        length, label, params, qubits, clbits, extras, condition, _, controls, _ = (
            _STEP.unpack_from(self.data, at)
        )
        at += _STEP.size
        name = self.data[at : at + length]
        if not self.any_name and name not in custom and name not in _known():
            shown = name[:60].decode(errors="replace")
            raise PayloadRejected(f"instruction {shown!r} is not taken; decompose it first")
        if extras & _ANNOTATED:
            raise PayloadRejected("annotations of instructions are not taken; remove them")
        self._controls(controls)
        at = self._ahead(at, length + label + condition)
        if extras & 3 == _EXPRESSION:
            at = self._typed(at, depth)
        if wires:
            at = self._ahead(at, _WIRE_BYTES * (qubits + clbits))
        weight, times = custom.get(name, 0), 1
        for _ in range(params):
            if self.data[at : at + 1] == b"r":
                times = len(range(*_RANGE.unpack_from(self.data, at + _TYPED.size)))
            at = self._typed(at, depth, large=name == b"Delay")
            weight = self._few(weight + times * self.weight)
        self.weight = weight
        return at

    def _typed(self, at: int, depth: int, *, large: bool = False) -> int:
        kind, size = _TYPED.unpack_from(self.data, at)
        at += _TYPED.size
        end = self._ahead(at, size)
        self._value(kind, at, size, depth, large=large)
        return end

    def _value(self, kind: bytes, at: int, size: int, depth: int, *, large: bool = False) -> None:
        """Look into a value where it can state more than it holds."""
        self.weight = 0
        if kind == b"q":
            self.circuit(at, depth - 1)
        elif kind == b"t":
            self._values(at, depth - 1)
        elif kind == b"n" and self.data[at : at + 6] != b"\x93NUMPY":
            raise PayloadRejected("an array in a circuit is not in NumPy's format")
        elif kind == b"m":
            self._modifier(at)
        elif kind == b"i" and not large:
            self._number(self.data[at : at + size])
        elif kind == b"v" and self.version < 18:
            self._vector_element(at)
        elif kind == b"e":
            self._expression(at, depth)

    def _values(self, at: int, depth: int) -> None:
        if depth < 0:
            raise PayloadRejected("values lie too deep in each other")
        (count,) = _LONG.unpack_from(self.data, at)
        at += _LONG.size
        weight = 0
        for _ in range(count):
            at = self._typed(at, depth)
            weight = self._few(weight + self.weight)
        self.weight = weight

    def _modifier(self, at: int) -> None:
        _, controls, _, power = _MODIFIER.unpack_from(self.data, at)
        self._controls(controls)
        if not abs(power) <= _MOST_POWER:
            raise PayloadRejected(f"a gate to the power {power}; at most {_MOST_POWER:g}")

    def _vector_element(self, at: int) -> int:
        name, size, uuid, _ = _VECTOR_ELEMENT.unpack_from(self.data, at)
        start = at + _VECTOR_ELEMENT.size
        self._vector(self.data[start : start + name] or uuid, size)
        return self._ahead(start, name)

    def _expression(self, at: int, depth: int) -> None:
        symbols, size = _LONG.unpack_from(self.data, at)[0], _LONG.unpack_from(self.data, at + 8)[0]
        most = self.bounds.expression_bytes
        self.expressions += size * size
        if self.expressions > 2 * most * most:
            raise PayloadRejected(
                f"parameter expressions of more than {most // 35} operations are not taken, nor very "
                "many long ones; bind parameters, or compute their sums before"
            )
        at = self._ahead(at + 16, size)
        spans: list[tuple[int, int]] = []
        for _ in range(symbols):
            begin = at
            symbol, kind, length = _SYMBOL.unpack_from(self.data, at)
            at += _SYMBOL.size
            if symbol == b"v" and self.version < 18:
                at = self._vector_element(at)
            elif symbol == b"v":
                at = self._ahead(at, _SHORT.size + _LONG.size)
            else:
                name, _ = struct.unpack_from("!H16s", self.data, at)
                at = self._ahead(at, 18 + name)
            if kind == b"e" and depth < 1:
                raise PayloadRejected("expressions lie too deep in each other")
            at = self._ahead(at, length)
            spans.append((begin, at))
        self._no_order(spans)

    def _no_order(self, spans: list[tuple[int, int]]) -> None:
        if len(spans) > 1:
            self.unordered.append(spans)

    def _number(self, data: bytes) -> None:
        order = "big" if self.version >= 18 else "little"
        value = int.from_bytes(data, order, signed=True)  # type: ignore[arg-type]
        if abs(value) > self.bounds.vector:
            raise PayloadRejected(f"an instruction is given the number {value}, too large a one")

    def _vector(self, name: bytes, size: int) -> None:
        self.stated += size - self.vectors.get(name, 0)
        self.vectors[name] = size
        if self.stated > self.bounds.vector:
            raise PayloadRejected(
                f"vectors of more than {self.bounds.vector} parameters are not taken"
            )

    def _bits(self, count: int) -> None:
        if count > self.bounds.bits:
            raise PayloadRejected(
                f"a circuit states {count} qubits or bits; at most {self.bounds.bits} are read"
            )

    def _few(self, steps: int) -> int:
        if steps > self.bounds.steps:
            raise PayloadRejected(
                f"a circuit has more than {self.bounds.steps} instructions, those inside its "
                "gates and loops counted as often as they occur"
            )
        return steps

    def _controls(self, count: int) -> None:
        if count > _MOST_CONTROLS:
            raise PayloadRejected(f"a gate with {count} controls; at most {_MOST_CONTROLS}")

    def _ahead(self, at: int, count: int) -> int:
        if at + count > len(self.data):
            raise PayloadRejected("not readable as QPY: it is cut short or damaged")
        return at + count
