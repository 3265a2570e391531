"""What projects were charged in a month, and for what (pure)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.broker.core.events import Event, LeaseClosed, LeaseOpened
from orchestrator.broker.core.views import JobView, QpuTaskState
from orchestrator.identity import JobId

__all__ = ["LeaseHeld", "StatementLine", "leases_held", "month_bounds", "statement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """What a project was charged in a month on one QPU, in one unit.

    jobs, tasks: those with a part in it; a task that jobs of two projects share is in the lines of
    both. shots, qpu_seconds, charged: this project's share of the tasks that completed; what
    failed or was cancelled costs nothing. saved: what sharing tasks spared, against the predicted
    price of a task of its own. leases that ended in the month: how many, and the seconds they kept
    the QPU and worked on it.
    """

    project: str
    month: str
    qpu: str
    unit: str
    jobs: int
    tasks: int
    shots: int = 0
    qpu_seconds: float = 0.0
    charged: float = 0.0
    saved: float = 0.0
    leases: int = 0
    lease_held_s: float = 0.0
    lease_used_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHeld:
    """A lease that is over, with the project it was given to."""

    project: str
    closed: LeaseClosed


@dataclass(slots=True)
class _Sum:
    """figures: sums by field of the line."""

    jobs: set[JobId] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)
    figures: Any = field(default_factory=Counter)


def month_bounds(month: str) -> tuple[datetime, datetime]:
    """Return when a month, as ``2026-11``, begins and the next one does, in UTC.

    Raises ``ValueError`` for another text.
    """
    begin = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    year, following = divmod(begin.year * 12 + begin.month, 12)
    return begin, begin.replace(year=year, month=following + 1)


def leases_held(events: Iterable[Event]) -> Iterator[LeaseHeld]:
    """Yield the leases that are over, from the events that opened and closed them, in order."""
    project: dict[str, str] = {}  # by QPU, which has one lease at a time
    for event in events:
        match event:
            case LeaseOpened():
                project[event.qpu] = event.project
            case LeaseClosed() if event.qpu in project:
                yield LeaseHeld(project=project.pop(event.qpu), closed=event)


def statement(
    jobs: Iterable[JobView], leases: Iterable[LeaseHeld], month: str
) -> list[StatementLine]:
    """Return what was charged in a month, sorted by project, QPU and unit.

    A task without a result counts if the site bills the time that it occupied. A task belongs to the
    month that it ended in, a lease too; a task that was given up and
    completed after all, to that in which it was given up. A task that was charged in two units
    counts in the line of the first with its shots and seconds.
    """
    begin, end = month_bounds(month)
    sums: defaultdict[tuple[str, str, str], _Sum] = defaultdict(_Sum)
    for job in jobs:
        for task in job.tasks:
            counts = task.state is QpuTaskState.COMPLETED or task.late or task.usage.charges
            if not counts or task.ended_at is None or not begin <= task.ended_at < end:
                continue
            charges = task.usage.charges
            first = (job.project, job.qpu, charges[0].unit if charges else "")
            total = sums[first]
            total.jobs.add(job.id)
            total.tasks.add(task.tag)
            usage = task.usage
            total.figures.update(shots=usage.shots, qpu_seconds=usage.qpu_seconds, saved=task.saved)
            for charge in charges:
                sums[job.project, job.qpu, charge.unit].figures.update(charged=charge.amount)
    for lease in leases:
        if begin <= lease.closed.at < end:
            mine = sorted(key for key in sums if key[:2] == (lease.project, lease.closed.qpu))
            key = mine[0] if mine else (lease.project, lease.closed.qpu, "")
            sums[key].figures.update(
                leases=1, lease_held_s=lease.closed.held_s, lease_used_s=lease.closed.used_s
            )
    return [
        StatementLine(
            project=project,
            month=month,
            qpu=qpu,
            unit=unit,
            jobs=len(total.jobs),
            tasks=len(total.tasks),
            **total.figures,
        )
        for (project, qpu, unit), total in sorted(sums.items(), key=lambda item: item[0])
    ]
