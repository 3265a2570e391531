"""Circuits from files: OpenQASM 2 and 3, and QPY."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from backends.api import PayloadRejected
from backends.canonical import free_name, with_registers
from backends.circuits import is_panic, load_qpy
from backends.qpy_outline import MOST_BITS
from orchestrator.text_files import TextFileError, decoded, lines_of, read_bytes, read_text

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["CircuitFileError", "read_circuit"]

_VERSION = re.compile(r"^\s*OPENQASM\s+(\d+)", re.MULTILINE)
_COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_COMMENT_OR_TEXT = re.compile(r'"[^"\n]*"|' + _COMMENTS.pattern, re.DOTALL)
_INCLUDE = re.compile(r"""\binclude\s*(?:"([^"]*)"|'([^']*)')\s*;""")
_MOST_INCLUDES = 100
_BIT = re.compile(r"\b(?:bit\s+|creg\s+(?=\w+\s*;))(\w+)")
_DEFINITION = re.compile(r"\bgate\s+(\w+)")
_QPY_MAGIC = b"QISKIT"
_IGNORED = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_NUMBER = r"(?:0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|\d[\d_]*)"
_REGISTER = re.compile(
    rf"\b(?:[qc]reg\s+\w+|qubit|bit)\s*\[\s*({_NUMBER})\s*\]"  # OpenQASM 2, and 3
)
_INDEX = re.compile(r"\[\s*(\d+)\s*\]|\bOPENQASM\s+(\d+)")
_BASES = {"0x": 16, "0o": 8, "0b": 2}
_LONGEST = 20  # digits; Python itself refuses to read some thousands


class CircuitFileError(ValueError):
    """The file holds no circuit that can be read; the message says where and why."""


def read_circuit(path: Path) -> QuantumCircuit:
    """Read a circuit of any format, found by its content, or raise `CircuitFileError`."""
    try:
        data = read_bytes(path)
    except TextFileError as error:
        raise CircuitFileError(str(error)) from None
    if data.startswith(_QPY_MAGIC) or path.suffix == ".qpy":
        try:
            circuit = with_registers(load_qpy(data))
        except PayloadRejected as error:
            raise CircuitFileError(f"{path}: {error}") from error
    else:
        circuit = _read_text(data, path)
    for step in circuit.data:
        if any(isinstance(angle, float) and not math.isfinite(angle) for angle in step.params):
            raise CircuitFileError(
                f"{path}: gate {step.name!r} has the parameters "
                f"({', '.join(map(str, step.params))}); expected finite numbers"
            )
    return circuit


def _read_text(data: bytes, path: Path) -> QuantumCircuit:
    try:
        # Comments of older collections are in Latin-1; programs are ASCII everywhere.
        text = "\n".join(lines_of(decoded(data, path, fallback="latin-1")))
    except TextFileError as error:
        raise CircuitFileError(f"{path} is neither OpenQASM text nor QPY: {error}") from None
    if not text.strip():
        raise CircuitFileError(f"{path} is neither OpenQASM text nor QPY: it is empty")
    stated = _VERSION.search(_COMMENTS.sub("", text))
    if stated and stated[1] == "3":
        return _read_qasm3(text, path)
    return _read_qasm2(text, path)


def _read_qasm2(text: str, path: Path) -> QuantumCircuit:
    from qiskit import qasm2

    whole = _with_includes(text, path, "qelib1.inc")
    try:
        _check_registers(whole)
        _check_indices(whole)
        defined = set(_DEFINITION.findall(_COMMENTS.sub("", whole)))
        return qasm2.loads(
            whole,
            include_path=(),
            # The gates that Qiskit's own older exporter and most collections take for granted.
            # One that the program defines itself is what the program says.
            custom_instructions=[
                gate for gate in qasm2.LEGACY_CUSTOM_INSTRUCTIONS if gate.name not in defined
            ],
            custom_classical=qasm2.LEGACY_CUSTOM_CLASSICAL,
        )
    except (qasm2.QASM2ParseError, _SizeRefused) as error:
        raise CircuitFileError(
            f"{path} cannot be read as OpenQASM 2: {_plain(str(error))}"
        ) from None
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise CircuitFileError(
            f"{path} cannot be read as OpenQASM 2: Qiskit's parser gave up on it "
            f"({type(error).__name__}: {error})"
        ) from None


def _with_includes(text: str, path: Path, built_in: str) -> str:
    """Replace each ``include`` by its file, on one line, so that lines keep their numbers.

    Only files in the circuit's folder or below are read: a circuit from elsewhere must not read
    what its user may. ``built_in`` is left to Qiskit, whose parser fails on an included file that
    ends with a gate definition. Raises `CircuitFileError`.
    """
    folder = path.expanduser().parent.resolve()
    count = 0

    def expanded(text: str, file: Path, within: tuple[Path, ...]) -> str:
        plain = _COMMENT_OR_TEXT.sub(_blanked, text)

        def content(found: re.Match[str]) -> str:
            nonlocal count
            name = found[found.lastindex or 1]
            if name == built_in:
                return found[0]
            at = found.start(found.lastindex or 1) - 1
            column = at - plain.rfind("\n", 0, at)
            line = plain.count("\n", 0, at) + 1
            place = f"{file}, line {line}, column {column}: include {name!r}"
            count += 1
            if count > _MOST_INCLUDES:
                raise CircuitFileError(f"{place}: more than {_MOST_INCLUDES} files are included")
            target = _beside(folder, name, place)
            if target in within:
                raise CircuitFileError(f"{place}: the file includes itself")
            try:
                inner = read_text(target, fallback="latin-1")
            except TextFileError as error:
                raise CircuitFileError(f"{place}: {error}") from None
            return " ".join(expanded(inner, target, (*within, target)).split())

        return _INCLUDE.sub(content, plain)

    return expanded(text, path, (path.expanduser().resolve(),))


