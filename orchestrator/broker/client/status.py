"""How a service and what it serves stand: QPUs, projects, tasks in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backends.api import Usage
from orchestrator.broker.core.rules import Window
from orchestrator.broker.core.views import JobView, QpuTaskView

__all__ = ["JobUnknown", "NotUncertain", "ProjectTotals", "QpuStatus", "TaskShare"]


class JobUnknown(ValueError):
    """There is no such job, or none that the caller may see."""


class NotUncertain(ValueError):
    """The job has no uncertain task, so there is nothing to resolve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuStatus:
    """How a QPU stands. reason: why it is drained or unavailable. queued, open: jobs and tasks.

    closed: by its calendar, now; closure: the one that is on, or else the next.
    predicted, error: how many tasks' QPU-seconds were predicted, and how far off, relatively.
    """

    name: str
    backend: str
    state: Literal["online", "drained", "unavailable"]
    reason: str | None
    queued: int
    open: int
    closed: bool = False
    closure: Window | None = None
    predicted: int = 0
    error: float | None = None

    @property
    def standstill(self) -> str | None:
        """Why nothing starts on it now, in words for who waits; None if something may."""
        if self.state == "unavailable":
            return f"{self.name} cannot be opened now"
        if self.state == "drained":
            return f"{self.name} is drained: {self.reason}"
        if self.closed and self.closure is not None:
            return self.closure.closed(self.name)
        return None


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
