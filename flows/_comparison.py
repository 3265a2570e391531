"""Who won: figures with error bars of the ways that a flow compares, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Comparison",
    "Figure",
    "Way",
    "bootstrapped",
    "decided",
    "over_seeds",
    "resampled",
]

_RESAMPLES = 1000
# Two ways differ if their difference is more than this many of its standard errors.
_SIGNIFICANT = 2.0
# Digits beyond are of rounding, and decide nothing.
_DIGITS = 10


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
    """One way to solve the task of a flow, with its figure.

    group: of ways that are of one kind, where quantum and classical do not tell kinds apart.
    draws: its figure on resamples of the items, if the other ways of the comparison have theirs on
    the same resamples: see `resampled`. by_seed: its figure with each seed of the training, if the
    other ways have theirs with the same seeds. With either, the difference of two ways has an error
    of its own.
    """

    name: str
    figure: Figure
    is_quantum: bool = False
    group: str = ""
    draws: tuple[float, ...] = ()
    by_seed: tuple[float, ...] = ()

    @property
    def side(self) -> str:
        """The kind of way: its group, or quantum or classical."""
        return self.group or ("quantum" if self.is_quantum else "classical")

    def lead_over(self, other: Way) -> Figure:
        """Return by how much the figure is larger than another way's."""
        error = math.hypot(self.figure.error, other.figure.error)
        if self.by_seed and len(self.by_seed) == len(other.by_seed):
            error = over_seeds(np.subtract(self.by_seed, other.by_seed)).error
        elif self.draws and len(self.draws) == len(other.draws):
            error = float(np.std(np.subtract(self.draws, other.draws), ddof=1))
        return Figure(value=self.figure.value - other.figure.value, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Ways measured on the same data.

    measure: what the figures are, as in "accuracy". data: what they were measured on, as a reader
    of the table of all flows knows it; a flow with several data sets has a comparison for each.
    bound: what no way can do better than, such as a plan with foresight. trained_once: all ways were
    trained once, and errors are of what was measured alone: how much another training would change
    is not known, so nobody wins.
    """

    ways: Sequence[Way]
    measure: str
    higher_is_better: bool = True
    data: str = ""
    bound: Way | None = None
    trained_once: bool = False

    @property
    def winner(self) -> str:
        """The side with the best way, if the best of all others is significantly worse.

        Of sides that are quantum or classical it is the side, of others the name of the way; where
        all ways are of one side, it is that side. Without draws, errors count as independent: shared
        data make the test stricter than it must be.
        """
        if len({way.side for way in self.ways}) == 1:
            return self.ways[0].side
        winner, _ = self._decided()
        if winner is None:
            return "neither"
        return winner.name if winner.group else winner.side

    @property
    def verdict(self) -> str:
        """The sentence that says who won."""
        return self._decided()[1]

    def _decided(self) -> tuple[Way | None, str]:
        # The flow is about its quantum ways, or where there are none, about those that come first.
        sides = [way.side for way in self.ways]
        ours = "quantum" if "quantum" in sides else sides[0]
        one = self._best(way for way in self.ways if way.side == ours)
        other = self._best(way for way in self.ways if way.side != ours)
        if self.trained_once:
            return None, (
                f"Nobody won: {one.name} has {self.measure} {one.figure}, {other.name} {other.figure}, "
                "both trained once, and another seed of the training may change more than that."
            )
        return decided(one, other, measure=self.measure, higher_is_better=self.higher_is_better)

    def as_record(self) -> dict[str, Any]:
        """Return the comparison for ``comparisons`` of a flow's result, as `flows` documents it."""
        return {
            "data": self.data,
            "measure": self.measure,
            "higher_is_better": self.higher_is_better,
            "won": self.winner,
            "ways": [_recorded(way) for way in self.ways],
            "bound": self.bound and _recorded(self.bound),
        }

    def _best(self, ways: Iterable[Way]) -> Way:
        sign = 1 if self.higher_is_better else -1
        # Where a way without a QPU is as good, that is the one to take.
        return max(ways, key=lambda way: (sign * way.figure.value, not way.is_quantum))


def _recorded(way: Way) -> dict[str, Any]:
    return {
        "name": way.name,
        "is_quantum": way.is_quantum,
        "side": way.side,
        "value": way.figure.value,
        "error": way.figure.error,
    }


def decided(
    one: Way, other: Way, *, measure: str, higher_is_better: bool = True
) -> tuple[Way | None, str]:
    """Return the better of two ways, None if they differ within their error, and the sentence for it."""
    lead = one.lead_over(other)
    paired = _pairing(one, other)
    difference = f"{Figure(value=abs(lead.value), error=lead.error)} {paired}"
    if round(abs(lead.value), _DIGITS) <= _SIGNIFICANT * lead.error:
        return None, (
            f"Nobody won: {one.name} and {other.name} have the same {measure} within "
            f"its error, {one.figure} and {other.figure}{paired and f'; apart by {difference}'}."
        )
    first, second = (one, other) if (lead.value > 0) is higher_is_better else (other, one)
    return first, (
        f"{first.name[0].upper()}{first.name[1:]} won: {measure} {first.figure}, "
        f"{second.name} {second.figure}{paired and f'; ahead by {difference}'}."
    )


def _pairing(one: Way, other: Way) -> str:
    """Return on what two ways were compared in pairs, empty if their errors are independent."""
    if one.by_seed and len(one.by_seed) == len(other.by_seed):
        return "with the same seeds"
    if one.draws and len(one.draws) == len(other.draws):
        return "on the same data"
    return ""


def over_seeds(values: ArrayLike) -> Figure:
    """Return the mean of one value for each seed, with its standard error; at least two values."""
    found = np.asarray(values, dtype=float)
    spread = round(float(found.std(ddof=1)), _DIGITS)
    return Figure(value=float(found.mean()), error=spread / math.sqrt(found.size))


def bootstrapped(scores: ArrayLike, seed: int) -> Figure:
    """Return the mean of one score for each item (items,), with its bootstrap error."""
    found = np.asarray(scores, dtype=float)
    figure, _ = resampled(lambda chosen: float(found[chosen].mean()), found.size, seed)
    return figure


def resampled(
    statistic: Callable[[NDArray[np.int64]], float],
    items: int,
    seed: int,
    independent: int | None = None,
) -> tuple[Figure, tuple[float, ...]]:
    """Return a statistic of items with its bootstrap error, and its values on the resamples.

    Args:
        statistic: takes the indices of items, some of them several times in a resample.
        items: how many there are.
        seed: of the resamples; equal seeds make equal ones.
        independent: how many of the items are independent, by default all. Resamples have as many,
            so that items that overlap do not make errors smaller.
    """
    rng = np.random.default_rng(seed)
    size = items if independent is None else independent
    draws = [statistic(rng.integers(0, items, size)) for _ in range(_RESAMPLES)]
    figure = Figure(value=statistic(np.arange(items)), error=float(np.std(draws, ddof=1)))
    return figure, tuple(draws)
