"""Who won: figures with error bars of the ways that a flow compares, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Comparison", "Figure", "Way", "Winner", "bootstrapped", "over_seeds"]

Winner = Literal["quantum", "classical", "neither"]

_RESAMPLES = 1000
# Two ways differ if their difference is more than this many of its standard errors.
_SIGNIFICANT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured figure. error: its standard error, 0 for an exact one."""

    value: float
    error: float

    def __str__(self) -> str:
        if not self.error:
            return f"{self.value:.4g}"
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to solve the task of a flow, with its figure."""

    name: str
    figure: Figure
    is_quantum: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Ways measured on the same data. measure: what the figures are, as in "accuracy"."""

    ways: Sequence[Way]
    measure: str
    higher_is_better: bool = True

    @property
    def winner(self) -> Winner:
        """The side with the best way, if the other side's best is significantly worse.

        The errors count as independent: shared data make the test stricter than it must be.
        """
        quantum, classical = self._best(is_quantum=True), self._best(is_quantum=False)
        lead = quantum.figure.value - classical.figure.value
        if abs(lead) <= _SIGNIFICANT * math.hypot(quantum.figure.error, classical.figure.error):
            return "neither"
        return "quantum" if (lead > 0) is self.higher_is_better else "classical"

    @property
    def verdict(self) -> str:
        """The sentence that says who won."""
        quantum, classical = self._best(is_quantum=True), self._best(is_quantum=False)
        if self.winner == "neither":
            return (
                f"Nobody won: {quantum.name} and {classical.name} have the same {self.measure} within "
                f"its error, {quantum.figure} and {classical.figure}."
            )
        first, second = (quantum, classical) if self.winner == "quantum" else (classical, quantum)
        return (
            f"{first.name[0].upper()}{first.name[1:]} won: {self.measure} {first.figure}, "
            f"{second.name} {second.figure}."
        )

    def _best(self, *, is_quantum: bool) -> Way:
        ways = [way for way in self.ways if way.is_quantum is is_quantum]
        sign = 1 if self.higher_is_better else -1
        return max(ways, key=lambda way: sign * way.figure.value)


def over_seeds(values: ArrayLike) -> Figure:
    """Return the mean of one value for each seed, with its standard error; at least two values."""
    found = np.asarray(values, dtype=float)
    return Figure(value=float(found.mean()), error=float(found.std(ddof=1) / math.sqrt(found.size)))


def bootstrapped(scores: ArrayLike, seed: int) -> Figure:
    """Return the mean of one score for each item (items,), with its bootstrap error."""
    found = np.asarray(scores, dtype=float)
    rng = np.random.default_rng(seed)
    means = [found[rng.integers(0, found.size, found.size)].mean() for _ in range(_RESAMPLES)]
    return Figure(value=float(found.mean()), error=float(np.std(means, ddof=1)))
