"""The runs of a state folder and of its agent, as they are now."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from orchestrator.application.jobs import jobs_of
from orchestrator.application.register import (
    RegisteredRun,
    cancel_requested,
    find_registered,
    log_files,
    registered_runs,
    unknown_run,
    why_last_job,
)
from orchestrator.application.report import read_result
from orchestrator.arguments import expect
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from orchestrator.provenance.folder import RunFolder
from orchestrator.provenance.outcome import Outcome
from orchestrator.provenance.schema import RecordedSlurm, RecordError, RunRecord, read_record
from orchestrator.retention import is_active, stored_runs
from orchestrator.slurm import (
    Slurm,
    SlurmJob,
    SlurmRefused,
    SlurmState,
    SlurmUnavailable,
    explain_reason,
    owner_of,
)

__all__ = [
    "RunState",
    "RunView",
    "agent_is_running",
    "driver_jobs",
    "known_run",
    "known_runs",
    "run_view",
    "runs",
]

RunState = Literal[
    "pending", "running", "completed", "failed", "interrupted", "cancelled", "killed"
]
# The states of Prefect, as runs without an agent have them.
_OF_PREFECT: Mapping[str, RunState] = {
    "Running": "running",
    "Completed": "completed",
    "Failed": "failed",
    "Crashed": "killed",
    "Cancelled": "cancelled",
    "Cancelling": "running",
}
# Ends of an attempt after which a driver job is continued.
_CONTINUED = ("walltime", "preempted", "requeued")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as it is now.

    state: ``killed`` if its process is gone without a record of its end; such a run, and an
    interrupted one, goes on with its id. reason: why it waits, or did not complete. host and
    process: of its latest attempt. slurm_job: in which that is. stored_bytes: what the state folder
    keeps so that it can be continued. agent: whether the local agent runs it. abandoned: whether
    its driver job was cancelled, and quantum jobs may be left that nobody waits for.

    `run_view` alone adds: quantum_jobs, how many there are in each state; slurm_use, what its Slurm
    jobs took; logs, the files with what it printed; outcome and result, of one that completed.
    """

    id: str
    flow: str
    state: RunState
    reason: str | None = None
    host: str | None = None
    process: int | None = None
    slurm_job: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    stages_done: int | None = None
    qpu_seconds: float | None = None
    folder: Path | None = None
    stored_bytes: int = 0
    agent: bool = False
    abandoned: bool = False
    quantum_jobs: Mapping[str, int] = field(default_factory=dict)
    slurm_use: RecordedSlurm | None = None
    logs: tuple[Path, ...] = ()
    outcome: Outcome | None = None
    result: Any = None


def runs(limit: int = 20, *, site: Path | str | None = None) -> list[RunView]:
    """Return the latest runs of the state folder, and those of the local agent if one is running.

    A run with a driver job is as Slurm says, and as it was last where Slurm does not answer. Quantum
    jobs that such a run has left, because its job was cancelled and its process was killed, are
    cancelled by this call.

    Args:
        limit: How many.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        The runs, the oldest first.

    Raises:
        ConfigError: The site file is wrong.
        LedgerError: The ledger cannot be read.
    """
    found = load_site(site)
    views = known_runs(found, limit)
    if any(view.abandoned for view in views):
        from orchestrator.application.cancel import end_abandoned

        for view in views:
            if view.abandoned:
                end_abandoned(found, view)
    return views


def run_view(run: str, *, site: Path | str | None = None) -> RunView:
    """Return one run of the state folder.

    Args:
        run: Its id, or the unambiguous start of it.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        The run as it is now, with its result if it completed.

    Raises:
        ConfigError: There is no such run, or there are several.
    """
    expect("run", run, str, "a run's id, or the start of one")
    found = load_site(site)
    view = known_run(found, run)
    registered = find_registered(found.state_dir, view.id)
    if registered is None:  # removed meanwhile
        raise unknown_run(found.state_dir, run)
    record = _record(registered)
    completed = record if view.state == "completed" else None
    result, _ = (None, []) if completed is None else read_result(registered.folder / "result.json")
    return replace(
        view,
        quantum_jobs=_jobs_by_state(found, view, record),
        slurm_use=None if record is None else record.slurm,
        logs=log_files(found.state_dir, registered),
        outcome=None if completed is None else completed.outcome,
        result=result,
    )


