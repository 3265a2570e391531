"""Circuits from files: OpenQASM 2 and 3, and QPY."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from backends.api import PayloadRejected
from backends.circuits import is_panic, load_qpy
from orchestrator.cli.circuit_sizes import SizeRefused, check_indices, check_registers

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["CircuitFileError", "read_circuit"]

_VERSION = re.compile(r"^\s*OPENQASM\s+(\d+)", re.MULTILINE)
_COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_INCLUDE = re.compile(r'\binclude\s*"([^"]+)"\s*;')
_INCLUDE_DEPTH = 8
_DEFINITION = re.compile(r"\bgate\s+(\w+)")
_QPY_MAGIC = b"QISKIT"


class CircuitFileError(ValueError):
    """The file holds no circuit that can be read; the message says where and why."""


def read_circuit(path: Path) -> QuantumCircuit:
    """Read one circuit; what the file is shows in its content, not in its name.

    Raises `CircuitFileError` with line and column where the syntax is at fault.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CircuitFileError(f"cannot read {path}: {error.strerror}") from error
    if data.startswith(_QPY_MAGIC) or path.suffix == ".qpy":
        try:
            circuit = load_qpy(data)
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
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Comments of older collections are in Latin-1; programs are ASCII everywhere.
        text = data.decode("latin-1")
    if "\0" in text or not text.strip():
        raise CircuitFileError(f"{path} is neither OpenQASM text nor QPY")
    stated = _VERSION.search(_COMMENTS.sub("", text))
    if stated and stated[1] == "3":
        return _read_qasm3(text, path)
    return _read_qasm2(text, path)


def _read_qasm2(text: str, path: Path) -> QuantumCircuit:
    from qiskit import qasm2

    try:
        whole = _with_includes(text, path.parent)
        check_registers(whole)
        check_indices(whole)
        defined = set(_DEFINITION.findall(_COMMENTS.sub("", whole)))
        return qasm2.loads(
            whole,
            # The gates that Qiskit's own older exporter and most collections take for granted.
            # One that the program defines itself is what the program says.
            custom_instructions=[
                gate for gate in qasm2.LEGACY_CUSTOM_INSTRUCTIONS if gate.name not in defined
            ],
            custom_classical=qasm2.LEGACY_CUSTOM_CLASSICAL,
        )
    except (qasm2.QASM2ParseError, SizeRefused) as error:
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


def _with_includes(text: str, folder: Path, depth: int = _INCLUDE_DEPTH) -> str:
    """Put files that are included from beside the circuit in its text, each on one line.

    Qiskit's own parser stumbles over an included file that ends with a gate definition. Lines
    keep their numbers; ``qelib1.inc`` is left to Qiskit, which knows it.
    """

    def content(found: re.Match[str]) -> str:
        file = folder / found[1]
        if found[1] == "qelib1.inc" or depth == 0 or not file.is_file():
            return found[0]
        inner = _COMMENTS.sub("", file.read_text(encoding="utf-8", errors="replace"))
        return _with_includes(" ".join(inner.split()), folder, depth - 1)

    return _INCLUDE.sub(content, text)


def _read_qasm3(text: str, path: Path) -> QuantumCircuit:
    from qiskit import qasm3

    try:
        check_registers(text)
        return qasm3.loads(text)
    except Exception as error:  # noqa: BLE001 - the importer lets errors of many kinds through
        told = _plain(str(error)) or _syntax_fault(error)
        raise CircuitFileError(f"{path} cannot be read as OpenQASM 3: {told}") from None


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
