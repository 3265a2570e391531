"""The entries of both books, and whose they are: Slurm's jobs and quantum jobs by run (pure)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from orchestrator.identity import SLURM_PURPOSES, slurm_job_name
from orchestrator.slurm.states import AccountedJob

__all__ = [
    "AccountBooks",
    "Attempt",
    "Period",
    "QpuHold",
    "QuantumUse",
    "RunFacts",
    "RunKey",
    "TaskUse",
    "attempts_of",
    "gpus_of",
    "held_by",
]

_NAME = "hpcqc-"
_LICENCE = "license/"
_PURPOSE = re.compile(rf"(?:^|-)({'|'.join(SLURM_PURPOSES)})(?:-|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A span of time. since: its first instant; until: the first one after it; both aware."""

    since: datetime
    until: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.since <= instant < self.until

    def seconds_of(self, attempt: AccountedJob, now: datetime) -> float:
        """Return the seconds within the period that an attempt had its nodes.

        These are Slurm's own seconds if all of it is within the period, up to now if it is
        running; else that part of them that lies within the period.
        """
        if attempt.started_at is None:
            return 0.0
        end = max(attempt.ended_at or now, attempt.started_at)
        if end == attempt.started_at:  # shorter than Slurm's clock tells, or its clock is ahead
            return attempt.elapsed_s if end in self else 0.0
        begun, ended = max(attempt.started_at, self.since), min(end, self.until)
        if (begun, ended) == (attempt.started_at, end):
            return attempt.elapsed_s
        if ended <= begun:
            return 0.0
        # Slurm does not say when an attempt was suspended: what it lost so is spread evenly.
        return attempt.elapsed_s * ((ended - begun) / (end - attempt.started_at))


@dataclass(frozen=True, slots=True)
class RunKey:
    """A run among those of all users: they choose the ids of their runs themselves.

    state: digest of its state folder, as `SlurmOwner` has it; empty for the reader's own folder, and
    where it is not known.
    """

    user: str
    run: str
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is recorded of a run; a text is empty where it is not known."""

    run: str
    user: str
    flow: str = ""
    coupling: str = ""
    project: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUse:
    """This job's part of a task on a QPU.

    counts: whether it is charged; others only show that the QPU was used meanwhile. qpu: on which
    it ran; empty for that of the job. slurm_job: that held it; None where Slurm does not grant it,
    and where only the job says.
    """

    started_at: datetime | None
    ended_at: datetime | None
    counts: bool = True
    qpu: str = ""
    slurm_job: int | None = None
    qpu_seconds: float = 0.0
    charges: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantumUse:
    """A quantum job as the ledger has it. flow, coupling: of its run; empty where not known.

    slurm_jobs: that held the QPU for its tasks, and for what is left of it; empty where Slurm does
    not grant the QPU.
    """

    job: str
    run: str
    user: str
    qpu: str
    submitted_at: datetime
    project: str = ""
    flow: str = ""
    coupling: str = ""
    slurm_jobs: tuple[int, ...] = ()
    tasks: tuple[TaskUse, ...] = ()

    def qpu_of(self, task: TaskUse) -> str:
        """Return the QPU that a task of it ran on."""
        return task.qpu or self.qpu


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuHold:
    """How Slurm sees a QPU. tres: names of resources, any of which stands for it."""

    qpu: str
    tres: tuple[str, ...] = ()
    partition: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBooks:
    """Both books and what else is known, as they were read.

    Attributes:
        user: Login name of the reader, to whom quantum jobs without a user belong.
        attempts: Of Slurm's accounting; None if it could not be read.
        quantum: Of the ledger; None if it could not be read.
        runs: What is recorded of runs.
        registered: Users all of whose runs are in ``runs``.
        told: Users all of whose quantum jobs are in ``quantum``; None for all users.
        allocations: Slurm jobs that a run works in without having submitted them.
        holds: The QPUs that Slurm knows.
        queued: Jobs of ours in Slurm's queue that have started, and thus belong in its accounting.
        state: Digest of the reader's state folder, as tags have it.
        is_shared: Whether runs of other state folders are in ``quantum``, as a service has them.
        listed: All jobs of the reader in Slurm's queue; None if it did not answer.
    """

    user: str
    attempts: Sequence[AccountedJob] | None
    quantum: Sequence[QuantumUse] | None
    runs: Sequence[RunFacts] = ()
    registered: Collection[str] = ()
    told: Collection[str] | None = None
    allocations: Mapping[int, RunKey] = field(default_factory=dict)
    holds: Sequence[QpuHold] = ()
    queued: Collection[int] = ()
    state: str = ""
    is_shared: bool = False
    listed: Collection[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt of a Slurm job of ours.

    key: its run; the id is empty if nothing says which. by_name: the run is known by the job's
    name alone, because its comment is missing or not ours. held: how many of each QPU it had.
    has_workers: whether its nodes are for more than holding a QPU.
    """

    job: AccountedJob
    key: RunKey
    purpose: str
    by_name: bool = False
    is_renamed: bool = False
    held: Mapping[str, float] = field(default_factory=dict)
    has_workers: bool = True

    @property
    def component(self) -> tuple[str, str, datetime | None] | None:
        """What the components of one heterogeneous job have in common; None without a comment."""
        job = self.job
        return None if job.tag is None else (job.user, job.comment, job.started_at)

    @property
    def span(self) -> tuple[datetime, datetime | None] | None:
        """When it had its nodes; None if it never had any."""
        return None if self.job.started_at is None else (self.job.started_at, self.job.ended_at)