def known_runs(site: Site, limit: int) -> list[RunView]:
    """Return the latest runs, the oldest first."""
    sizes = {stored.id: stored.size_bytes for stored in stored_runs(site.state_dir)}
    registered = registered_runs(site.state_dir)[:limit]
    jobs = driver_jobs(site.state_dir, registered)
    views = [_view(site, run, sizes.get(run.id, 0), jobs) for run in registered]
    views += _of_agent(site, limit, sizes)
    views.sort(key=lambda view: (view.started_at is None, view.started_at or view.id, view.id))
    return views[-limit:]


def known_run(site: Site, start_of_id: str) -> RunView:
    """Return a registered run by its id or the start of it. Raises `ConfigError`."""
    found = find_registered(site.state_dir, start_of_id)
    if found is None:
        raise unknown_run(site.state_dir, start_of_id)
    sizes = {stored.id: stored.size_bytes for stored in stored_runs(site.state_dir)}
    return _view(site, found, sizes.get(found.id, 0), driver_jobs(site.state_dir, [found]))


def agent_is_running(state_dir: Path) -> bool:
    """Whether the local agent of a state folder is running."""
    if not os.access(state_dir / "agent", os.F_OK):
        return False
    from orchestrator.agent.control import status_of
    from orchestrator.agent.folder import AgentFolder

    status = status_of(AgentFolder(path=state_dir / "agent"))
    return status.phase not in ("stopped", "stopping") and "prefect_api" in status.addresses


def _view(
    site: Site, run: RegisteredRun, stored_bytes: int, jobs: Mapping[str, SlurmJob] | None
) -> RunView:
    record = _record(run)
    job = None if jobs is None else jobs.get(run.id)
    state, reason = _state(site, run, record, job, is_silent=jobs is None)
    has_ended = record is not None and record.status in ("completed", "failed")
    ended = record.ended_at if record is not None and state not in ("pending", "running") else None
    return RunView(
        id=run.id,
        flow=run.flow,
        state=state,
        reason=reason,
        host=run.process.host if run.process else None,
        process=run.process.pid if run.process else None,
        slurm_job=run.slurm_job,
        started_at=record.started_at if record else None,
        ended_at=ended,
        stages_done=len(
            {s.key for s in RunFolder(run.folder).noted_stages() if s.state == "completed"}
        ),
        qpu_seconds=_qpu_seconds(site, run, record, state),
        folder=run.folder,
        stored_bytes=stored_bytes,
        abandoned=job is not None
        and job.state is SlurmState.CANCELLED
        and not has_ended
        and not cancel_requested(site.state_dir, run.id)
        and not is_active(site.state_dir, run.id),
    )


def driver_jobs(
    state_dir: Path, registered: Sequence[RegisteredRun]
) -> Mapping[str, SlurmJob] | None:
    """Return the driver jobs that Slurm has, by run, with one query; None if it does not answer."""
    wanted = {
        run.id: run.slurm_job
        for run in registered
        if run.is_driver_job and run.slurm_job is not None
    }
    if not wanted:
        return {}
    try:
        found = Slurm(patience_s=0.0).jobs(sorted(set(wanted.values())))
    except (SlurmUnavailable, SlurmRefused):
        return None
    # Slurm gives the numbers of jobs again, after a new installation at the latest.
    return {
        run: found[job]
        for run, job in wanted.items()
        if job in found and owner_of(state_dir, run).has(found[job].tag)
    }


def _record(run: RegisteredRun) -> RunRecord | None:
    try:
        record = read_record(run.folder)
    except RecordError:
        return None
    return record if record.id == run.id else None


