"""What to do about worker jobs, from what is wanted, what Slurm says and what Dask has (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from orchestrator.slurm.explain import explain_reason, waits_for_other_jobs
from orchestrator.slurm.states import SlurmJob, SlurmState
from orchestrator.wording import counted

__all__ = [
    "Action",
    "Cancel",
    "Fleet",
    "GiveUp",
    "Hold",
    "Observation",
    "Release",
    "Retire",
    "Submit",
    "Want",
    "WorkerJob",
    "reconcile",
    "waiting_notice",
    "waits_for_nodes",
]

# A job that Slurm does not list so often in a row is gone. Once may be a restarted controller.
_MISSING = 2
_MOST_FAILURES = 3
# Deaths of jobs that worked before, each within `_SHORT_LIFE_S`, until something must be wrong.
_MOST_LOSSES = 20
_SHORT_LIFE_S = 60.0
# Dask learns with a worker's heartbeat that it began a task just before it was told to stop.
_SETTLE_S = 1.5
# Slurm may say for a moment that a job waits which it is about to start.
_MOMENT_S = 3.0

# A held job may be released, by this run or by somebody else.
_HELD = ("JobHeldUser", "JobHeldAdmin")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    """A worker job as the run knows it. number: in its tag. pool: Dask resource of its workers.

    at_s: of its submission. held: whether the run
    wants it so. joined_s: when Dask had its workers first. leaving_s: since when it is
    to take no further function. missing: times in a row that Slurm did not list it. ends_by: end of
    its walltime, None while it waits.
    """

    id: int
    number: int
    pool: str
    at_s: float
    held: bool = False
    joined_s: float | None = None
    leaving_s: float | None = None
    missing: int = 0
    ends_by: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """How many jobs a pool should have; held ones wait until they are released."""

    jobs: int
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What Slurm and Dask said. slurm: None if it did not answer.

    workers: number of workers in Dask of each job. busy: jobs whose workers execute something.
    """

    now_s: float
    slurm: Mapping[int, SlurmJob] | None
    workers: Mapping[int, int]
    busy: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All worker jobs of a run, and how often those of a pool failed in a row."""

    jobs: tuple[WorkerJob, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict)  # ended before Dask had them
    losses: Mapping[str, int] = field(default_factory=dict)  # ended soon after they had joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Submit a job for a pool."""

    pool: str
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Cancel a job."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """Let a job's workers take no further task, and move what they hold to others."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Hold a waiting job."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Release a held job."""

    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Fail the functions of a pool. job: the last one that failed, whose output says why."""

    pool: str
    job: WorkerJob
    reason: str


Action = Submit | Cancel | Retire | Hold | Release | GiveUp


@dataclass(frozen=True, slots=True)
class _Counts:
    """A fleet's counts, to be changed."""

    failures: dict[str, int]
    losses: dict[str, int]


def reconcile(
    fleet: Fleet, wanted: Mapping[str, Want], seen: Observation
) -> tuple[Fleet, list[Action]]:
    """Return the fleet as it is now, and what to do; `Submit`ted jobs are the caller's to add.

    Jobs of pools without a `Want` are cancelled at once. While Slurm does not answer, nothing is concluded
    from its silence.
    """
    counts = _Counts(dict(fleet.failures), dict(fleet.losses))
    staying: list[WorkerJob] = []
    given_up: dict[str, GiveUp] = {}
    for job in fleet.jobs:
        observed = _observed(job, seen)
        ending = _ending(observed, seen)
        if ending is None:
            staying.append(observed)
        if observed.joined_s is not None and job.joined_s is None:
            counts.failures.pop(job.pool, None)
        fault = _fault(observed, ending, seen, counts)
        if fault:
            given_up[job.pool] = GiveUp(pool=job.pool, job=observed, reason=fault)
    for pool in given_up:
        counts.failures.pop(pool, None)
        counts.losses.pop(pool, None)
    useless = [job for job in staying if job.pool in given_up or job.pool not in wanted]
    actions: list[Action] = [*given_up.values(), *(Cancel(job=job.id) for job in useless)]
    staying = [job for job in staying if job not in useless]
    for pool, want in wanted.items():
        if pool not in given_up:
            staying, more = _adjust(pool, want, staying, seen)
            actions += more
    after = Fleet(jobs=tuple(staying), failures=counts.failures, losses=counts.losses)
    return after, actions


def waiting_notice(fleet: Fleet, seen: Observation) -> str:
    """Return what worker jobs wait for, in Slurm's words; empty if none waits."""
    reasons = [
        found.reason or "no reason yet"
        for job in fleet.jobs
        if job.leaving_s is None and (found := (seen.slurm or {}).get(job.id)) is not None
        if found.state.is_waiting
    ]
    if not reasons:
        return ""
    listed = ", ".join(dict.fromkeys(reasons))
    return f"waiting for Slurm: {counted(len(reasons), 'worker job')} pending ({listed})"


