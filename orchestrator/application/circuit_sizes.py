"""Sizes that a program in OpenQASM declares, checked before a parser believes them."""

from __future__ import annotations

import re

from backends.qpy_outline import MOST_BITS

__all__ = ["SizeRefused", "check_indices", "check_registers"]

_IGNORED = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_NUMBER = r"(?:0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|\d[\d_]*)"
_REGISTER = re.compile(
    rf"\b(?:[qc]reg\s+\w+|qubit|bit)\s*\[\s*({_NUMBER})\s*\]"  # OpenQASM 2, and 3
)
_INDEX = re.compile(r"\[\s*(\d+)\s*\]|\bOPENQASM\s+(\d+)")
_BASES = {"0x": 16, "0o": 8, "0b": 2}
_LONGEST = 20  # digits; Python itself refuses to read some thousands


class SizeRefused(ValueError):
    """A number is larger than any circuit needs; the message begins with line and column."""


def check_registers(text: str) -> None:
    """Refuse registers that have, one or together, more bits than any circuit needs.

    Qiskit allocates what is declared: gigabytes for one line. Raises `SizeRefused`.
    """
    program, total = _program(text), 0
    for register in _REGISTER.finditer(program):
        total += _value(register[1])
        if total > MOST_BITS:
            raise SizeRefused(
                f"{_place(program, register.start(1))} registers of more than {MOST_BITS} qubits "
                "and bits together; declare only those that are used"
            )


def check_indices(text: str) -> None:
    """Refuse an index, or a version, that does not fit into a machine word.

    Qiskit's parser of OpenQASM 2 panics at one. Raises `SizeRefused`.
    """
    program = _program(text)
    for index in _INDEX.finditer(program):
        number = index[1] or index[2]
        if _value(number) > MOST_BITS:
            place = _place(program, index.start(index.lastindex or 0))
            told = number if len(number) <= _LONGEST else f"a number of {len(number)} digits"
            raise SizeRefused(f"{place} {told} is out of range; expected at most {MOST_BITS}")


def _program(text: str) -> str:
    """Blank comments and strings, so that places stay."""
    return _IGNORED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _value(number: str) -> int:
    digits = number.replace("_", "").lower()
    if digits[:2] in _BASES:
        return int(digits, _BASES[digits[:2]])
    return int(digits) if len(digits) <= _LONGEST else MOST_BITS + 1


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"line {line}, column {position - text.rfind(chr(10), 0, position)}:"
