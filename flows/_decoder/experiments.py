"""A memory experiment: what its detectors saw, what happened to its observable, and its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bits", "Experiment", "coordinates_of", "unpacked"]

Bits = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Experiment:
    """Shots of a memory experiment with one logical observable.

    packed: detection events, eight to a byte, least significant first (shots, ⌈detectors/8⌉).
    flips: of the observable (shots,). coordinates: of each detector; the last is its round.
    model: detector error model of the circuit, in Stim's format, for matching. model_for_even: one
    that may decode the shots 0, 2, …, fitted on others if on any; model_for_odd: likewise.
    published: predictions that came with the data, by decoder.
    """

    title: str
    code: str
    distance: int
    rounds: int
    detectors: int
    packed: NDArray[np.uint8]
    flips: Bits
    coordinates: NDArray[np.float64]
    model: str
    model_for_even: str
    model_for_odd: str
    published: Mapping[str, Bits] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def shots(self) -> int:
        """Number of shots."""
        return len(self.flips)

    @property
    def detection_share(self) -> float:
        """Mean share of detectors that report an event."""
        return float(np.bitwise_count(self.packed).sum() / (self.shots * self.detectors))


def unpacked(packed: NDArray[np.uint8], detectors: int) -> Bits:
    """Return one bool for each detector (shots, detectors)."""
    return np.unpackbits(packed, axis=1, count=detectors, bitorder="little").astype(bool)


def coordinates_of(found: Mapping[int, list[float]], detectors: int) -> NDArray[np.float64]:
    """Return detectors' coordinates as rows of equal length; those without any are at their index."""
    width = max((len(place) for place in found.values()), default=0)
    rows = np.zeros((detectors, max(width, 1)))
    for detector in range(detectors):
        place = found.get(detector, [])
        rows[detector, : len(place)] = place
        if not place:
            rows[detector, 0] = detector
    return rows
