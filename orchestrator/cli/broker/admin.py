"""``hpcqc broker`` as a client of a running service: look, drain, cancel, resolve."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import to_jsonable_python

from orchestrator.application.service import open_service
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.config.errors import ConfigError
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.broker.client.status import QpuStatus

__all__ = [
    "cancel_job",
    "change_qpu",
    "resolve_job",
    "tell_queue",
    "tell_status",
]

_VERDICTS = ("failed", "not-started")
_ID_SHOWN = 11


def tell_status(site_file: Path | None, *, as_json: bool) -> int:
    """Write how the service and its QPUs stand; return the exit code, 1 if it is not well."""
    with closing(open_service(site_file)) as broker:
        health, qpus = broker.health(), broker.qpus()
    if as_json:
        print_json(to_jsonable_python({"url": broker.url, "health": health, "qpus": qpus}))
    else:
        facts(
            {
                "broker": broker.url,
                "status": health.status,
                "reason": health.reason,
                "version": health.version,
            }
        )
        columns = ("QPU", "backend", "state", "queued", "open tasks", "reason")
        tabulate((*columns, "calendar", "predictions"), map(_status_row, qpus))
    return 0 if health.status == "ok" else 1


def _status_row(qpu: QpuStatus) -> list[Any]:
    from orchestrator.broker.core.rules import in_utc

    state, calendar, closure = str(qpu.state), None, qpu.closure
    if closure is not None and not qpu.closed:
        calendar = f"closes {in_utc(closure.start)}: {closure.reason}"
    elif closure is not None:
        calendar, until = closure.reason, f"closed until {in_utc(closure.end)}"
        if qpu.state == "online":
            state = until
        else:
            calendar = f"{until}: {closure.reason}"
    return [
        *(qpu.name, qpu.backend, state, qpu.queued, qpu.open, qpu.reason, calendar),
        f"off by {qpu.error:.1%} in {counted(qpu.predicted, 'task')}"
        if qpu.error is not None
        else None,
    ]


def tell_queue(site_file: Path | None, qpu: str | None, *, as_json: bool) -> None:
    """Write the jobs that have not ended: those one may see, and of all others their number."""
    with closing(open_service(site_file)) as broker:
        jobs, qpus = broker.queue(qpu), broker.qpus()
    asked = [one for one in qpus if qpu in (None, one.name)]
    if qpu is not None and not asked and not jobs:
        raise ConfigError(
            f"no QPU {qpu!r} at {broker.url}; it has: {', '.join(one.name for one in qpus) or 'none'}"
        )
    if as_json:
        print_json(to_jsonable_python(jobs))
        return
    rows = [
        [
            *(job.id[:_ID_SHOWN], job.qpu, job.state, job.project, job.user, job.run),
            f"{job.submitted_at:%Y-%m-%d %H:%M:%S}",
            job.shots or None,
        ]
        for job in jobs
    ]
    if rows:
        tabulate(("job", "QPU", "state", "project", "user", "run", "submitted", "shots"), rows)
    waiting, at_work = sum(one.queued for one in asked), sum(one.open for one in asked)
    in_all = f"of all users: {waiting} queued, {at_work} at work"
    if rows:
        say(in_all, style="dim")
    elif waiting or at_work:
        say(f"nothing of your projects waits or runs; {in_all}")
    else:
        say("nothing waits or runs")
    for one in asked:
        if one.standstill is not None:
            say(one.standstill)


def change_qpu(site_file: Path | None, qpu: str, *, drain: str | None, as_json: bool) -> None:
    """Drain a QPU for a reason, or let it take work again."""
    with closing(open_service(site_file)) as broker:
        seen = broker.resume(qpu) if drain is None else broker.drain(qpu, drain)
    if as_json:
        print_json(to_jsonable_python(seen))
    else:
        open_tasks = f"; {counted(seen.open, 'task')} still open" if seen.open else ""
        say(f"{qpu} is {seen.state}{open_tasks}")


def cancel_job(site_file: Path | None, job: str, *, as_json: bool) -> None:
    """Cancel a job."""
    with closing(open_service(site_file)) as broker:
        seen = broker.cancel_named(job)
    if as_json:
        print_json(to_jsonable_python(seen))
    elif seen.too_late:
        say(f"{seen.job} had ended already: it is {seen.state}")
    else:
        say(f"{seen.job} is being cancelled; it is {seen.state}")


def resolve_job(
    site_file: Path | None, job: str, verdict: str, reason: str, *, as_json: bool
) -> None:
    """Settle an uncertain job."""
    if verdict not in _VERDICTS:
        raise ConfigError(f"--as {verdict!r}; expected one of: {', '.join(_VERDICTS)}")
    settled: Literal["failed", "not-started"] = "failed" if verdict == "failed" else "not-started"
    with closing(open_service(site_file)) as broker:
        seen = broker.resolve(job, settled, reason)
    if as_json:
        print_json(to_jsonable_python(seen))
    else:
        say(f"{seen.id} is {seen.state}")
