"""The end of a run from another process: its process, its quantum jobs, its record."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from orchestrator.agent.folder import AgentError
from orchestrator.application.jobs import has_ledger, jobs_of, ledger_path
from orchestrator.application.known_runs import RunState, RunView, agent_is_running, known_run
from orchestrator.application.register import (
    RegisteredRun,
    advice_after_haste,
    cancel_requested,
    find_registered,
    locked_entry,
    note_cancel,
    unknown_run,
    withdraw_cancel,
)
from orchestrator.application.service import service_at
from orchestrator.arguments import expect
from orchestrator.broker.runtime.embedded import RunBusy
from orchestrator.config.environment import hand_down
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import LAPTOP, load_site
from orchestrator.config.site import Site
from orchestrator.identity import SlurmOwner, is_scope_of
from orchestrator.provenance.folder import FolderError, RunFolder
from orchestrator.provenance.record import run_record
from orchestrator.provenance.schema import RecordError, read_record
from orchestrator.retention import is_active
from orchestrator.slurm import Slurm, owner_of

__all__ = ["CancelledRun", "cancel_run", "end_abandoned"]

_GRACE_S = 30.0  # as Slurm's KillWait
_KILL_S = 5.0
_LOOK_EVERY_S = 0.1
_LOOK_AT_SLURM_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRun:
    """What was ended of a run.

    before: its state before. process_ended: whether a process was working on it. quantum_jobs: how
    many of its jobs were open after the end of that process, and were cancelled. slurm_jobs: its
    jobs at Slurm that were cancelled.
    """

    id: str
    before: RunState
    process_ended: bool = False
    quantum_jobs: int = 0
    slurm_jobs: tuple[int, ...] = ()


def cancel_run(run: str, *, site: Path | str | None = None) -> CancelledRun:
    """End a run from another process: its process, its quantum jobs and its Slurm jobs.

    The process is asked to end, and killed after 30 s. What a process that died earlier has left is
    ended, too. The run may be continued with its id. Of a run of the local agent, the agent is
    asked to end it.

    Args:
        run: Its id, or the unambiguous start of it.
        site: Path of a site file, whose state folder has the run; None for the one that the usual
            lookup finds.

    Returns:
        What was ended. A run that had ended stays as it is.

    Raises:
        ConfigError: There is no such run, there are several, or its process is on another machine.
        BrokerUnreachable: The broker service of the run does not answer.
        SlurmUnavailable: The run has Slurm jobs, and Slurm does not answer.
    """
    expect("run", run, str, "a run's id, or the start of one")
    here = load_site(site)
    registered = find_registered(here.state_dir, run)
    if registered is None:
        return _cancel_at_agent(here, run)
    before = known_run(here, registered.id).state
    notes = before in ("pending", "running", "killed") and not cancel_requested(
        here.state_dir, registered.id
    )
    if notes:
        note_cancel(here.state_dir, registered.id)
    slurm = Slurm() if _may_have_slurm_jobs(here.state_dir, registered) else None
    owner = owner_of(here.state_dir, registered.id)
    try:
        ended = _end_process(here.state_dir, registered, slurm)
    except BaseException:
        if notes:
            withdraw_cancel(here.state_dir, registered.id)
        raise
    slurm_jobs = _end_slurm_jobs(owner, slurm) if slurm is not None else ()
    its_site = _site_of(registered)
    jobs = _end_jobs(its_site, registered.id)
    _close_record(its_site, registered)
    return CancelledRun(
        id=registered.id,
        before=before,
        process_ended=ended,
        quantum_jobs=jobs,
        slurm_jobs=slurm_jobs,
    )


def end_abandoned(site: Site, seen: RunView) -> None:
    """End what a run has left whose driver job was cancelled; it is tried again after a failure.

    seen: the run as it was. What has been submitted or has begun since is left alone.
    """
    away = ValueError, RuntimeError  # a broker or Slurm
    with suppress(*away, BlockingIOError), locked_entry(site.state_dir, seen.id, wait=False):
        slurm = Slurm(patience_s=0.0)
        left = _slurm_jobs_of(owner_of(site.state_dir, seen.id), slurm)
        registered = find_registered(site.state_dir, seen.id)
        if (
            registered is None
            or (registered.id, registered.slurm_job) != (seen.id, seen.slurm_job)
            or cancel_requested(site.state_dir, seen.id)
        ):
            return
        note_cancel(site.state_dir, seen.id)
        try:
            if is_active(site.state_dir, seen.id):
                raise RunBusy(f"run {seen.id!r} goes on")
            its_site = _site_of(registered)
            if left:
                slurm.cancel(left)
            _end_jobs(its_site, seen.id)
            _close_record(its_site, registered)
        except BaseException:
            withdraw_cancel(site.state_dir, seen.id)
            raise


def _cancel_at_agent(site: Site, run: str) -> CancelledRun:
    if agent_is_running(site.state_dir):
        from orchestrator.application.agent import cancel_flow_run

        with suppress(AgentError):
            view = cancel_flow_run(run)
            return CancelledRun(
                id=str(view.id),
                before="completed" if view.is_final else "running",
                process_ended=not view.is_final,
            )
    raise unknown_run(site.state_dir, run)


def _end_process(state_dir: Path, run: RegisteredRun, slurm: Slurm | None) -> bool:
    """End the process that works on a run; return whether there was one."""
    if not is_active(state_dir, run.id):
        return False
    if slurm is not None and run.is_driver_job and run.slurm_job is not None:
        slurm.cancel([run.slurm_job], signal="TERM")
        _within(_GRACE_S, lambda: not is_active(state_dir, run.id))
        return True  # the rest is cancelled with its job
    process = run.process
    if process is None or not process.is_here:
        place = (
            "a process that is not known"
            if process is None
            else f"process {process.pid} on {process.host}"
        )
        raise ConfigError(f"run {run.id!r} is worked on by {place}; cancel it there")
    process.signal(signal.SIGTERM)
    if not _within(_GRACE_S, lambda: not is_active(state_dir, run.id)):
        process.signal(signal.SIGKILL)
        _within(_KILL_S, lambda: not is_active(state_dir, run.id))
    _within(_KILL_S, lambda: not process.is_alive())
    return True


def _within(seconds: float, holds: Callable[[], bool], every_s: float = _LOOK_EVERY_S) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def _may_have_slurm_jobs(state_dir: Path, run: RegisteredRun) -> bool:
    return run.is_driver_job or (state_dir / "slurm" / run.id).is_dir()


def _end_slurm_jobs(owner: SlurmOwner, slurm: Slurm) -> tuple[int, ...]:
    """Cancel the jobs of a run; return those that there were, when they have ended or after 30 s."""
    found = _slurm_jobs_of(owner, slurm)
    if found:
        slurm.cancel(found)
        _within(_GRACE_S, lambda: not _slurm_jobs_of(owner, slurm), _LOOK_AT_SLURM_EVERY_S)
    return tuple(found)


def _slurm_jobs_of(owner: SlurmOwner, slurm: Slurm) -> list[int]:
    """Return the jobs of a run that wait or run."""
    return sorted(
        job.id
        for job in slurm.jobs().values()
        if owner.has(job.tag) and not job.state.is_over and not job.was_refused
    )


def _site_of(run: RegisteredRun) -> Site:
    """Return the site of a run, with the broker that its last attempt used."""
    place = run.site or LAPTOP
    site = load_site(place, run.settings)
    url = RunFolder(run.folder).broker_of(run.id)
    if url is None or url == site.broker.url:
        return site
    from orchestrator.agent.control import agent_environment

    offered = agent_environment(site)
    if offered is not None and offered["HPCQC_BROKER_URL"] == url:
        hand_down({name: offered[name] for name in offered if name.startswith("HPCQC_BROKER_")})
        return load_site(place, run.settings)
    return site


def _end_jobs(site: Site, run: str) -> int:
    """Cancel the open jobs of a run that no process works on; return how many there were."""
    open_jobs = [job for job in jobs_of(site, run) if not job.state.is_final]
    if not open_jobs:
        return 0
    if site.broker.url is not None:
        with closing(service_at(site, site.broker.url)) as service:
            return sum(service.cancel(job.id) for job in open_jobs)
    if has_ledger(site.state_dir):
        for scope in _scopes(site.state_dir, run):
            _end_embedded(site, scope)
    return len(open_jobs)


def _scopes(state_dir: Path, run: str) -> list[str]:
    from orchestrator.broker.ledger import Ledger

    with closing(Ledger.open(ledger_path(state_dir))) as ledger:
        return [scope for scope in ledger.runs() if is_scope_of(scope, run)]


def _end_embedded(site: Site, scope: str) -> None:
    from orchestrator.broker.runtime.embedded import EmbeddedBroker
    from orchestrator.resources import open_backend

    broker = EmbeddedBroker(
        run=scope,
        state_dir=site.state_dir,
        open_backend=partial(open_backend, site),
        qpus=site.qpus,
    )
    broker.open()
    broker.close(abandoned=True)


def _close_record(site: Site, run: RegisteredRun) -> None:
    """Complete the record of a run whose process was killed, or ended before its jobs."""
    folder = RunFolder(run.folder)
    try:
        record = read_record(run.folder)
    except RecordError:
        return
    was_killed = record.status == "running"
    ended_early = record.status == "interrupted" and record.has_open_jobs
    before, advice, _ = (record.error or "").partition(advice_after_haste(run.id))
    if record.id != run.id or not (was_killed or ended_early or advice):
        return
    error = "interrupted: cancelled" if was_killed or ended_early else before
    head = record.model_copy(update={"error": error})
    if was_killed:
        last = {"status": "interrupted", "reason": "cancelled"}
        attempts = *record.attempts[:-1], record.attempts[-1].model_copy(update=last)
        now = datetime.now(UTC)
        head = head.model_copy(
            update={"status": "interrupted", "ended_at": now, "attempts": attempts}
        )
    with suppress(FolderError):
        folder.open(run.id, record.target)
        try:
            jobs = jobs_of(site, run.id)
            folder.write_record(run_record(head, folder.noted_stages(), jobs))
        finally:
            folder.close()
