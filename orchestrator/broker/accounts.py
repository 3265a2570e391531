"""Budgets: what projects and runs may still spend in each unit, and what they did (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from backends.api import BackendError
from backends.metering import Charge
from orchestrator.broker.events import BudgetSet, JobSubmitted
from orchestrator.broker.records import JobRecord, TaskRecord, job_view

__all__ = ["Books", "Budget", "BudgetExhausted", "project_account", "run_account"]

# Sums of many small charges may be off by this part of them.
_ROUNDING = 1e-9


class BudgetExhausted(BackendError):
    """An account has less left than a job asks for; nothing was accepted."""


def project_account(project: str) -> str:
    """Return the name of a project's account."""
    return f"project:{project}"


def run_account(run: str) -> str:
    """Return the name of a run's account."""
    return f"run:{run}"


@dataclass(slots=True)
class Budget:
    """One account's spending in one unit.

    amount: what it may spend in all, None for no limit. spent: charges of what was completed.
    reserved: what is set aside for jobs that are not over.
    """

    amount: float | None = None
    spent: float = 0.0
    reserved: float = 0.0

    @property
    def left(self) -> float:
        """What can still be set aside."""
        return float("inf") if self.amount is None else self.amount - self.spent - self.reserved


@dataclass(slots=True)
class Books:
    """All accounts, by name and unit. A project's is kept from its first job on.

    A run's is kept once it has a budget: runs are many, and only those ask.
    """

    accounts: dict[str, dict[str, Budget]] = field(default_factory=dict)

    def set(
        self, event: BudgetSet, jobs: Iterable[JobRecord], tasks: Mapping[str, TaskRecord]
    ) -> None:
        """Limit what an account may spend, or lift the limit."""
        kind, _, run = event.account.partition(":")
        is_new = event.account not in self.accounts
        self._budget(event.account, event.unit).amount = event.amount
        if kind != "run" or not is_new:
            return
        for job in jobs:  # those that were there before the account was kept
            if job.submitted.run != run:
                continue
            for charge in job_view(job, tasks).usage.charges:
                self._budget(event.account, charge.unit).spent += charge.amount
            if job.submitted.reserved is not None:
                self._budget(event.account, job.submitted.reserved.unit).reserved += job.outstanding

    def refusal(self, job: JobSubmitted, *, already: float) -> BudgetExhausted | None:
        """Return why a job cannot be paid for, None if it can be.

        already: what it was charged, or has set aside, before it came back.
        """
        if job.reserved is None:
            return None
        unit, asked = job.reserved.unit, max(0.0, job.reserved.amount - already)
        for account in _accounts(job):
            budget = self.accounts.get(account, {}).get(unit)
            if budget is None or budget.amount is None:
                continue
            slack = _ROUNDING * max(1.0, abs(budget.amount))
            if asked > budget.left + slack or (not asked and not already and budget.left <= 0):
                return BudgetExhausted(_told(account, budget, asked, unit, job.qpu))
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
        yield self._budget(project_account(job.project), unit)
        if run_account(job.run) in self.accounts:
            yield self._budget(run_account(job.run), unit)

    def _budget(self, account: str, unit: str) -> Budget:
        return self.accounts.setdefault(account, {}).setdefault(unit, Budget())


def _accounts(job: JobSubmitted) -> tuple[str, str]:
    return project_account(job.project), run_account(job.run)


def _told(account: str, budget: Budget, asked: float, unit: str, qpu: str) -> str:
    kind, _, name = account.partition(":")
    whose = f"{kind} {name!r}" if name else "this work"
    aside = f", {budget.reserved:.6g} set aside for open jobs" if budget.reserved > 0 else ""
    return (
        f"the budget of {whose} does not cover this job on QPU {qpu!r}: it needs about "
        f"{asked:.6g} {unit}, and {max(0.0, budget.left):.6g} of {budget.amount:.6g} {unit} are left "
        f"({budget.spent:.6g} spent{aside}). Nothing was started for it; raise the budget or ask "
        "for less"
    )