def attempts_of(books: AccountBooks, owners: Iterable[RunKey]) -> list[Attempt]:
    """Return the attempts that are ours, each once, in order of submission.

    A job is ours by its comment, else by the start of its name, else because a run worked in it.
    owners: the known runs, among which one with the job's name is looked for.
    """
    known = defaultdict(set)
    found: dict[tuple[int, datetime | None, datetime | None], AccountedJob] = {}
    for job in books.attempts or ():
        found[job.id, job.submitted_at, job.started_at] = job
        if job.tag is not None:
            known[job.user].add(job.tag.run)
    for key in owners:
        known[key.user].add(key.run)
    names: dict[str, dict[str, list[str]]] = {}
    for user, runs in known.items():
        named = names.setdefault(user, {})
        for run in sorted(runs):
            named.setdefault(slurm_job_name(run, ""), []).append(run)
    ours = [
        attempt
        for job in found.values()
        if (attempt := _attempt(books, job, names.get(job.user, {}))) is not None
    ]
    ordered = sorted(ours, key=lambda one: (one.job.submitted_at is None, _order(one.job)))
    return _with_held(ordered, books)


def _with_held(attempts: Sequence[Attempt], books: AccountBooks) -> list[Attempt]:
    """Return the attempts with the QPUs that each held, one QPU once in each heterogeneous job."""
    jobs: defaultdict[object, list[int]] = defaultdict(list)
    for place, one in enumerate(attempts):
        jobs[place if one.component is None else one.component].append(place)
    found = [*attempts]
    quantum = books.quantum or ()
    used = _used_in(quantum)
    names = {hold.qpu for hold in books.holds} | {use.qpu for use in quantum}
    for places in jobs.values():
        several = [attempts[place] for place in places]
        told = set[str]().union(*(used.get((one.key.run, one.job.id), ()) for one in several))
        parts = _held_of(several, books.holds, _named(several[0], names) or told)
        for place, part in zip(places, parts, strict=True):
            found[place] = part
    return found


def _used_in(quantum: Iterable[QuantumUse]) -> dict[tuple[str, int], set[str]]:
    """Return the QPUs that a run used in a Slurm job, by both.

    Slurm gives the numbers of jobs again, after a new installation at the latest.
    """
    used: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for use in quantum:
        told = {task.slurm_job: use.qpu_of(task) for task in use.tasks}
        for slurm_job in use.slurm_jobs:
            used[use.run, slurm_job].add(told.get(slurm_job, use.qpu))
    return used


def _named(attempt: Attempt, qpus: Iterable[str]) -> set[str]:
    """Return the QPU in the name of a job that is for holding one; none for other jobs.

    qpus: the known ones. A name has some characters replaced, and may be cut.
    """
    if attempt.purpose != "qpu":
        return set()
    name, run = attempt.job.name, attempt.key.run
    begin = slurm_job_name(run, "qpu-") if run else "".join(name.partition("-qpu-")[:2])
    end = name.removeprefix(begin) if name.startswith(begin) else ""
    if not end:
        return set()
    known = {qpu for qpu in qpus if slurm_job_name("", f"qpu-{qpu}") == f"{_NAME}-qpu-{end}"}
    if len(known) > 1:
        return set()
    return known or {end}


def _held_of(
    parts: Sequence[Attempt], holds: Sequence[QpuHold], qpus: Collection[str]
) -> Iterator[Attempt]:
    """Yield the components of one job with what each held, and whether workers were on its nodes.

    Slurm numbers the components in order. The first one has the workers and the job's licences,
    because Slurm counts those of no other (`orchestrator.compute.worker_jobs`); the further ones
    are there for the QPU, with its partition and GRES. qpus: as `held_by` takes them.
    """
    first = min(part.job.id for part in parts)
    licences = {
        name: count
        for part in parts
        for name, count in part.job.tres.items()
        if name.startswith(_LICENCE)
    }
    counted: set[str] = set()
    for part in parts:
        job, purpose = part.job, part.purpose
        has_workers = purpose != "qpu" and job.id == first
        if len(parts) > 1:
            if has_workers:
                yield part
                continue
            # For a site that accounts no QPUs, the purpose says that the component has one.
            job, purpose = replace(job, tres={**licences, **job.tres}), "qpu"
        held = {q: n for q, n in held_by(job, purpose, holds, qpus).items() if q not in counted}
        counted |= {*held}
        yield replace(part, held=held, has_workers=has_workers)


def _order(job: AccountedJob) -> tuple[float, int]:
    at = job.started_at or job.submitted_at
    return (at.timestamp() if at else 0.0, job.id)


