"""How long the first task of a run will wait: for the QPU's calendar, and for others' work."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orchestrator.application.service import service_at
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site

if TYPE_CHECKING:
    from backends.api import Target
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
    work_s: float | None = None  # that the jobs take by the clock, None if not known
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
    queue = _Queue(work_s=0.0)
    if site.broker.url is not None:
        queue = _queue(site, site.broker.url, settings.name, target)
        calendar = Calendar.of((*calendar.closures, *queue.closures))
    opens = calendar.fit(now, 0.0)
    begins = calendar.fit(opens + timedelta(seconds=queue.work_s or 0.0), longest_s * scale)
    closure = next((one for one in calendar.closures if one.end in (begins, opens)), None)
    known = queue.work_s is not None and queue.stopped is None
    return ExpectedWait(
        jobs_ahead=queue.jobs,
        waiting_s=round((begins - now).total_seconds(), 3) if known else None,
        closed_until=None if closure is None else closure.end,
        closure=None if closure is None else closure.title or closure.kind,
        stopped=queue.stopped,
    )


def _queue(site: Site, url: str, qpu: str, target: Target) -> _Queue:
    """Return a QPU's queue; the service knows more of its length than the jobs that it shows."""
    with closing(service_at(site, url)) as service:
        found = [one for one in service.qpus() if one.name == qpu]
        seen = service.queue(qpu)
    ahead = max(len(seen), *(one.queued + one.open for one in found), 0)
    work_s = next((one.work_s for one in found), None) if ahead else 0.0
    if work_s is None and seen and target.timing is not None:
        total_s = sum(
            target.timing.duration_s(
                circuits=job.circuits, shots=job.shots, num_qubits=job.num_qubits
            )
            for job in seen
        )
        # Jobs hidden from this user count as long as the others.
        work_s = total_s * target.clock_scale * ahead / len(seen)
    return _Queue(
        jobs=ahead,
        work_s=work_s,
        closures=tuple(one.closure for one in found if one.closure is not None),
        stopped=next((one.state for one in found if one.state != "online"), None),
    )