def waits_for_nodes(fleet: Fleet, seen: Observation, pools: Collection[str]) -> bool:
    """Return whether a job of some pools waits until other jobs leave nodes, or room in a limit.

    Args:
        fleet: The run's jobs.
        seen: What Slurm said.
        pools: Those of the jobs in question.
    """
    return any(
        found.state.is_waiting and waits_for_other_jobs(found.reason)
        for job in fleet.jobs
        if job.pool in pools and seen.now_s - job.at_s >= _MOMENT_S
        if (found := (seen.slurm or {}).get(job.id)) is not None
    )


def _observed(job: WorkerJob, seen: Observation) -> WorkerJob:
    """Return the job with what was seen of it this time."""
    has_workers = seen.workers.get(job.id, 0) > 0
    joined_s = seen.now_s if job.joined_s is None and has_workers else job.joined_s
    missing = job.missing
    if seen.slurm is not None:
        missing = 0 if job.id in seen.slurm or has_workers else missing + 1
    found = (seen.slurm or {}).get(job.id)
    ends_by = job.ends_by if found is None else found.ends_by
    return replace(job, joined_s=joined_s, missing=missing, ends_by=ends_by)


def _ending(job: WorkerJob, seen: Observation) -> str | None:
    """Return how a job ended, None if it did not."""
    found = (seen.slurm or {}).get(job.id)
    has_workers = seen.workers.get(job.id, 0) > 0
    if found is not None and found.state.is_over:
        return found.state.value
    if found is not None and found.state is SlurmState.COMPLETING and not has_workers:
        return found.state.value
    if job.missing >= _MISSING:
        return "gone from Slurm's queue"
    return None


def _hopeless(job: WorkerJob, seen: Observation) -> str:
    """Return why a job can never start, in Slurm's words and ours; empty if it can."""
    found = (seen.slurm or {}).get(job.id)
    if found is None or not found.state.is_waiting or found.reason in _HELD:
        return ""
    explained = explain_reason(found.reason)
    return "" if explained.can_resolve else f"{found.reason}: {explained.text}"


def _fault(job: WorkerJob, ending: str | None, seen: Observation, counts: _Counts) -> str:
    """Return why a pool is to be given up after what happened to a job; empty if it is not."""
    if job.leaving_s is not None:
        return ""
    if ending is None:
        return _hopeless(job, seen)
    found = (seen.slurm or {}).get(job.id)
    if found is not None and found.state is SlurmState.PREEMPTED:
        return ""  # the site's will, and nothing is wrong with the job
    if job.joined_s is None:
        counts.failures[job.pool] = counts.failures.get(job.pool, 0) + 1
        return ending if counts.failures[job.pool] >= _MOST_FAILURES else ""
    if seen.now_s - job.joined_s >= _SHORT_LIFE_S:
        counts.losses.pop(job.pool, None)
        return ""
    counts.losses[job.pool] = counts.losses.get(job.pool, 0) + 1
    return ending if counts.losses[job.pool] >= _MOST_LOSSES else ""


def _adjust(
    pool: str, want: Want, jobs: Sequence[WorkerJob], seen: Observation
) -> tuple[list[WorkerJob], list[Action]]:
    """Return the jobs and what brings a pool to what is wanted."""
    active = [job for job in jobs if job.pool == pool and job.leaving_s is None]
    by_cost = sorted(active, key=lambda job: _cost_of_leaving(job, seen))
    surplus = by_cost[: max(0, len(active) - want.jobs)]
    leaving = {job.id for job in surplus if seen.workers.get(job.id, 0)}
    dropped = {job.id for job in surplus if job.id not in leaving}
    dropped |= {
        job.id
        for job in jobs
        if job.pool == pool and job.leaving_s is not None and _has_left(job, seen)
    }
    actions: list[Action] = [Retire(job=job) for job in sorted(leaving)]
    actions += [Cancel(job=job) for job in sorted(dropped)]
    changed = {
        job.id
        for job in active
        if job.held != want.held and job.id not in dropped and _waits(job, seen)
    }
    actions += [Hold(job=job) if want.held else Release(job=job) for job in sorted(changed)]
    if seen.slurm is not None:
        lacking = max(0, want.jobs - len(active))
        actions += [Submit(pool=pool, held=want.held)] * lacking
    after = [
        replace(
            job,
            leaving_s=seen.now_s if job.id in leaving else job.leaving_s,
            held=want.held if job.id in changed else job.held,
        )
        for job in jobs
        if job.id not in dropped
    ]
    return after, actions


def _waits(job: WorkerJob, seen: Observation) -> bool:
    found = (seen.slurm or {}).get(job.id)
    return found is not None and found.state.is_waiting


def _cost_of_leaving(job: WorkerJob, seen: Observation) -> tuple[bool, bool, bool, float]:
    """Order jobs: those that wait first, then those that start, are idle, are busy; newest first."""
    found = (seen.slurm or {}).get(job.id)
    runs = found is not None and found.state.is_running
    return seen.workers.get(job.id, 0) > 0, runs, job.id in seen.busy, -job.at_s


def _has_left(job: WorkerJob, seen: Observation) -> bool:
    """Whether a job that is leaving has nothing left to do."""
    assert job.leaving_s is not None
    if not seen.workers.get(job.id, 0):
        return True
    return job.id not in seen.busy and seen.now_s - job.leaving_s >= _SETTLE_S
