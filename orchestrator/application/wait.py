"""How long the first task of a run will wait: for the QPU's calendar, and for others' work."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orchestrator.application.service import service_at
from orchestrator.config.site import QpuSettings, Site

if TYPE_CHECKING:
    from backends.api import Target
    from backends.timing import TimingModel
    from orchestrator.broker.core.rules import Window

__all__ = ["ExpectedWait", "expected_wait"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedWait:
    """What keeps a run's first task.

    jobs_ahead: jobs that have not ended. waiting_s: seconds until the task may start, None if not
    known. closed_until, closure: end and title of the closure that it must wait out. stopped: the
    QPU's state where it starts nothing for now.
    """

    jobs_ahead: int
    waiting_s: float | None
    closed_until: datetime | None
    closure: str | None
    stopped: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queue:
    """A QPU's queue, as the broker reports it."""

    jobs: int = 0
    seconds: float | None = None  # of the jobs' work on it, None if not known
    closures: tuple[Window, ...] = ()
    stopped: str | None = None  # the QPU's state where it starts nothing for now


def expected_wait(
    site: Site,
    settings: QpuSettings,
    target: Target,
    longest_s: float,
    *,
    now: datetime,
) -> ExpectedWait:
    """Return what keeps a run's first task, which needs ``longest_s`` QPU-seconds free.

    Raises ``BrokerUnreachable``, ``BrokerRefused``, and ``ConfigError`` for an unreadable calendar.
    """
    from orchestrator.broker.core.rules import Calendar
    from orchestrator.broker.runtime.site_rules import calendar_of

    scale = target.clock_scale
    calendar = calendar_of(settings, target, now)
    queue = _Queue(seconds=0.0)
    if site.broker.url is not None:
        queue = _queue(site, site.broker.url, settings.name, target.timing)
        calendar = Calendar.of((*calendar.closures, *queue.closures))
    opens = calendar.fit(now, 0.0)
    begins = calendar.fit(
        opens + timedelta(seconds=(queue.seconds or 0.0) * scale), longest_s * scale
    )
    closure = next((one for one in calendar.closures if one.end in (begins, opens)), None)
    known = queue.seconds is not None and queue.stopped is None
    return ExpectedWait(
        jobs_ahead=queue.jobs,
        waiting_s=round((begins - now).total_seconds(), 3) if known else None,
        closed_until=None if closure is None else closure.end,
        closure=None if closure is None else closure.title or closure.kind,
        stopped=queue.stopped,
    )


def _queue(site: Site, url: str, qpu: str, timing: TimingModel | None) -> _Queue:
    """Return a QPU's queue; jobs hidden from this user count as long as the others."""
    with closing(service_at(site, url)) as service:
        found = [one for one in service.qpus() if one.name == qpu]
        seen = service.queue(qpu)
    ahead = max(len(seen), *(one.queued + one.open for one in found), 0)
    seconds = None if ahead else 0.0
    if ahead and seen and timing is not None:
        total = sum(
            timing.duration_s(circuits=job.circuits, shots=job.shots, num_qubits=job.num_qubits)
            for job in seen
        )
        seconds = total * ahead / len(seen)
    return _Queue(
        jobs=ahead,
        seconds=seconds,
        closures=tuple(one.closure for one in found if one.closure is not None),
        stopped=next((one.state for one in found if one.state != "online"), None),
    )
