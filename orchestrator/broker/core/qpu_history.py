"""What happened on one QPU, as far as later decisions there depend on it: leases, starts and use (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.events import LeaseClosed, LeaseEnd, LeaseOpened
from orchestrator.broker.core.policies import Situation
from orchestrator.broker.core.prediction import Accuracy
from orchestrator.broker.core.records import TaskRecord
from orchestrator.broker.core.views import QpuTaskState
from orchestrator.identity import Payer

__all__ = ["DecayedUse", "Lease", "LeaseUse", "QpuHistory"]


@dataclass(slots=True)
class Lease:
    """An open lease. idle_since: end of its last task, None while one runs; used_s: by ended tasks."""

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
        """Return the event with the seconds kept and used. at_work_since: of its open tasks."""
        held_s = max(0.0, (event.at - self.opened_at).total_seconds())
        begun = [max(since, self.opened_at) for since in at_work_since]
        at_work_s = sum(max(0.0, (event.at - since).total_seconds()) for since in begun)
        return replace(event, held_s=held_s, used_s=self.used_s + at_work_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseUse:
    """A project's leases in all: their number, and the seconds they kept the QPU and used it."""

    leases: int = 0
    held_s: float = 0.0
    used_s: float = 0.0


# Limits on starts look no further back than this many.
_STARTS = 1000
_CALIBRATIONS = 100
# After so long use counts half, where shares are to be fair.
_HALF_LIFE_S = 7 * 86_400.0


@dataclass(slots=True)
class DecayedUse:
    """QPU-seconds that lose half their weight with every half-life. at: when ``seconds`` held."""

    seconds: float
    at: datetime

    def left_at(self, now: datetime) -> float:
        """Return what is left of it."""
        age_s = (now - self.at).total_seconds()
        remaining: float = self.seconds * 0.5 ** (age_s / _HALF_LIFE_S if age_s > 0 else 0.0)
        return remaining


@dataclass(slots=True)
class QpuHistory:
    """One QPU's lease, last starts, recent use and accuracy of predictions."""

    lease: Lease | None = None
    starts: list[datetime] = field(default_factory=list)
    use: dict[str, DecayedUse] = field(default_factory=dict)  # by the text of the payer
    accuracy: Accuracy = field(default_factory=Accuracy)
    lease_use: dict[str, LeaseUse] = field(default_factory=dict)  # by project
    outdated: list[str] = field(default_factory=list)  # calibrations that it no longer has

    def situation(self, now: datetime, shares: dict[str, float]) -> Situation:
        """Return what a policy looks at."""
        use = {Payer.parse(key): used.left_at(now) for key, used in self.use.items()}
        return Situation(now_s=now.timestamp(), use=use, shares=shares)

    def use_by(self, payer: Payer, seconds: float, now: datetime) -> None:
        """Count QPU-seconds of a payer."""
        key = payer.text
        known = self.use.get(key)
        before = 0.0 if known is None else known.left_at(now)
        self.use[key] = DecayedUse(before + seconds, now)

    def open_lease(self, event: ev.LeaseOpened, now: datetime) -> None:
        """Give the QPU to a loop."""
        self.lease = Lease(opened=event, opened_at=now, idle_since=now)

    def has_lease(self, lease: str) -> bool:
        """Whether this lease is open."""
        return self.lease is not None and self.lease.opened.lease == lease

    def closing(
        self, event: ev.LeaseClosed, waiting: bool, at_work: Iterable[TaskRecord]
    ) -> ev.LeaseClosed:
        """Return the end of the lease, at its bound or before, with the seconds kept and used."""
        assert self.lease is not None
        at = min(event.at, self.lease.ends(waiting)[0])
        mine = [task.planned_at for task in at_work if task.planned.lease == event.lease]
        return self.lease.closed(replace(event, at=at), mine)

    def close_lease(self, event: ev.LeaseClosed) -> None:
        """End the lease, and add it to its project's."""
        if self.lease is None or self.lease.opened.lease != event.lease:
            return
        project = self.lease.opened.project
        before = self.lease_use.get(project, LeaseUse())
        self.lease_use[project] = LeaseUse(
            leases=before.leases + 1,
            held_s=before.held_s + event.held_s,
            used_s=before.used_s + event.used_s,
        )
        self.lease = None

    def recalibrate(self, calibration: str, before: Iterable[str]) -> None:
        """Note that earlier calibrations are outdated."""
        known = dict.fromkeys([*self.outdated, *before])
        self.outdated = [one for one in known if one not in ("", calibration)][-_CALIBRATIONS:]

    def plan(self, event: ev.TaskPlanned, now: datetime) -> None:
        """Count a task that is about to start."""
        self.starts.append(now)
        del self.starts[:-_STARTS]
        if self.lease is not None and event.lease == self.lease.opened.lease:
            self.lease.idle_since = None

    def end(self, task: TaskRecord, now: datetime, *, still_leased: bool) -> None:
        """Count an ended task. still_leased: another one of its lease runs."""
        lease = self.lease
        if lease is not None and task.planned.lease == lease.opened.lease:
            # That it started is written later than it did, so count from the decision.
            lease.used_s += (now - max(task.planned_at, lease.opened_at)).total_seconds()
            if not still_leased:
                lease.idle_since = now
        if task.state is QpuTaskState.COMPLETED:
            self.accuracy.learn(
                predicted_s=task.planned.predicted_s,
                actual_s=task.usage.qpu_seconds,
                circuits=sum(part.circuits for part in task.planned.parts),
            )