def _beside(folder: Path, name: str, place: str) -> Path:
    """Return the included file. Raises `CircuitFileError` unless it is within the folder."""
    try:
        target = (folder / name).resolve()
        is_inside = target.is_relative_to(folder) and ".." not in Path(name).parts
        is_file = is_inside and not Path(name).is_absolute() and target.is_file()
    except (OSError, RuntimeError, ValueError):  # too long a name, a loop of links, a NUL
        is_inside = is_file = False
    if not is_inside or Path(name).is_absolute():
        raise CircuitFileError(
            f"{place}: a circuit includes files from its own folder only; copy the file there and "
            "include it by its name"
        )
    if not is_file:
        raise CircuitFileError(f"{place}: no such file in {folder}")
    return target


def _blanked(found: re.Match[str]) -> str:
    """Replace a comment by blanks, so that places in the text stay; leave quoted text."""
    return found[0] if found[0].startswith('"') else re.sub(r"[^\n]", " ", found[0])


def _read_qasm3(text: str, path: Path) -> QuantumCircuit:
    from qiskit import qasm3

    whole = _with_includes(text, path, "stdgates.inc")
    try:
        _check_registers(whole)
        return _named_bits(qasm3.loads(whole), whole)
    except Exception as error:  # noqa: BLE001 - the importer lets errors of many kinds through
        told = _plain(str(error)) or _syntax_fault(error)
        raise CircuitFileError(f"{path} cannot be read as OpenQASM 3: {told}") from None


def _named_bits(circuit: QuantumCircuit, program: str) -> QuantumCircuit:
    """Give each bit that is declared alone, as in ``bit flag;``, a register of its name."""
    from qiskit.circuit import ClassicalRegister

    loose = [bit for bit in circuit.clbits if not circuit.find_bit(bit).registers]
    # The importer adds bits in the order of their declarations, which are all global.
    for bit, name in zip(loose, _BIT.findall(_COMMENTS.sub("", program)), strict=True):
        circuit.add_register(ClassicalRegister(bits=[bit], name=free_name(circuit, name)))
    return circuit


def _syntax_fault(error: BaseException) -> str:
    """Find the token the parser stopped at; its own error comes without a message."""
    causes: list[object] = [error]
    for cause in causes:  # grows while it is read; the chain is short and has no cycles
        token = getattr(cause, "offendingToken", None)
        if token is not None:
            return f"line {token.line}, column {token.column + 1}: unexpected {token.text!r}"
        if isinstance(cause, BaseException):
            causes += [*cause.args, *([cause.__cause__] if cause.__cause__ else [])]
    return type(error).__name__


def _plain(message: str) -> str:
    """Write places as line and column, both counted from 1."""

    def place(found: re.Match[str]) -> str:
        return f"line {found[1]}, column {int(found[2]) + 1}:"

    text = message.strip()
    if text[:1] == text[-1:] and text[:1] in ("'", '"'):
        text = text[1:-1]
    text = text.removeprefix("<input>:")
    return re.sub(r"^L?(\d+)[,:]C?(\d+):", place, text)


class _SizeRefused(ValueError):
    """A number is larger than any circuit needs; the message begins with line and column."""


def _check_registers(text: str) -> None:
    """Refuse more bits than any circuit needs: Qiskit allocates gigabytes for one line."""
    program, total = _program(text), 0
    for register in _REGISTER.finditer(program):
        total += _value(register[1])
        if total > MOST_BITS:
            raise _SizeRefused(
                f"{_position(program, register.start(1))} registers of more than {MOST_BITS} qubits "
                "and bits together; declare only those that are used"
            )


def _check_indices(text: str) -> None:
    """Refuse numbers beyond a machine word, at which Qiskit's OpenQASM 2 parser panics."""
    program = _program(text)
    for index in _INDEX.finditer(program):
        number = index[1] or index[2]
        if _value(number) > MOST_BITS:
            place = _position(program, index.start(index.lastindex or 0))
            told = number if len(number) <= _LONGEST else f"a number of {len(number)} digits"
            raise _SizeRefused(f"{place} {told} is out of range; expected at most {MOST_BITS}")


def _program(text: str) -> str:
    """Blank comments and strings, so that places stay."""
    return _IGNORED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _value(number: str) -> int:
    digits = number.replace("_", "").lower()
    if digits[:2] in _BASES:
        return int(digits, _BASES[digits[:2]])
    return int(digits) if len(digits) <= _LONGEST else MOST_BITS + 1


def _position(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"line {line}, column {position - text.rfind(chr(10), 0, position)}:"
