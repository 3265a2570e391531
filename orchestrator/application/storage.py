"""What runs have stored in the state folder, and its removal."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from orchestrator.application.known_runs import driver_jobs
from orchestrator.application.register import (
    RegisteredRun,
    cancel_requested,
    is_being_submitted,
    registered_runs,
)
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from orchestrator.provenance.schema import RecordError, read_record
from orchestrator.retention import StoredRun, remove_stored, runs_to_remove, stored_runs

__all__ = ["CleanedRun", "clean"]

_KEEP_DAYS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanedRun:
    """One run's stored results, and whether they are within the limits, beyond them, or removed."""

    run: StoredRun
    state: Literal["within", "beyond", "removed"]


def clean(
    *,
    keep_days: float | None = None,
    keep_gib: float | None = None,
    remove: bool = False,
    site: Path | str | None = None,
) -> list[CleanedRun]:
    """List what runs have stored to be continued, and remove what is beyond the limits.

    Jobs, their results and what they cost stay in the ledger.

    Args:
        keep_days: Keep what was used in the last days. Without any limit, those of the site
            count, else 30 days.
        keep_gib: Keep so many GiB in all; the runs that were used longest ago go first.
        remove: Remove what is beyond the limits; else it is only listed.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        All runs that have stored something, the one that was used last first.

    Raises:
        ConfigError: The site file is wrong.
    """
    found = load_site(site)
    if keep_days is None and keep_gib is None:
        keep_days, keep_gib = found.keep_days, found.keep_gib
    if keep_days is None and keep_gib is None:
        keep_days = _KEEP_DAYS
    stored = stored_runs(found.state_dir)
    # Looked at afterwards: what is submitted from now on has newer files, which are not removed.
    waiting = _waiting_for_slurm(found)
    runs = [
        replace(
            run,
            active=run.active or run.id in waiting or is_being_submitted(found.state_dir, run.id),
        )
        for run in stored
    ]
    beyond = runs_to_remove(runs, time.time(), keep_days=keep_days, keep_gib=keep_gib)
    removed = [run for run in beyond if remove and remove_stored(found.state_dir, run)]
    return [
        CleanedRun(
            run=run,
            state="removed" if run in removed else "beyond" if run in beyond else "within",
        )
        for run in runs
    ]


def _waiting_for_slurm(site: Site) -> set[str]:
    """Return the runs whose driver job waits or runs, or may: nothing says that they have ended.

    Such a job needs its request, and the values of the stages that it has completed.
    """
    open_runs = [
        run
        for run in registered_runs(site.state_dir)
        if run.is_driver_job
        and not _has_ended(run)
        and not cancel_requested(site.state_dir, run.id)
    ]
    jobs = driver_jobs(site.state_dir, open_runs)
    if jobs is None:
        return {run.id for run in open_runs}
    return {run for run, job in jobs.items() if not job.state.is_over}


def _has_ended(run: RegisteredRun) -> bool:
    try:
        record = read_record(run.folder)
    except RecordError:
        return False
    return record.id == run.id and record.status in ("completed", "failed")
