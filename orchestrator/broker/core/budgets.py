"""Accounts: what projects and runs may spend in each unit, what they did, and statements of months (pure)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from backends.api import BackendError
from backends.metering import Charge
from orchestrator.broker.core.events import (
    BudgetSet,
    Event,
    JobResumed,
    JobSubmitted,
    LeaseClosed,
    LeaseOpened,
)
from orchestrator.broker.core.records import JobRecord, PastUse, TaskRecord, job_view
from orchestrator.broker.core.views import JobState, JobView, QpuTaskState, QpuTaskView
from orchestrator.identity import JobId, ProjectAccount, RunAccount, account_from_text

__all__ = [
    "Books",
    "Budget",
    "BudgetExhausted",
    "BudgetStatus",
    "LeaseHeld",
    "StatementLine",
    "is_charged",
    "leases_held",
    "month_bounds",
    "overdrawn",
    "statement",
]

# Sums of many small charges may be off by this part of them.
_ROUNDING = 1e-9


class BudgetExhausted(BackendError, ValueError):
    """An account has less left than a job asks for; nothing was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatus:
    """An account in one unit. amount, left: None where there is no limit."""

    unit: str
    amount: float | None
    spent: float
    reserved: float
    left: float | None


@dataclass(slots=True)
class Budget:
    """One account's spending in one unit."""

    amount: float | None = None  # what it may spend in all, None for no limit
    spent: float = 0.0  # charges of completed work
    reserved: float = 0.0  # set aside for jobs that are not over

    @property
    def left(self) -> float:
        """What can still be set aside."""
        return float("inf") if self.amount is None else self.amount - self.spent - self.reserved


@dataclass(slots=True)
class Books:
    """All accounts, by name and unit: of every project with a job, and of runs with a budget."""

    accounts: dict[str, dict[str, Budget]] = field(default_factory=dict)

    def set(
        self, event: BudgetSet, jobs: Iterable[JobRecord], tasks: Mapping[str, TaskRecord]
    ) -> None:
        """Limit what an account may spend, or lift the limit."""
        account = self.new_run(event)
        self._budget(event.account, event.unit).amount = event.amount
        if account is None:
            return
        for job in jobs:  # submitted before the run had an account
            if _run_account(job.submitted) != account:
                continue
            for charge in job_view(job, tasks).usage.charges:
                self._budget(event.account, charge.unit).spent += charge.amount
            if job.submitted.reserved is not None:
                self._budget(event.account, job.submitted.reserved.unit).reserved += job.outstanding

    def take_over(
        self,
        past: Mapping[str, PastUse],
        jobs: Iterable[JobRecord],
        tasks: Mapping[str, TaskRecord],
    ) -> None:
        """Begin with the charges of a ledger without accounts. past: by project."""
        for project, used in past.items():
            for charge in used.usage.charges:
                self._budget(str(ProjectAccount(project)), charge.unit).spent += charge.amount
        for job in jobs:
            self.charge(job.submitted, job_view(job, tasks).usage.charges)

    def new_run(self, event: BudgetSet) -> RunAccount | None:
        """Return the account of a run that gets its first budget, None for any other account."""
        account = account_from_text(event.account)
        is_kept = event.account in self.accounts
        return account if isinstance(account, RunAccount) and not is_kept else None

    def status(self, account: str) -> list[BudgetStatus]:
        """Return how an account stands in each unit, sorted; units it never used are left out."""
        return [
            BudgetStatus(
                unit=unit,
                amount=budget.amount,
                spent=budget.spent,
                reserved=max(0.0, budget.reserved),
                left=None if budget.amount is None else budget.left,
            )
            for unit, budget in sorted(self.accounts.get(account, {}).items())
            if budget.amount is not None or budget.spent or budget.reserved
        ]

    def refusal(
        self, job: JobSubmitted, *, charged: float = 0.0, aside: float = 0.0
    ) -> BudgetExhausted | None:
        """Return why a job that was charged and has set aside so much cannot be paid for."""
        if job.reserved is None:
            return None
        unit, asked = job.reserved.unit, max(0.0, job.reserved.amount - charged - aside)
        for account in _accounts(job):
            budget = self.accounts.get(account, {}).get(unit)
            if budget is None or budget.amount is None:
                continue
            if asked > budget.left + _slack(budget.amount) or (
                not asked and not aside and budget.left <= 0
            ):
                return BudgetExhausted(_refusal_text(account, budget, asked, unit, job.qpu))
        return None

    def refusal_of(self, event: Event, jobs: Mapping[JobId, JobRecord]) -> BudgetExhausted | None:
        """Return why a job that comes, or comes back, cannot be paid for, None if it can be."""
        match event:
            case JobSubmitted():
                return self.refusal(event)
            case JobResumed(job=job) if job in jobs:
                record = jobs[job]
                if record.state is JobState.COMPLETED:  # while it waited for its client
                    return None
                aside = record.outstanding
                return self.refusal(record.submitted, charged=record.charged, aside=aside)
            case _:
                return None

    def reserve(self, job: JobSubmitted, change: float) -> None:
        """Set more aside for a job, or less."""
        if job.reserved is not None:
            for budget in self._budgets(job, job.reserved.unit):
                budget.reserved += change

    def charge(self, job: JobSubmitted, charges: Iterable[Charge]) -> None:
        """Bill a job."""
        for charge in charges:
            for budget in self._budgets(job, charge.unit):
                budget.spent += charge.amount

    def _budgets(self, job: JobSubmitted, unit: str) -> Iterator[Budget]:
        project, run = _accounts(job)
        yield self._budget(project, unit)
        if run in self.accounts:
            yield self._budget(run, unit)

    def _budget(self, account: str, unit: str) -> Budget:
        return self.accounts.setdefault(account, {}).setdefault(unit, Budget())


