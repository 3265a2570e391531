"""Budgets, use and monthly statements of a site's broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from orchestrator.broker.client.status import ProjectTotals
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.budgets import (
    BudgetStatus,
    StatementLine,
    leases_held,
    month_bounds,
    statement,
)
from orchestrator.broker.ledger import JobFilter
from orchestrator.broker.runtime.broker import Broker
from orchestrator.identity import SERVICE_SCOPE, ProjectAccount, account_from_text

__all__ = [
    "UnitUnknown",
    "all_uses",
    "limited_projects",
    "monthly_statement",
    "project_budgets",
    "set_budget",
]


class UnitUnknown(ValueError):
    """No QPU of the site bills in this unit."""


async def set_budget(
    broker: Broker, account: str, unit: str, amount: float | None, by: str
) -> list[BudgetStatus]:
    """Limit what an account may spend in all, None lifts the limit; return its budgets then.

    What was spent before counts; an amount below it is valid, and then nothing more is accepted.
    Raises `UnitUnknown`.
    """
    state = broker.events.state
    units = {rules.metering.unit for rules in state.rules.values()}  # of the QPUs that are open
    units.update(*state.books.accounts.values())
    if unit not in units:
        listed = ", ".join(sorted(units)) or "none yet"
        raise UnitUnknown(f"no QPU here bills in {unit!r}; the units are: {listed}")
    event = ev.BudgetSet(account=account, unit=unit, amount=amount, by=by)
    await broker.events.post(event)
    return broker.events.state.books.status(account)


def project_budgets(broker: Broker, project: str) -> list[BudgetStatus]:
    """Return a project's budget in each unit in which it was charged or limited."""
    return broker.events.state.books.status(str(ProjectAccount(project)))


async def all_uses(broker: Broker, members: Iterable[str] = ()) -> dict[str, ProjectTotals]:
    """Return what each project used so far, including ``members``, the projects of tokens."""
    uses = await broker.uses()
    for project in (*limited_projects(broker), *members):
        uses.setdefault(project, ProjectTotals())
    return uses


def limited_projects(broker: Broker) -> list[str]:
    """Return the projects that have a budget."""
    accounts = (
        account_from_text(name)
        for name, budgets in broker.events.state.books.accounts.items()
        if any(budget.amount is not None for budget in budgets.values())
    )
    return sorted(one.project for one in accounts if isinstance(one, ProjectAccount))


async def monthly_statement(
    broker: Broker, month: str, projects: tuple[str, ...] | None
) -> list[StatementLine]:
    """Return what was charged in a month (UTC, as ``2026-11``); None for all projects."""
    begin, end = month_bounds(month)
    jobs = await broker.jobs(JobFilter(projects=projects, since=begin, until=end))

    def summed() -> list[StatementLine]:
        kinds = (ev.LeaseOpened.kind, ev.LeaseClosed.kind)
        leases = leases_held(event for event, _ in broker.ledger.events(SERVICE_SCOPE, kinds))
        mine = [lease for lease in leases if projects is None or lease.project in projects]
        return statement(jobs, mine, month)

    return await asyncio.to_thread(summed)
