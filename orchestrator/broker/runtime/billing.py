"""Budgets and statements of a site's broker: what an operator and the users see of the money."""

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
    "units",
]


class UnitUnknown(ValueError):
    """No QPU of the site bills in this unit."""


def units(broker: Broker) -> list[str]:
    """Return the units in which the site's QPUs bill, as far as these could be opened."""
    state = broker.events.state
    billed = {rules.metering.unit for rules in state.rules.values()}
    used = {unit for budgets in state.books.accounts.values() for unit in budgets}
    return sorted(billed | used)


async def set_budget(
    broker: Broker, account: str, unit: str, amount: float | None, by: str
) -> list[BudgetStatus]:
    """Limit what an account may spend in all, None lifts the limit; return how it stands then.

    What was spent before counts. Less than that may be given: then nothing more is accepted.
    Raises `UnitUnknown`.
    """
    known = units(broker)
    if unit not in known:
        raise UnitUnknown(
            f"no QPU here bills in {unit!r}; the units are: {', '.join(known) or 'none yet'}"
        )
    event = ev.BudgetSet(account=account, unit=unit, amount=amount, by=by)
    await broker.events.post(event)
    return broker.events.state.books.status(account)


def project_budgets(broker: Broker, project: str) -> list[BudgetStatus]:
    """Return how a project stands in each unit it was charged or limited in."""
    return broker.events.state.books.status(str(ProjectAccount(project)))


async def all_uses(broker: Broker, members: Iterable[str] = ()) -> dict[str, ProjectTotals]:
    """Return what each project used so far, those that have but a budget or members included.

    members: projects that somebody's token is for.
    """
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
        events = (event for event, _ in broker.ledger.events(SERVICE_SCOPE, kinds))
        held = leases_held(events)
        mine = [lease for lease in held if projects is None or lease.project in projects]
        return statement(jobs, mine, month)

    return await asyncio.to_thread(summed)
