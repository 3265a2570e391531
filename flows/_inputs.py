"""What can be wrong with what the user gave, said with file, line and remedy."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["InputError", "MissingExtra", "SourceLine", "read_lines", "require_extra"]


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
        try:
            value = float(word.replace("D", "E").replace("d", "e"))
        except ValueError:
            raise self.error(expected) from None
        if not math.isfinite(value):
            raise self.error(f"{expected}; {word} is not finite")
        return value

    def whole(self, word: str, expected: str) -> int:
        """Read a whole number or raise `error`."""
        try:
            return int(word)
        except ValueError:
            raise self.error(expected) from None


def read_lines(path: str | Path) -> list[SourceLine]:
    """Read a UTF-8 text file. Raises `InputError` if it is missing, unreadable or empty."""
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; give the path of an existing one") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {error.start} is not UTF-8 text; expected a text file"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None
    if not text.strip():
        raise InputError(f"{file}: the file is empty")
    return [SourceLine(file, number, line) for number, line in enumerate(text.splitlines(), 1)]


def require_extra(extra: str, modules: Iterable[str]) -> None:
    """Raise `MissingExtra` unless every top-level module is installed. Imports nothing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{', '.join(missing)} not installed; this flow needs the {extra!r} extra: "
            f'pip install "hpcqc[{extra}]"'
        )
