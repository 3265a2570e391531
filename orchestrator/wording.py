"""Counts with their nouns, and text from elsewhere made safe to show."""

from __future__ import annotations

import json
import unicodedata

__all__ = [
    "counted",
    "size_text",
    "visible",
    "visible_json",
]


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, thousands separated.

    >>> counted(1, "job"), counted(0, "job"), counted(2500, "query", "queries")
    ('1 job', '0 jobs', '2,500 queries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size_text(size_bytes: int) -> str:
    """Return an amount of memory in GiB, or in MiB below one.

    >>> size_text(3 << 29), size_text(500 << 20), size_text(100)
    ('1.5 GiB', '500 MiB', '100 B')
    """
    for unit, bytes_each in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= bytes_each:
            return f"{size_bytes / bytes_each:.4g} {unit}"
    return f"{size_bytes} B"


def visible(text: str, *, lines: bool = True) -> str:
    r"""Return a text with every character that cannot be seen as an escape sequence.

    These are control characters (C0, C1, DEL), those that change the direction of writing, those
    without a width, half surrogate pairs and characters that no font has. Blanks stay. Newlines and
    tabs stay if ``lines`` is true; give False for a value within a line.

    >>> print(visible("job \x1b[31mred\u202e\n"), end="")
    job \x1b[31mred\u202e
    >>> print(visible("two\nlines", lines=False))
    two\nlines
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or _is_seen(c) else _escape(c) for c in text)


def visible_json(text: str) -> str:
    r"""Return a JSON document with the same characters as JSON's own escapes.

    >>> print(visible_json('"a\u202eb"'))
    "a\u202eb"
    """
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or _is_seen(c) else json.dumps(c)[1:-1] for c in text)


def _is_seen(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