def overdrawn(amount: float, left: float) -> float:
    """Return by how much more than a budget is spent or set aside; 0 for a sum's rounding.

    >>> overdrawn(2.0, -0.5), overdrawn(2.0, -1e-16), overdrawn(2.0, 0.5)
    (0.5, 0.0, 0.0)
    """
    return -left if left < -_slack(amount) else 0.0


def _slack(amount: float) -> float:
    return _ROUNDING * max(1.0, abs(amount))


def _accounts(job: JobSubmitted) -> tuple[str, str]:
    return str(ProjectAccount(job.project)), str(_run_account(job))


def _run_account(job: JobSubmitted) -> RunAccount:
    return RunAccount(job.run, job.user)


def _refusal_text(name: str, budget: Budget, asked: float, unit: str, qpu: str) -> str:
    amount = budget.amount or 0.0
    account = account_from_text(name)
    if isinstance(account, RunAccount):
        whose = f"run {account.run!r}"
        remedy = "continue it with its run id and a higher --budget"
    else:
        whose = f"project {account.project!r}"
        remedy = "ask an operator to raise it"
    aside = f", {budget.reserved:.6g} set aside for open jobs" if budget.reserved > 0 else ""
    over = overdrawn(amount, budget.left)
    left = f"{max(0.0, budget.left):.6g} of {amount:.6g} {unit} are left"
    if over:
        left = f"its {amount:.6g} {unit} are overdrawn by {over:.6g} {unit}"
    return (
        f"the budget of {whose} does not cover this job on QPU {qpu!r}: it needs about "
        f"{asked:.6g} {unit}, and {left} ({budget.spent:.6g} spent{aside}). Nothing "
        f"was started for it; {remedy}, or ask for less"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """What a project was charged in a month on one QPU, in one unit.

    jobs, tasks: those with a part in it; a task that jobs of two projects share is in the lines of
    both. shots, qpu_seconds, charged: this project's share of the tasks that completed; what
    failed or was cancelled costs nothing. saved: what sharing tasks spared, against the predicted
    price of a task of its own. leases that ended in the month: how many, and the seconds they kept
    the QPU and worked on it.
    """

    project: str
    month: str
    qpu: str
    unit: str
    jobs: int
    tasks: int
    shots: int = 0
    qpu_seconds: float = 0.0
    charged: float = 0.0
    saved: float = 0.0
    leases: int = 0
    lease_held_s: float = 0.0
    lease_used_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHeld:
    """A lease that is over, with the project it was given to."""

    project: str
    closed: LeaseClosed


@dataclass(slots=True)
class _Sum:
    """figures: sums by field of the line."""

    jobs: set[JobId] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)
    figures: Any = field(default_factory=Counter)


def month_bounds(month: str) -> tuple[datetime, datetime]:
    """Return when a month, as ``2026-11``, and the next begin, in UTC. Raises ``ValueError``."""
    begin = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    year, following = divmod(begin.year * 12 + begin.month, 12)
    return begin, begin.replace(year=year, month=following + 1)


def leases_held(events: Iterable[Event]) -> Iterator[LeaseHeld]:
    """Yield the leases that are over, from the events that opened and closed them, in order."""
    project: dict[str, str] = {}  # by QPU, which has one lease at a time
    for event in events:
        match event:
            case LeaseOpened():
                project[event.qpu] = event.project
            case LeaseClosed() if event.qpu in project:
                yield LeaseHeld(project=project.pop(event.qpu), closed=event)


def is_charged(task: QpuTaskView) -> bool:
    """Whether a task counts in statements once it has ended."""
    return task.state is QpuTaskState.COMPLETED or task.late or bool(task.usage.charges)


def statement(
    jobs: Iterable[JobView], leases: Iterable[LeaseHeld], month: str
) -> list[StatementLine]:
    """Return what was charged in a month, sorted by project, QPU and unit.

    A task without a result counts if the site bills the time that it occupied. A task or lease
    belongs to the month that it ended in; a task that was given up and completed after all, to that
    in which it was given up. A task that was charged in two units counts in the line of the first
    with its shots and seconds.
    """
    begin, end = month_bounds(month)
    sums: defaultdict[tuple[str, str, str], _Sum] = defaultdict(_Sum)
    for job in jobs:
        for task in job.tasks:
            if task.ended_at is None or not is_charged(task) or not begin <= task.ended_at < end:
                continue
            charges = task.usage.charges
            qpu = task.qpu or job.qpu
            first = (job.project, qpu, charges[0].unit if charges else "")
            total = sums[first]
            total.jobs.add(job.id)
            total.tasks.add(task.tag)
            usage = task.usage
            total.figures.update(shots=usage.shots, qpu_seconds=usage.qpu_seconds, saved=task.saved)
            for charge in charges:
                sums[job.project, qpu, charge.unit].figures.update(charged=charge.amount)
    for lease in leases:
        if begin <= lease.closed.at < end:
            mine = sorted(key for key in sums if key[:2] == (lease.project, lease.closed.qpu))
            key = mine[0] if mine else (lease.project, lease.closed.qpu, "")
            sums[key].figures.update(
                leases=1, lease_held_s=lease.closed.held_s, lease_used_s=lease.closed.used_s
            )
    return [
        StatementLine(
            project=project,
            month=month,
            qpu=qpu,
            unit=unit,
            jobs=len(total.jobs),
            tasks=len(total.tasks),
            **total.figures,
        )
        for (project, qpu, unit), total in sorted(sums.items(), key=lambda item: item[0])
    ]
