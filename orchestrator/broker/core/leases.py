"""A lease: the QPU kept for one iterative loop between its jobs, within bounds (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from orchestrator.broker.core.events import LeaseClosed, LeaseEnd, LeaseOpened

__all__ = ["Lease", "LeaseUse"]


@dataclass(slots=True)
class Lease:
    """An open lease. idle_since: when its last task ended, None while one is at work.

    used_s: how long its tasks that have ended were at work.
    """

    opened: LeaseOpened
    opened_at: datetime
    idle_since: datetime | None = None
    used_s: float = 0.0

    def ends(self, waiting: bool) -> tuple[datetime, LeaseEnd]:
        """Return when it ends if nothing happens, and why. waiting: a job of it is queued."""
        until = self.opened.until
        if self.idle_since is None or waiting:
            return until, "time"
        idle = self.idle_since + timedelta(seconds=self.opened.idle_s)
        return (idle, "idle") if idle < until else (until, "time")

    def closed(self, event: LeaseClosed, at_work_since: Iterable[datetime]) -> LeaseClosed:
        """Return the event that ends it, with what it held and used until then.

        at_work_since: when its tasks were planned that have not ended.
        """
        held_s = max(0.0, (event.at - self.opened_at).total_seconds())
        begun = [max(since, self.opened_at) for since in at_work_since]
        at_work_s = sum(max(0.0, (event.at - since).total_seconds()) for since in begun)
        return replace(event, held_s=held_s, used_s=self.used_s + at_work_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseUse:
    """What a project's leases took in all: how many, the seconds they held and worked."""

    leases: int = 0
    held_s: float = 0.0
    used_s: float = 0.0
