"""Joins Slurm's accounting and the ledger: what was used by whom, and where they differ (pure)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Literal, get_args

from orchestrator.accounting.entries import (
    AccountBooks,
    Attempt,
    Period,
    QuantumUse,
    RunKey,
    TaskUse,
    attempts_of,
    gpus_of,
)

__all__ = [
    "GROUPS",
    "Accounting",
    "AccountingRow",
    "Difference",
    "DifferenceKind",
    "Grouping",
    "join",
    "joined_user",
]

Grouping = Literal["project", "user", "flow", "coupling", "run"]
GROUPS: tuple[Grouping, ...] = get_args(Grouping)
# Slurm's times are whole seconds, and a task's end is noticed a moment after it.
_TOLERANCE = timedelta(seconds=2)
_HOUR_S = 3600.0


class DifferenceKind(StrEnum):
    """In which way the two books differ."""

    QPU_WITHOUT_JOBS = "qpu-without-jobs"
    USED_UNHELD = "used-unheld"
    UNKNOWN_SLURM_JOB = "unknown-slurm-job"
    NOT_YET_ACCOUNTED = "not-yet-accounted"
    NEVER_ENDED = "never-ended"
    NO_RUN = "no-run"
    COMMENT_ALTERED = "comment-altered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that one book has and the other has not, or has otherwise.

    run, user: whose it is; the run is empty if it is not known. slurm_job, job: the entry, of
    Slurm's accounting or the ledger. seconds: how much of a QPU's time it is about, 0 for none.
    """

    kind: DifferenceKind
    text: str
    run: str = ""
    user: str = ""
    slurm_job: int | None = None
    job: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingRow:
    """What a group used in a period. A figure is None if the book it comes from could not be read.

    Attributes:
        group: Project, user, flow, coupling or run; empty where none is recorded.
        runs: Number of runs.
        slurm_jobs: Number of attempts of Slurm jobs that had nodes.
        node_s: Seconds times nodes, as all others of Slurm's accounting.
        core_s: Seconds times CPUs.
        gpu_s: Seconds times GPUs.
        qpu_held_s: Seconds times QPUs that Slurm allocated.
        quantum_jobs: Number of quantum jobs with a charged task that ended in the period.
        qpu_used_s: QPU-seconds of those tasks, from the ledger.
        charges: What they were charged, by unit.
    """

    group: str
    runs: int
    slurm_jobs: int | None
    node_s: float | None
    core_s: float | None
    gpu_s: float | None
    qpu_held_s: float | None
    quantum_jobs: int | None
    qpu_used_s: float | None
    charges: Mapping[str, float] = field(default_factory=dict)

    @property
    def node_hours(self) -> float | None:
        """Hours times nodes."""
        return _hours(self.node_s)

    @property
    def core_hours(self) -> float | None:
        """Hours times CPUs, as Slurm counts them."""
        return _hours(self.core_s)

    @property
    def gpu_hours(self) -> float | None:
        """Hours times GPUs."""
        return _hours(self.gpu_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """What runs used in a period, and where Slurm's accounting and the ledger differ.

    Attributes:
        since: First instant of the period.
        until: The first one after it.
        by: What the rows are for.
        rows: Sorted by group.
        total: Of all rows; its group is empty.
        differences: In order of the runs.
        notes: What could not be read, or is incomplete.
    """

    since: datetime
    until: datetime
    by: Grouping
    rows: tuple[AccountingRow, ...]
    total: AccountingRow
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Sum:
    runs: set[RunKey] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    figures: Counter[str] = field(default_factory=Counter)
    charges: Counter[str] = field(default_factory=Counter)


def join(
    books: AccountBooks,
    period: Period,
    now: datetime,
    by: Grouping = "project",
    *,
    notes: Iterable[str] = (),
) -> Accounting:
    """Join both books over a period.

    Each attempt of a Slurm job and each task of a quantum job is in one row. Attempts count with
    the part of their time in the period, those that are running up to ``now``; a task counts in the
    period in which it ended, as in the broker's statements.
    """
    entries = _Entries(books, period, now)
    sums: defaultdict[str, _Sum] = defaultdict(_Sum)
    total = _Sum()
    for key, group, figures, charges, job in entries.uses(by):
        for one in (sums[group], total):
            one.runs.add(key)
            one.figures.update(figures)
            one.charges.update(charges)
            if job is not None:
                one.jobs.add(job)
    row = partial(_row, has_slurm=books.attempts is not None, has_ledger=books.quantum is not None)
    return Accounting(
        since=period.since,
        until=period.until,
        by=by,
        rows=tuple(row(group, one) for group, one in sorted(sums.items())),
        total=row("", total),
        differences=tuple(entries.differences()),
        notes=(*notes, *entries.notes()),
    )


def joined_user(slurm: Iterable[RunKey], ledger: Iterable[RunKey]) -> Callable[[RunKey], RunKey]:
    """Return whose run of Slurm's a run of the ledger is.

    A token may name its user otherwise than the login node. A run that one user has in each book
    is one run then; where several have its id, only equal names are one.
    """
    users_of: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for side, keys in enumerate((slurm, ledger)):
        for key in keys:
            users_of[key.run][side].add(key.user)

    def joined(key: RunKey) -> RunKey:
        slurm_users, ledger_users = users_of.get(key.run, (set(), set()))
        if key.user in slurm_users or len(slurm_users) != 1 or len(ledger_users) != 1:
            return key
        return RunKey(next(iter(slurm_users)), key.run)

    return joined


class _Entries:
    """Entries of both books, each with its run."""

    def __init__(self, books: AccountBooks, period: Period, now: datetime) -> None:
        self.books, self.period, self.now = books, period, now
        quantum = books.quantum or ()
        owned = [(RunKey(use.user or books.user, use.run), use) for use in quantum]
        facts = {RunKey(fact.user, fact.run): fact for fact in books.runs}
        self.attempts = attempts_of(books, [*facts, *(key for key, _ in owned)])
        of_slurm = {attempt.key for attempt in self.attempts}
        joined = joined_user(of_slurm, {key for key, _ in owned})
        self.facts = facts
        placed = self._folders() if books.is_shared else (lambda key, _: key)
        self.quantum = [(placed(joined(key), use), use) for key, use in owned]
        keys = {*of_slurm, *(key for key, _ in self.quantum)}
        self._several = {run for run, n in Counter(key.run for key in keys).items() if n > 1}
        self._projects = self._projects_of_runs()
        self._flows = _unique((key, use.flow) for key, use in self.quantum)
        self._couplings = _unique((key, use.coupling) for key, use in self.quantum)
        self._accounts = _unique((one.key, one.job.account) for one in self.attempts)

    def uses(
        self, by: Grouping
    ) -> Iterator[tuple[RunKey, str, dict[str, float], Mapping[str, float], str | None]]:
        """Yield run, group, figures, charges and quantum job of each entry in the period."""
        for attempt in self.attempts:
            job, key = attempt.job, attempt.key
            seconds = self.period.seconds_of(job, self.now)
            if job.started_at is None or (not seconds and job.started_at not in self.period):
                continue
            figures = {
                "slurm_jobs": 1,
                "node_s": seconds * job.node_count,
                "core_s": seconds * job.cpus,
                "gpu_s": seconds * gpus_of(job),
                "qpu_held_s": seconds * sum(attempt.held.values()),
            }
            project = self._projects.get(key) or job.account
            yield key, self._group(by, key, project), figures, {}, None
        for key, use in self.quantum:
            project = use.project or self._projects.get(key) or self._accounts.get(key, "")
            for task in use.tasks:
                if task.counts and task.ended_at is not None and task.ended_at in self.period:
                    figures = {"qpu_used_s": task.qpu_seconds}
                    yield key, self._group(by, key, project), figures, task.charges, use.job

    def _folders(self) -> Callable[[RunKey, QuantumUse], RunKey]:
        """Return how to find the state folder of a run whose quantum jobs a service has.

        A service does not know the folder. The Slurm job that held the QPU names it. Without one it
        is the reader's, if the run is known there, else the only one that has such a run.
        """
        of_job: dict[int, set[RunKey]] = defaultdict(set)
        of_run: dict[RunKey, set[RunKey]] = defaultdict(set)
        for one in self.attempts:
            of_job[one.job.id].add(one.key)
            of_run[replace(one.key, state="")].add(one.key)

        def placed(key: RunKey, use: QuantumUse) -> RunKey:
            named = of_run.get(key, set())
            held = {one for job in use.slurm_jobs for one in of_job.get(job, ()) if one in named}
            found = held or (set() if key in self.facts else named)
            return next(iter(found)) if len(found) == 1 else key

        return placed

    def _group(self, by: Grouping, key: RunKey, project: str) -> str:
        fact = self.facts.get(key)
        values = {
            "project": project,
            "user": key.user,
            "run": self._run_text(key),
            "flow": (fact.flow if fact else "") or self._flows.get(key, ""),
            "coupling": (fact.coupling if fact else "") or self._couplings.get(key, ""),
        }
        return values[by]

    def _run_text(self, key: RunKey) -> str:
        """Return the id of a run; where several have it, whose it is of those that are not ours."""
        if key.run not in self._several:
            return key.run
        words = [key.user] if key.user != self.books.user else []
        words += [f"state folder {key.state}"] if key.state else []
        return f"{key.run} ({', '.join(words)})" if words else key.run

    def _projects_of_runs(self) -> dict[RunKey, str]:
        """Return the project of each run: the recorded one, else the only one that pays for it."""
        paying = _unique((key, use.project) for key, use in self.quantum)
        return paying | {
            key: fact.project for key, fact in self.facts.items() if key.run and fact.project
        }

    def notes(self) -> Iterator[str]:
        """Yield what limits the comparison as a whole."""
        if self._stores_no_comments():
            yield (
                "Slurm's accounting stores no comments (AccountingStoreFlags=job_comment): jobs are "
                "joined by their names, those of other state folders too"
            )
        purposes = [one for one in self.attempts if one.purpose == "qpu" and one.job.started_at]
        if purposes and not any("qpu" in name for one in purposes for name in one.job.tres):
            yield (
                "Slurm's accounting has no QPU among its resources (AccountingStorageTRES): the time "
                "of the jobs that held one counts"
            )

    def differences(self) -> Iterator[Difference]:
        """Yield what one book has and the other has not."""
        if self.books.attempts is None:
            return
        found = [*self._altered(), *self._without_run(), *self._never_ended()]
        if self.books.quantum is not None:
            found += [*self._idle_qpus(), *self._unheld(), *self._unknown()]
        yield from sorted(found, key=lambda one: (one.run, one.user, one.slurm_job or 0, one.kind))

    def _stores_no_comments(self) -> bool:
        ended = [one for one in self.attempts if _has_its_comment(one)]
        return any(one.by_name for one in ended) and not any(one.job.comment for one in ended)

    def _altered(self) -> Iterator[Difference]:
        if self._stores_no_comments():
            return
        for one in self.attempts:
            if (one.by_name and _has_its_comment(one)) or one.is_renamed:
                said = repr(one.job.comment) if one.job.comment else "no comment"
                yield _of_attempt(
                    DifferenceKind.COMMENT_ALTERED,
                    one,
                    f"Slurm job {one.job.id} is called {one.job.name!r} and has {said}: its comment "
                    "or name was changed",
                )

    def _without_run(self) -> Iterator[Difference]:
        known = {*self.facts, *(key for key, _ in self.quantum)}
        for one in self.attempts:
            is_told = one.key.user in self.books.registered
            if one.key not in known and (is_told or not one.key.run):
                run = f"run {one.key.run!r}" if one.key.run else "any run"
                run += f" of state folder {one.key.state}" if one.key.state else ""
                yield _of_attempt(
                    DifferenceKind.NO_RUN,
                    one,
                    f"Slurm job {one.job.id} ({one.job.name}) has no record of {run} in this state folder",
                )

    def _never_ended(self) -> Iterator[Difference]:
        """Yield the attempts that Slurm's accounting takes to be running for ever."""
        if self.books.listed is None:
            return
        for one in self.attempts:
            job, runs = one.job, one.span is not None and one.job.ended_at is None
            if runs and job.user == self.books.user and job.id not in self.books.listed:
                yield _of_attempt(
                    DifferenceKind.NEVER_ENDED,
                    one,
                    f"Slurm job {job.id} has no end in Slurm's accounting and is not in Slurm's "
                    "queue, so its use grows up to now; an administrator finds such jobs with "
                    "`sacctmgr show runawayjobs`",
                )

    def _idle_qpus(self) -> Iterator[Difference]:
        tasks: defaultdict[RunKey, list[tuple[str, TaskUse]]] = defaultdict(list)
        for key, use in self.quantum:
            tasks[key] += [(use.qpu_of(task), task) for task in use.tasks if task.started_at]
        for one in self.attempts:
            seconds = self.period.seconds_of(one.job, self.now)
            is_told = self.books.told is None or one.key.user in self.books.told
            is_told = is_told and (self.books.is_shared or not one.key.state)
            if not one.held or one.job.ended_at is None or not seconds or not is_told:
                continue
            used = (t for qpu, t in tasks[one.key] if qpu in one.held or "" in one.held)
            if not any(_overlaps(one, task) for task in used):
                named = ", ".join(sorted(filter(None, one.held))) or "a QPU"
                yield _of_attempt(
                    DifferenceKind.QPU_WITHOUT_JOBS,
                    one,
                    f"Slurm job {one.job.id} held {named} for {one.job.elapsed_s:g} s, and the "
                    "ledger has no quantum job of its run in that time",
                    seconds=seconds * sum(one.held.values()),
                )

    def _unheld(self) -> Iterator[Difference]:
        """Yield how long tasks that ran under Slurm were on a QPU without an allocation of it."""
        known = {hold.qpu for hold in self.books.holds}
        spans = defaultdict(list)
        for one in self.attempts:
            if one.held and one.span is not None:
                begun, ended = one.span
                for qpu in one.held:
                    span = (begun - _TOLERANCE, (ended or self.now) + _TOLERANCE)
                    spans[one.key, qpu].append(span)
        for key, use in self.quantum:
            # Without a Slurm job it ran where Slurm did not grant the QPU, whatever it does now.
            over = [task for task in use.tasks if use.slurm_jobs and self._is_over(task)]
            for qpu in dict.fromkeys(use.qpu_of(task) for task in over):
                own = [*spans.get((key, qpu), ()), *spans.get((key, ""), ())]
                if not own and qpu not in known:  # nothing says by what Slurm granted it
                    continue
                seconds = sum(_unheld_s(task, own) for task in over if use.qpu_of(task) == qpu)
                if seconds > 0:
                    yield Difference(
                        kind=DifferenceKind.USED_UNHELD,
                        text=f"quantum job {use.job} had tasks on {qpu} for {seconds:.1f} s in "
                        "which no Slurm job of its run held it",
                        run=key.run,
                        user=key.user,
                        job=use.job,
                        seconds=seconds,
                    )

    def _is_over(self, task: TaskUse) -> bool:
        return task.ended_at is not None and task.ended_at in self.period

    def _unknown(self) -> Iterator[Difference]:
        accounted = {job.id for job in self.books.attempts or ()}
        known = accounted | {*self.books.queued}
        for key, use in self.quantum:
            times = [use.submitted_at, *(task.ended_at for task in use.tasks)]
            if not any(at is not None and at in self.period for at in times):
                continue
            for bound in use.slurm_jobs:
                if bound in known:
                    continue
                yield Difference(
                    kind=DifferenceKind.UNKNOWN_SLURM_JOB,
                    text=f"quantum job {use.job} ran in Slurm job {bound}, which Slurm's accounting "
                    "does not have",
                    run=key.run,
                    user=key.user,
                    slurm_job=bound,
                    job=use.job,
                )
        for job in sorted({*self.books.queued} - accounted):
            yield Difference(
                kind=DifferenceKind.NOT_YET_ACCOUNTED,
                text=f"Slurm job {job} has started and is not in Slurm's accounting yet; its use is "
                "missing here",
                slurm_job=job,
            )


def _unique(named: Iterable[tuple[RunKey, str]]) -> dict[RunKey, str]:
    """Return what each run is named, where all that name it agree; an empty name says nothing."""
    found: defaultdict[RunKey, set[str]] = defaultdict(set)
    for key, name in named:
        if key.run and name:
            found[key].add(name)
    return {key: next(iter(names)) for key, names in found.items() if len(names) == 1}


def _of_attempt(
    kind: DifferenceKind, one: Attempt, text: str, *, seconds: float = 0.0
) -> Difference:
    return Difference(
        kind=kind,
        text=text,
        run=one.key.run,
        user=one.key.user,
        slurm_job=one.job.id,
        seconds=seconds,
    )


def _has_its_comment(attempt: Attempt) -> bool:
    """Whether Slurm's accounting would have a comment: it stores one when the attempt ends."""
    return attempt.job.ended_at is not None or bool(attempt.job.comment)


def _overlaps(attempt: Attempt, task: TaskUse) -> bool:
    begun, ended = attempt.job.started_at, attempt.job.ended_at
    assert begun is not None and ended is not None and task.started_at is not None  # noqa: PT018
    over = task.ended_at or task.started_at
    return task.started_at <= ended + _TOLERANCE and over >= begun - _TOLERANCE


def _unheld_s(task: TaskUse, spans: Sequence[tuple[datetime, datetime]]) -> float:
    """Return for how many seconds at least a task was on its QPU in none of the spans.

    Its end is when it was noticed, which is late if its broker was killed meanwhile, so it was on
    the QPU for no longer than what it used.
    """
    if task.started_at is None or task.ended_at is None:
        return 0.0
    whole_s, uncovered_s = (_uncovered_s(task, held) for held in ((), spans))
    used_s = task.qpu_seconds or (whole_s if task.counts else 0.0)
    return max(0.0, min(uncovered_s, used_s - (whole_s - uncovered_s)))


def _uncovered_s(task: TaskUse, spans: Sequence[tuple[datetime, datetime]]) -> float:
    """Return the seconds of a task that are in none of the spans."""
    reached, end = task.started_at, task.ended_at
    if reached is None or end is None:
        return 0.0
    seconds = 0.0
    for begun, ended in sorted(spans):
        if begun >= end:
            break
        seconds += max(0.0, (begun - reached).total_seconds())
        reached = max(reached, ended)
    return seconds + max(0.0, (end - reached).total_seconds())


def _row(group: str, one: _Sum, *, has_slurm: bool, has_ledger: bool) -> AccountingRow:
    figures = one.figures
    slurm = {
        name: float(figures[name]) if has_slurm else None
        for name in ("node_s", "core_s", "gpu_s", "qpu_held_s")
    }
    return AccountingRow(
        group=group,
        runs=len({key for key in one.runs if key.run}),
        slurm_jobs=int(figures["slurm_jobs"]) if has_slurm else None,
        **slurm,
        quantum_jobs=len(one.jobs) if has_ledger else None,
        qpu_used_s=float(figures["qpu_used_s"]) if has_ledger else None,
        charges=dict(sorted(one.charges.items())),
    )


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / _HOUR_S
