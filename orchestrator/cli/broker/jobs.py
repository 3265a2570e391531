"""``hpcqc broker queue``, ``cancel`` and ``resolve``: jobs at a broker service."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.broker.qpus import Reason
from orchestrator.cli.options import Json, SiteFile
from orchestrator.cli.output import print_json, say, tabulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.broker.client.status import QpuStatus
    from orchestrator.broker.core.views import JobView

__all__ = ["cancel", "queue", "resolve"]

_ID_SHOWN = 11
_JobId = Annotated[str, typer.Argument(metavar="JOB")]


def queue(
    qpu: Annotated[str | None, typer.Option("--qpu", metavar="NAME")] = None,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """List the jobs that wait, run or are uncertain: your own, and the number of all others."""
    from pydantic_core import to_jsonable_python

    from orchestrator.application.service import open_service
    from orchestrator.config.errors import ConfigError

    with closing(open_service(site=site)) as broker:
        jobs, qpus = broker.queue(qpu), broker.qpus()
    asked = [one for one in qpus if qpu in (None, one.name)]
    if qpu is not None and not asked and not jobs:
        known = ", ".join(one.name for one in qpus) or "none"
        raise ConfigError(f"no QPU {qpu!r} at {broker.url}; it has: {known}")
    if as_json:
        print_json(to_jsonable_python(jobs))
    else:
        _print_queue(jobs, asked)


def cancel(job: _JobId, site: SiteFile = None, as_json: Json = False) -> None:
    """Cancel a job, on the QPU too; says so if it was too late."""
    from orchestrator.application.service import open_service

    with closing(open_service(site=site)) as broker:
        cancelled = broker.cancel_named(job)
    if as_json:
        print_json(cancelled)
    elif cancelled.too_late:
        say(f"{cancelled.job} had ended already: it is {cancelled.state}")
    else:
        say(f"{cancelled.job} is being cancelled; it is {cancelled.state}")


def resolve(
    job: _JobId,
    verdict: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="VERDICT",
            help="failed: give the job up. not-started: the QPU never ran it, start it again.",
        ),
    ],
    reason: Reason,
    used_s: Annotated[
        float,
        typer.Option(
            "--used-s",
            metavar="SECONDS",
            help="QPU-seconds that the site's own meter has for it, with --as failed.",
        ),
    ] = 0.0,
    charged: Annotated[
        float | None,
        typer.Option(
            "--charged",
            metavar="AMOUNT",
            help="What the site billed, in the QPU's unit; a service knows its price of --used-s.",
        ),
    ] = None,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """Settle a job whose task may or may not have run: at a service for operators, else your own."""
    from pydantic_core import to_jsonable_python

    from orchestrator.application.resolve import resolve_job

    view = resolve_job(job, verdict, reason, used_s=used_s, charged=charged, site=site)
    if as_json:
        print_json(to_jsonable_python(view))
        return
    say(f"{view.id} is {view.state}")
    if not view.user:
        say(f"its run goes on with the same command and --run-id {view.run}")


def _print_queue(jobs: Sequence[JobView], qpus: Sequence[QpuStatus]) -> None:
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
    queued, running = sum(one.queued for one in qpus), sum(one.open for one in qpus)
    in_all = f"of all users: {queued} queued, {running} running"
    if rows:
        say(in_all, style="dim")
    elif queued or running:
        say(f"no job of your projects waits or runs; {in_all}")
    else:
        say("no job waits or runs")
    for one in qpus:
        if one.standstill is not None:
            say(one.standstill)
