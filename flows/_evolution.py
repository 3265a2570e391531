"""An evolution strategy: it asks for what candidates cost, and moves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evolution"]

_Values = NDArray[np.float64]
_DIGITS = 10


class Evolution:
    """An evolution strategy with mirrored candidates (Salimans et al., arXiv:1703.03864).

    The parameters move along the candidates' deviations, weighted by their ranks; the best that was
    seen is kept.
    """

    def __init__(
        self, start: _Values, candidates: int, spread: float, rate: float, seed: int
    ) -> None:
        self.mean = start
        self.best = start
        self.best_cost = math.inf
        self.history: list[float] = []
        self._half = candidates // 2
        self._spread, self._rate = spread, rate
        self._rng = np.random.default_rng(seed)
        self._deviations = np.zeros((0, len(start)))

    def candidates(self) -> _Values:
        """Return the next candidates: the mean, then pairs about it."""
        self._deviations = self._rng.normal(size=(self._half, len(self.mean)))
        moved = self._spread * np.concatenate([self._deviations, -self._deviations])
        result: _Values = self.mean + np.concatenate([np.zeros((1, len(self.mean))), moved])
        return result

    def learn(self, candidates: _Values, found: Sequence[float]) -> int | None:
        """Take the costs of the last candidates and move; return which one is the best so far, if any."""
        # Equal costs differ in the last digits, which decide nothing: the first candidate is ahead.
        values = np.round(np.asarray(found), _DIGITS)
        first, improves = int(values.argmin()), bool(values.min() < self.best_cost)
        if improves:
            self.best, self.best_cost = candidates[first], float(values[first])
        self.history.append(self.best_cost)
        order = values[1:].argsort(kind="stable")
        ranks = order.argsort() / max(len(values) - 2, 1) - 0.5
        slope = (ranks[: self._half] - ranks[self._half :]) @ self._deviations / self._half
        self.mean = self.mean - self._rate * slope
        return first if improves else None
