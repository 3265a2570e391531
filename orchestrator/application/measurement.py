"""What a run used by Slurm's accounting, for its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from orchestrator.accounting.entries import AccountBooks, Attempt, RunKey, attempts_of, gpus_of
from orchestrator.application.accounting import slurm_holds, uses_slurm
from orchestrator.config.private import login_name
from orchestrator.config.site import Site
from orchestrator.identity import SlurmOwner
from orchestrator.provenance.schema import RecordedSlurm, RecordedSlurmJob
from orchestrator.slurm import Slurm, SlurmRefused, SlurmUnavailable, owner_of

__all__ = ["measured", "recorded_slurm"]

_PAUSE_S = 0.5


def measured(
    site: Site,
    run: str,
    since: datetime,
    *,
    patience_s: float = 5.0,
    slurm: Slurm | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RecordedSlurm | None:
    """Return what a run's Slurm jobs used; None if it had none, or if Slurm does not answer.

    since: of the run's first attempt. Slurm's accounting may be late by seconds, and jobs that were
    cancelled take some to end, so this waits for them, for ``patience_s`` at most.
    """
    if not uses_slurm(site):
        return None
    slurm = slurm or Slurm(patience_s=0.0, timeout_s=max(1.0, patience_s))
    key, owner = RunKey(login_name(), run), owner_of(site.state_dir, run)
    deadline = clock() + patience_s
    while True:
        try:
            attempts = _attempts(slurm, site, key, owner, since)
            known = {attempt.job.id for attempt in attempts}
            late = [
                job.id
                for job in slurm.jobs().values()
                if owner.has(job.tag)
                and job.nodes
                and job.id not in known
                and (job.ended_at is None or job.ended_at > since)  # else of another run of this id
            ]
        except (SlurmRefused, SlurmUnavailable) as error:
            logging.getLogger(__name__).info("%s", error)
            return None
        is_complete = not late and all(
            one.job.ended_at is not None for one in attempts if one.purpose != "driver"
        )
        if is_complete or clock() >= deadline:
            return recorded_slurm(attempts, is_complete=is_complete)
        sleep(_PAUSE_S)


def recorded_slurm(attempts: Sequence[Attempt], *, is_complete: bool) -> RecordedSlurm | None:
    """Return the sums of a run's attempts, those of its driver apart; None for no attempts."""
    if not attempts:
        return None
    counted = [one for one in attempts if one.purpose != "driver"]
    begins = [one.job.submitted_at for one in counted if one.job.submitted_at is not None]
    ends = [one.job.ended_at for one in counted if one.job.ended_at is not None]
    makespan_s = (max(ends) - min(begins)).total_seconds() if begins and ends else 0.0
    return RecordedSlurm(
        makespan_s=max(0.0, makespan_s),
        node_s=sum(one.job.node_seconds for one in counted),
        worker_node_s=sum(one.job.node_seconds for one in counted if one.has_workers),
        core_s=sum(one.job.core_seconds for one in counted),
        gpu_s=sum(one.job.elapsed_s * gpus_of(one.job) for one in counted),
        qpu_held_s=sum(one.job.elapsed_s * sum(one.held.values()) for one in counted),
        jobs=tuple(_recorded(one) for one in attempts),
        is_complete=is_complete,
    )


def _attempts(
    slurm: Slurm, site: Site, key: RunKey, owner: SlurmOwner, since: datetime
) -> list[Attempt]:
    books = AccountBooks(
        user=key.user,
        attempts=slurm.accounting(since=since),
        quantum=None,
        state=owner.state,
        holds=slurm_holds(site),
    )
    return [attempt for attempt in attempts_of(books, [key]) if attempt.key == key]


def _recorded(one: Attempt) -> RecordedSlurmJob:
    job = one.job
    return RecordedSlurmJob(
        id=job.id,
        purpose=one.purpose,
        state=job.state.value,
        partition=job.partition,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        elapsed_s=job.elapsed_s,
        nodes=job.node_count,
        cpus=job.cpus,
        gpus=gpus_of(job),
        qpus=dict(one.held),
    )
