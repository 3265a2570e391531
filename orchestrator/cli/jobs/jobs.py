"""``hpcqc jobs``: quantum jobs in the ledger."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, Limit, SiteFile
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.provenance.markup import cell_text, duration_text

if TYPE_CHECKING:
    from orchestrator.broker.core.views import JobView
    from orchestrator.provenance.schema import RecordedJob, RecordedTask

__all__ = ["jobs"]

_ID_SHOWN = 11
_ADVISED = 3  # of the uncertain jobs in a list


def jobs(
    job: Annotated[str | None, typer.Argument(metavar="[ID]", help="One job, in detail.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Only the jobs of this run.")
    ] = None,
    limit: Limit = 20,
    site: SiteFile = None,
    as_json: Json = False,
) -> None:
    """List quantum jobs from the ledger, or show one."""
    if job is not None:
        _print_job(job, site, as_json=as_json)
    else:
        _print_jobs(run, limit, site, as_json=as_json)


def _print_jobs(run: str | None, limit: int, site_file: Path | None, *, as_json: bool) -> None:
    from orchestrator.application.jobs import jobs as known_jobs
    from orchestrator.application.jobs import ledger_path
    from orchestrator.config.loading import load_site
    from orchestrator.provenance.record import recorded_job

    known = known_jobs(run, limit=limit + 1, site=site_file)
    jobs = [recorded_job(job) for job in known]
    shown = jobs[-limit:]
    if as_json:
        print_json(shown)
        return
    if not shown:
        of_run = f" of run {run!r}" if run else ""
        site = load_site(site_file)
        say(f"no quantum jobs{of_run} in {site.broker.url or ledger_path(site.state_dir)}")
        return
    columns = ("job", "run", "QPU", "state", "submitted", "shots", "tasks", "took")
    rows = [
        [
            job.id[:_ID_SHOWN],  # the start of an id is enough to ask for a job
            *(job.run, f"{job.qpu}, now {job.failover}" if job.failover else job.qpu),
            f"{job.state}, provisional" if job.provisional else str(job.state),
            _instant_text(job.submitted_at),
            job.shots or None,
            job.slices if job.source is None else f"reused {job.source[:_ID_SHOWN]}",
            duration_text(job.worked_s),
        ]
        for job in shown
    ]
    tabulate(columns, rows)
    for doubted in [job for job in known[-limit:] if job.state == "uncertain"][-_ADVISED:]:
        say(_advice(doubted))
    if len(jobs) > len(shown):
        say(f"the latest {len(shown)}; --limit shows more", style="dim")


def _print_job(job: str, site_file: Path | None, *, as_json: bool) -> None:
    from orchestrator.application.jobs import job as known_job
    from orchestrator.provenance.record import recorded_job

    view = known_job(job, site=site_file)
    found = recorded_job(view)
    if as_json:
        print_json(found)
        return
    facts(_job_facts(found), title=f"job {found.id}")
    columns = ["task", "state", "starts", "shots", "started", "took", "method", "error"]
    rows = [_task_row(task) for task in found.tasks]
    if any(task.slurm_job is not None for task in found.tasks):
        columns.append("Slurm job")
        rows = [[*row, task.slurm_job] for row, task in zip(rows, found.tasks, strict=True)]
    tabulate(columns, rows)
    if view.state == "uncertain":
        say(_advice(view))


def _advice(job: JobView) -> str:
    from orchestrator.broker.core.views import advice_in_doubt

    advice = advice_in_doubt(job.id, job.run, job.user)
    return f"{job.id[:_ID_SHOWN]} is uncertain: {advice}"


def _starts_text(task: RecordedTask) -> str:
    in_doubt = f" or {task.starts + 1}" if task.start_in_doubt else ""
    return f"{task.starts}{in_doubt}"


def _job_facts(job: RecordedJob) -> dict[str, Any]:
    from orchestrator.provenance.report import ran_on

    names = ("state", "error", "qpu", "backend", "kind", "run", "stage", "pubs", "circuits")
    return {
        **{name: getattr(job, name) for name in names},
        "failover": f"{ran_on(job)}; {job.failover_reason}" if job.failover else None,
        "qubits": job.num_qubits,
        "shots": job.shots or None,
        "seed": job.seed,
        "payload": job.digest,
        "submitted": job.submitted_at.isoformat(),
        "waited": duration_text(job.waited_s),
        "took": duration_text(job.worked_s),
        "on the device": duration_text(job.usage.qpu_seconds),
        "charged": ", ".join(f"{cell_text(a)} {u}" for u, a in job.usage.charges.items()) or None,
        "calibration": job.calibrations or None,
        "provisional": "yes, it ran outside the quality windows" if job.provisional else None,
        "result of": job.source,
    }


def _task_row(task: RecordedTask) -> list[Any]:
    return [
        task.tag,
        task.state,
        _starts_text(task),
        task.shots,
        _instant_text(task.started_at),
        duration_text(task.worked_s),
        task.metadata.get("method"),
        task.error,
    ]


def _instant_text(instant: datetime | None) -> str:
    return "-" if instant is None else f"{instant:%Y-%m-%d %H:%M:%S}"
