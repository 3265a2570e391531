"""What can be wrong with what the user gave, said with file, line and remedy."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.text_files import TextFileError, lines_of, read_text

__all__ = [
    "InputError",
    "MissingExtra",
    "SourceLine",
    "check_whole",
    "is_whole",
    "read_lines",
    "require_extra",
]

# Stricter than Python's own: no underscores, no digits of other scripts.
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?", re.ASCII)
_MOST_DIGITS = 18
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


class InputError(ValueError):
    """Input of a flow that cannot be used; the message says what was given and expected."""


class MissingExtra(InputError):
    """An optional part of the installation is missing; the message says how to install it."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Line ``number`` (from 1) of the file ``path``, which can say what is wrong with it."""

    path: Path
    number: int
    text: str

    def error(self, expected: str) -> InputError:
        """Return the error for this line; ``expected`` ends the sentence 'expected …'."""
        shown = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        found = repr(shown) if self.text.strip() else "an empty line"
        return InputError(f"{self.path}, line {self.number}: {found}; expected {expected}")

    def real(self, word: str, expected: str) -> float:
        """Read a finite real number, also with Fortran's D exponent, or raise `error`."""
        if word.lower().lstrip("+-") in ("nan", "inf", "infinity"):
            raise self.error(f"{expected}; {word} is not finite")
        if not _REAL.fullmatch(word):
            raise self.error(expected)
        value = float(word.upper().replace("D", "E"))
        if not math.isfinite(value):
            raise self.error(f"{expected}; {word} is not finite")
        return value

    def whole(self, word: str, expected: str) -> int:
        """Read a whole number or raise `error`."""
        if not is_whole(word) or len(word) > _MOST_DIGITS:
            raise self.error(expected)
        return int(word)


def is_whole(word: str) -> bool:
    """Whether a word is a whole number, with or without a sign."""
    return _WHOLE.fullmatch(word) is not None


def read_lines(path: str | Path) -> list[SourceLine]:
    """Read a text file, perhaps gzipped; raise `InputError` if it is not readable text."""
    file = Path(path)
    try:
        text = read_text(file)
    except TextFileError as error:
        raise InputError(str(error)) from None
    if not text.strip():
        raise InputError(f"{file}: the file is empty")
    return [SourceLine(file, number, line) for number, line in enumerate(lines_of(text), 1)]


def require_extra(extra: str, modules: Iterable[str]) -> None:
    """Raise `MissingExtra` unless every top-level module is installed. Imports nothing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{', '.join(missing)} not installed; this flow needs the {extra!r} extra: "
            f'pip install "hpcqc[{extra}]"'
        )


def check_whole(given: Mapping[str, Any], bounds: Mapping[str, tuple[int, int]]) -> None:
    """Raise `InputError` for a parameter outside of its bounds, both included; None passes."""
    for name, (least, most) in bounds.items():
        value = given[name]
        if value is not None and not least <= value <= most:
            raise InputError(f"{name} {value}: expected a whole number from {least} to {most}")