def _attempt(
    books: AccountBooks, job: AccountedJob, names: Mapping[str, Sequence[str]]
) -> Attempt | None:
    tag = job.tag
    if tag is not None:
        return Attempt(
            job=job,
            key=RunKey(job.user, tag.run, "" if tag.state == books.state else tag.state),
            purpose=tag.purpose,
            is_renamed=not job.name.startswith(slurm_job_name(tag.run, "")),
        )
    if job.name.startswith(_NAME):
        # Ids of runs may hold dashes, too: the longest known one that fits is meant.
        ends = (dash.end() for dash in reversed([*re.finditer("-", job.name)]))
        prefix = next((job.name[:end] for end in ends if job.name[:end] in names), "")
        runs = names.get(prefix, [])
        purpose = _purpose(job.name.removeprefix(prefix))
        return Attempt(
            job=job,
            key=RunKey(job.user, runs[0] if len(runs) == 1 else ""),
            purpose=purpose,
            by_name=True,
        )
    if job.id in books.allocations:
        return Attempt(
            job=job,
            key=books.allocations[job.id],
            purpose="allocation",
        )
    return None


def _purpose(name: str) -> str:
    """Return the first purpose in a name, or in what follows its run; empty for none."""
    found = _PURPOSE.search(name)
    return found[1] if found else ""


def held_by(
    job: AccountedJob, purpose: str, holds: Sequence[QpuHold], qpus: Collection[str] = ()
) -> dict[str, float]:
    """Return how many of each QPU an attempt held, by name.

    The name is empty for one that neither its run nor the site file names.

    Args:
        job: The attempt.
        purpose: What its Slurm job is for.
        holds: The QPUs of the site file that is read now, which the run may not have known.
        qpus: Those that the job was for, as its run says; none if nothing does.

    >>> from orchestrator.slurm.states import SlurmState
    >>> job = AccountedJob(
    ...     id=7, name="", user="", account="", partition="quantum", state=SlurmState.COMPLETED,
    ...     submitted_at=None, started_at=None, ended_at=None, elapsed_s=9.0, node_count=1, cpus=1,
    ...     tres={"cpu": 1.0, "gres/qpu": 1.0},
    ... )
    >>> held_by(job, "qpu", [QpuHold(qpu="vlq", tres=("gres/qpu",), partition="quantum")])
    {'vlq': 1.0}
    >>> held_by(job, "qpu", [QpuHold(qpu="vlq", tres=("gres/qpu",))], ["lab"])
    {'lab': 1.0}
    >>> held_by(job, "worker", [])
    {'': 1.0}
    """
    found = _held_by_resources(job, purpose, holds)
    meant = {qpu: count for qpu, count in found.items() if qpu in qpus}
    others = [count for qpu, count in found.items() if qpu not in qpus]
    unseen = [qpu for qpu in qpus if qpu not in meant]
    if not others or not unseen:
        return found
    # What the site file now calls otherwise, or does not tell apart, is what the run used.
    return meant | {unseen[0] if len(unseen) == 1 else "": sum(others)}


def _held_by_resources(
    job: AccountedJob, purpose: str, holds: Sequence[QpuHold]
) -> dict[str, float]:
    alike: dict[tuple[str, ...], list[tuple[str, float]]] = {}
    for hold in holds:
        if (count := _count_held(job, hold)) > 0:
            alike.setdefault(tuple(sorted(hold.tres)), []).append((hold.qpu, count))
    if alike:
        # Several QPUs behind one resource: Slurm does not say which of them it was.
        return {
            (same[0][0] if len(same) == 1 else ""): max(count for _, count in same)
            for same in alike.values()
        }
    # A site that accounts no QPUs still accounts the jobs that hold one.
    count = max((n for name, n in job.tres.items() if _untyped(name) == "gres/qpu"), default=0.0)
    if not count and purpose != "qpu":
        return {}
    placed = [hold.qpu for hold in holds if _fits(job, hold)]
    return {placed[0] if len(placed) == 1 else "": count or 1.0}


def _count_held(job: AccountedJob, hold: QpuHold) -> float:
    if not _fits(job, hold):
        return 0.0
    if not hold.tres:
        return 1.0 if hold.partition is not None else 0.0
    wanted = {*hold.tres}
    counts = (n for name, n in job.tres.items() if {name, _untyped(name)} & wanted)
    return max(counts, default=0.0)


def _fits(job: AccountedJob, hold: QpuHold) -> bool:
    return hold.partition is None or job.partition in hold.partition.split(",")


def _untyped(name: str) -> str:
    """Return a resource without the type of a GRES and the server of a licence."""
    return re.split("[:@]", name)[0]


def gpus_of(job: AccountedJob) -> float:
    """Return how many GPUs an attempt had, whether Slurm accounts them by type or not."""
    if "gres/gpu" in job.tres:
        return job.tres["gres/gpu"]
    return sum(n for name, n in job.tres.items() if name.startswith("gres/gpu:"))
