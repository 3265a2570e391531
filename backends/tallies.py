"""Bit arrays of many shots as the number of times that each outcome came."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tally", "expand", "tally"]

_Bytes = NDArray[np.uint8]
# Smaller bit arrays stay as they are, in the order in which their shots were taken.
_LEAST_BYTES = 1 << 18
# A tally replaces bits only where it is smaller by this factor.
_GAIN = 4
_SAMPLE = 4096
_WORD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Outcomes, uint8 rows sorted within a point; shots of each row; number of rows per point."""

    outcomes: _Bytes
    numbers: NDArray[np.int64]
    rows: NDArray[np.int64]


def tally(bits: _Bytes) -> Tally | None:
    """Count outcomes of shape (points, shots, bytes); None where counts take hardly less space."""
    points, _, width = bits.shape
    if bits.nbytes < _LEAST_BYTES or not width:
        return None
    most = bits.nbytes // (_GAIN * (width + _WORD))
    outcomes, numbers, rows = [], [], []
    for point in bits:
        if len(_distinct(point[:_SAMPLE])[0]) > max(1, most // points, _SAMPLE // (2 * _GAIN)):
            return None
        found, times = _distinct(point)
        outcomes.append(found)
        numbers.append(times)
        rows.append(len(found))
        if sum(rows) > most:
            return None
    return Tally(
        outcomes=np.concatenate(outcomes),
        numbers=np.concatenate(numbers),
        rows=np.array(rows, dtype=np.int64),
    )


def expand(counts: Tally, shots: int) -> _Bytes:
    """Return bits of shape (points, shots, bytes), in an order drawn from the counts alone."""
    bits = np.empty((len(counts.rows), shots, counts.outcomes.shape[-1]), dtype=np.uint8)
    state = sha256(counts.outcomes.tobytes() + counts.numbers.tobytes()).digest()
    order = np.random.default_rng(int.from_bytes(state, "big"))
    first = 0
    for point, rows in enumerate(counts.rows.tolist()):
        numbers = counts.numbers[first : first + rows]
        if len(numbers) != rows or (numbers < 0).any() or int(numbers.sum()) != shots:
            raise ValueError(f"point {point} has other than {shots} shots")
        ranks = np.repeat(np.arange(rows, dtype=np.min_scalar_type(rows)), numbers)
        order.shuffle(ranks)
        bits[point] = counts.outcomes[first : first + rows][ranks]
        first += rows
    return bits


def _distinct(rows: _Bytes) -> tuple[_Bytes, NDArray[np.int64]]:
    """Return the different rows, sorted, and how often each comes."""
    width = rows.shape[-1]
    if width <= _WORD:
        words = np.zeros((len(rows), _WORD), dtype=np.uint8)
        words[:, _WORD - width :] = rows
        found, times = np.unique(words.view(">u8")[:, 0], return_counts=True)
        distinct: _Bytes = found.astype(">u8").view(np.uint8).reshape(-1, _WORD)
        return distinct[:, _WORD - width :], times
    distinct, times = np.unique(rows, axis=0, return_counts=True)
    return distinct, times
