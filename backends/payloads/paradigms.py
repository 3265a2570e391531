"""Which paradigm of quantum computing a payload kind belongs to."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["GATE", "paradigms"]

GATE = "gate"
_OF_GATES = frozenset({"sampler", "estimator"})


def paradigms(kinds: Iterable[str]) -> frozenset[str]:
    """Return the paradigms of payload kinds; those without circuits of gates are one by themselves.

    >>> sorted(paradigms(["sampler", "estimator", "analog"]))
    ['analog', 'gate']
    """
    return frozenset(GATE if kind in _OF_GATES else kind for kind in kinds)
