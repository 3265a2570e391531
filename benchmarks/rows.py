"""A measured comparison, and how measurements are taken so that drift cancels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Row", "interleaved", "peer_failed", "timed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the results. ours and against carry their unit.

    ratio: what the goal bounds; None where there is nothing to compare with. met: None where
    the figure is only stated.
    """

    name: str
    ours: str
    against: str
    what: str
    ratio: float | None
    goal: str
    met: bool | None


def peer_failed(name: str, ours: str, what: str) -> Row:
    """Return the row of a comparison whose other side did not run to its end."""
    return Row(
        name=name, ours=ours, against="failed", what=what, ratio=None, goal="not compared", met=None
    )


def timed(call: Callable[[], object]) -> float:
    """Return how long one call takes, in seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: Sequence[Callable[[], object]], *, rounds: int, warmup: int) -> list[float]:
    """Time several calls in turn and return each one's median in seconds.

    In turn, so that whatever else the machine does meanwhile falls on all of them alike.
    """
    for _ in range(warmup):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for place, call in zip(times, calls, strict=True):
            place.append(timed(call))
    return [statistics.median(place) for place in times]