def _state(
    site: Site,
    run: RegisteredRun,
    record: RunRecord | None,
    job: SlurmJob | None,
    *,
    is_silent: bool,
) -> tuple[RunState, str | None]:
    if is_active(site.state_dir, run.id):
        return "running", None
    if job is not None and job.state.is_waiting:
        return "pending", explain_reason(job.reason).text if job.reason else None
    if job is not None and job.state.is_running:
        return "running", None
    if record is not None and record.status in ("completed", "failed"):
        return record.status, record.error
    if cancel_requested(site.state_dir, run.id):
        return "cancelled", None
    if job is not None and job.state is SlurmState.CANCELLED:
        return "cancelled", f"Slurm job {job.id} was cancelled"
    may_follow = run.is_driver_job and why_last_job(site.state_dir, run.id) is None
    last_known = _before_silence(record) if is_silent and may_follow else None
    if last_known is not None:
        return last_known, "Slurm does not answer"
    if record is None or record.status == "running":
        how = "its process is gone"
        if job is not None:
            ending = _ending(job)
            how = f"Slurm job {job.id} ended as {job.state.value}{ending} (`hpcqc logs {run.id}`)"
        return "killed", f"{how}; continue it with --run-id"
    return record.status, _why_ended(site, run, record)


def _why_ended(site: Site, run: RegisteredRun, record: RunRecord) -> str | None:
    """Return why a run ended, and why its driver job is not followed by another one."""
    is_stopped = run.is_driver_job and record.status == "interrupted"
    last = why_last_job(site.state_dir, run.id) if is_stopped else None
    return record.error if last is None else f"{record.error}; not continued: {last}"


def _ending(job: SlurmJob) -> str:
    """Return how a job's script ended, as the rest of a sentence; empty if Slurm does not say."""
    try:
        ending = Slurm(patience_s=0.0).details(job.id).ending
    except SlurmUnavailable:
        return ""
    return f" with {ending}" if ending else ""


def _before_silence(record: RunRecord | None) -> RunState | None:
    """Return how a driver job was when its process wrote last; None if it had ended for good."""
    if record is None:
        return "pending"
    if record.status == "running":
        return "running"
    reason = record.attempts[-1].reason if record.attempts else None
    return "pending" if reason in _CONTINUED else None


def _qpu_seconds(
    site: Site, run: RegisteredRun, record: RunRecord | None, state: RunState
) -> float | None:
    if record is not None and _is_final(record, state):
        return record.usage.total.qpu_seconds
    try:
        return sum(job.usage.qpu_seconds for job in jobs_of(site, run.id))
    except (ValueError, RuntimeError):  # a ledger that is damaged, a service that is away
        return None


def _jobs_by_state(site: Site, view: RunView, record: RunRecord | None) -> dict[str, int]:
    if record is not None and _is_final(record, view.state):
        return dict(Counter(str(job.state) for job in record.jobs))
    try:
        return dict(Counter(job.state.value for job in jobs_of(site, view.id)))
    except (ValueError, RuntimeError):  # a ledger that is damaged, a service that is away
        return {}


def _is_final(record: RunRecord, state: RunState) -> bool:
    """Whether the record has a run's jobs as they are; one that ended in haste may lack their ends."""
    return state in ("completed", "failed", "interrupted") and not record.has_open_jobs


def _of_agent(site: Site, limit: int, sizes: Mapping[str, int]) -> list[RunView]:
    if not agent_is_running(site.state_dir):
        return []
    from orchestrator.application.agent import flow_runs

    return [_agent_view(view, sizes) for view in flow_runs(limit)]


def _agent_view(view: Any, sizes: Mapping[str, int]) -> RunView:
    return RunView(
        id=str(view.id),
        flow=view.deployment or view.name,
        state=_OF_PREFECT.get(view.state, "pending"),
        reason=view.message if view.state not in ("Running", "Completed") else None,
        started_at=view.started_at,
        stored_bytes=sizes.get(str(view.id), 0),
        agent=True,
    )
