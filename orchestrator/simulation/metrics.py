"""How well a simulated schedule served its users and its QPU (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.broker.core.events import JobSubmitted
from orchestrator.broker.core.rules import Calendar
from orchestrator.identity import JobId
from orchestrator.simulation.engine import JobOutcome, Simulated

__all__ = [
    "SLOWDOWN_BOUND_S",
    "Metrics",
    "Summary",
    "jain",
    "measured",
    "slowdown",
    "summarize",
]

# Below so many seconds a job's own length no longer counts, or the shortest would rule the mean.
SLOWDOWN_BOUND_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Mean, median, 95th percentile and maximum of some values."""

    mean: float = 0.0
    median: float = 0.0
    p95: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One schedule in figures.

    wait_s: from submission to the first task. slowdown: `slowdown`. short_slowdown, long_slowdown:
    of the jobs of up to, and of more than, the given QPU-seconds; None where there are none.
    utilisation: tasks at work, as part of the time from the first submission to the last end in
    which no closure was; shooting: the same without what passes in each task before its first
    shot, which slices repeat. fairness: `jain` of the accounts' speeds, where a speed is one over
    the account's mean slowdown. charges: by unit. makespan_s: first submission to last end.
    """

    jobs: int
    refused: int
    wait_s: Summary
    slowdown: Summary
    short_slowdown: Summary | None
    long_slowdown: Summary | None
    utilisation: float
    shooting: float
    fairness: float
    charges: Mapping[str, float] = field(default_factory=dict)
    makespan_s: float = 0.0
    tasks: int = 0
    leases: int = 0
    most_queued: int = 0


def summarize(values: Iterable[float]) -> Summary:
    """Return mean, median, 95th percentile (nearest rank) and maximum; zeros for no values."""
    ordered = sorted(values)
    if not ordered:
        return Summary()
    return Summary(
        mean=sum(ordered) / len(ordered),
        median=(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2,
        p95=ordered[math.ceil(0.95 * len(ordered)) - 1],
        most=ordered[-1],
    )


def slowdown(outcome: JobOutcome, alone_s: float) -> float:
    """Return a job's bounded slowdown, ``max(1, (end - submission) / max(alone_s, 10 s))``.

    alone_s: QPU-seconds that it would take, uncut, on an empty QPU (Feitelson et al., 1997).
    """
    assert outcome.ended_at is not None
    took_s = (outcome.ended_at - outcome.submitted_at).total_seconds()
    return max(1.0, took_s / max(alone_s, SLOWDOWN_BOUND_S))


def jain(values: Sequence[float]) -> float:
    """Return Jain's index, ``(Σx)² / (n Σx²)``: 1 if all are equal, 1/n if one has everything.

    >>> jain([1, 1, 1, 1]), jain([1, 0, 0, 0])
    (1.0, 0.25)
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def measured(
    seen: Simulated,
    calendar: Calendar,
    alone_s: Callable[[JobSubmitted], float],
    *,
    short_s: float = SLOWDOWN_BOUND_S,
    places: int = 1,
) -> Metrics:
    """Return the figures of a schedule.

    alone_s: see `slowdown`. short_s: a job of at most so many counts as short. places: tasks that
    the QPU takes at once.
    """
    ended = [one for one in seen.jobs.values() if one.ended_at is not None]
    slow = {one.job.job: slowdown(one, alone_s(one.job)) for one in ended}
    short = [one for one in ended if alone_s(one.job) <= short_s]
    small = {one.job.job for one in short}
    long = [one for one in ended if one.job.job not in small]
    first = min((one.submitted_at for one in seen.jobs.values()), default=None)
    last = max((one.ended_at for one in ended if one.ended_at is not None), default=None)
    open_s = _open_s(calendar, first, last) * places
    return Metrics(
        jobs=len(ended),
        refused=len(seen.jobs) - len(ended),
        wait_s=summarize(_wait_s(one) for one in ended),
        slowdown=summarize(slow.values()),
        short_slowdown=summarize(slow[one.job.job] for one in short) if short else None,
        long_slowdown=summarize(slow[one.job.job] for one in long) if long else None,
        utilisation=seen.busy_s / open_s if open_s else 0.0,
        shooting=(seen.busy_s - seen.starting_s) / open_s if open_s else 0.0,
        fairness=jain(_speeds(ended, slow)),
        charges=dict(seen.charges),
        makespan_s=(last - first).total_seconds() if first and last else 0.0,
        tasks=seen.tasks,
        leases=seen.leases,
        most_queued=seen.most_queued,
    )


def _wait_s(one: JobOutcome) -> float:
    assert one.started_at is not None
    return (one.started_at - one.submitted_at).total_seconds()


def _speeds(ended: Iterable[JobOutcome], slow: Mapping[JobId, float]) -> list[float]:
    of_account: dict[tuple[str, str], list[float]] = {}
    for one in ended:
        of_account.setdefault((one.job.project, one.job.user), []).append(slow[one.job.job])
    return [len(values) / sum(values) for values in of_account.values()]


def _open_s(calendar: Calendar, first: datetime | None, last: datetime | None) -> float:
    """Return the seconds between two times in which the QPU was not closed."""
    if first is None or last is None:
        return 0.0
    closed_s = sum(
        max(0.0, (min(window.end, last) - max(window.start, first)).total_seconds())
        for window in calendar.closures
    )
    return (last - first).total_seconds() - closed_s
