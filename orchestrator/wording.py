"""How numbers of things are written."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, thousands separated.

    >>> counted(1, "job"), counted(0, "job"), counted(2500, "query", "queries")
    ('1 job', '0 jobs', '2,500 queries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
