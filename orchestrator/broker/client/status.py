"""How a service and what it serves stand: QPUs, projects, tasks in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from backends.api import QpuUnavailable, Usage
from orchestrator.broker.core.rules import Window
from orchestrator.broker.core.views import JobView, LostAccess, QpuTaskView

__all__ = [
    "FactSource",
    "JobUnknown",
    "NotUncertain",
    "ProjectTotals",
    "QpuReadiness",
    "QpuStatus",
    "TaskShare",
    "unreachable",
]


def unreachable(qpu: str, error: QpuUnavailable) -> QpuUnavailable:
    """Return a backend's error that its QPU does not answer, with the QPU's name in the site."""
    return QpuUnavailable(
        f"QPU {qpu!r} cannot be reached: {error}; `hpcqc config show` prints its address",
        retry_after_s=error.retry_after_s,
    )


class JobUnknown(ValueError):
    """There is no such job, or none that the caller may see."""


class NotUncertain(ValueError):
    """The job has no uncertain task, so there is nothing to resolve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuStatus:
    """How a QPU stands. reason: why it is drained or unavailable. queued, open: jobs and tasks.

    runs: those with a task or a lease on it, or with a job that waits for it, and not for Slurm.
    closed: by its calendar, now; closure: the one that is on, or else the next.
    predicted, error: how many tasks' QPU-seconds were predicted, and how far off, relatively.
    denied_since: since when it refuses the broker's credentials, None while it does not.
    work_s: for how long it has work, in seconds on the clock, None if that is not known.
    accepts: labels of data that may go there.
    """

    name: str
    backend: str
    state: Literal["online", "drained", "unavailable"]
    reason: str | None
    queued: int
    open: int
    runs: int = 0
    closed: bool = False
    closure: Window | None = None
    predicted: int = 0
    error: float | None = None
    work_s: float | None = None
    accepts: tuple[str, ...] = ()
    denied_since: datetime | None = None

    @property
    def standstill(self) -> str | None:
        """Why nothing starts on it now, in words for who waits; None if something may."""
        if self.denied_since is not None:
            lost = LostAccess(qpu=self.name, since=self.denied_since, reason="")
            return lost.words(to_user=True)
        if self.state == "unavailable":
            return f"{self.name} cannot be opened now"
        if self.state == "drained":
            return f"{self.name} is drained: {self.reason}"
        if self.closed and self.closure is not None:
            return self.closure.closed(self.name)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FactSource:
    """Where a fact is from. at: when it was obtained, None if it never was.

    credentials: with whose it was obtained; ``broker`` for what the broker knows by itself.
    """

    at: datetime | None
    credentials: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuReadiness:
    """Three facts about a QPU: status, capacity, readiness; None where one is not known.

    Not known is not no. operational, its status: whether it works and takes work. slots, its
    capacity: how many tasks it takes at once, None also for any number; open of them are taken by
    the broker's own tasks, None where no broker knows of any. has_room, its readiness: whether a job
    of the size that was asked about would start now, which nothing is reserved for. Status and readiness have the reason for a no,
    and for what is not known.
    sources: when and with whose credentials each was obtained, by ``status``, ``capacity`` and
    ``readiness``. read_at: when the broker last heard of the QPU itself; slurm_at: when Slurm last
    answered; slurm_error: why it does not answer now.
    """

    name: str
    operational: bool | None
    operational_reason: str | None = None
    slots: int | None = None
    open: int | None = 0
    sources: Mapping[str, FactSource] = field(default_factory=dict)
    has_room: bool | None = None
    room_reason: str | None = None
    asked_at: datetime
    read_at: datetime | None = None
    slurm_at: datetime | None = None
    slurm_error: str | None = None

    @property
    def age_s(self) -> float | None:
        """Seconds since the broker heard of the QPU; None if it never did."""
        return None if self.read_at is None else (self.asked_at - self.read_at).total_seconds()

    def age_of(self, fact: str) -> float | None:
        """Return how many seconds ago a fact of ``sources`` was obtained; None if it never was."""
        source = self.sources.get(fact)
        if source is None or source.at is None:
            return None
        return max(0.0, (self.asked_at - source.at).total_seconds())


@dataclass(slots=True)
class ProjectTotals:
    """What a project used: jobs in all, of them still open, and the sum of their usage."""

    jobs: int = 0
    open: int = 0
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShare:
    """A job's part in a task on a QPU."""

    job: JobView
    task: QpuTaskView
