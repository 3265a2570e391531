"""Suggestions for names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]

_LEAST_LIKENESS = 0.5


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the most alike known name, nothing if none is alike.

    >>> did_you_mean("wieghted", ["fifo", "weighted"]), did_you_mean("x", ["fifo"])
    ("; did you mean 'weighted'?", '')
    """
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=_LEAST_LIKENESS)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
