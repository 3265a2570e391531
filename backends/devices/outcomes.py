"""Outcomes over the measured bits, and over all classical bits of a circuit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backends.devices.api import BoundStep

__all__ = ["spread", "written_bits"]


def written_bits(steps: Iterable[BoundStep]) -> list[int]:
    """Return the classical bits that are measured, in order."""
    return sorted({clbits[0] for name, _, clbits, _ in steps if name == "measure"})


def spread(counts: Mapping[str, int], written: Sequence[int], width: int) -> dict[str, int]:
    """Put the measured bits, the first one last, where they belong; all others are 0.

    >>> spread({"10": 7}, [0, 2], 4)
    {'0100': 7}
    """
    if len(written) == width:
        return dict(counts)
    whole = {}
    for outcome, number in counts.items():
        bits = ["0"] * width
        for bit, value in zip(written, reversed(outcome), strict=True):
            bits[width - 1 - bit] = value
        whole["".join(bits)] = number
    return whole
