"""Budgets of projects and of runs, and the statement of a month: endpoints and computation."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from orchestrator.broker.api.endpoints import IDENTIFIED, IN_TURN, Caller, Operator, ServedBroker
from orchestrator.broker.api.problems import DECLARED, ApiError, declared
from orchestrator.broker.client.models import ProjectBudget
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
from orchestrator.identity import SERVICE_SCOPE, ProjectAccount, RunAccount, account_from_text
from orchestrator.names import LINE, PROJECT, RUN

__all__ = [
    "ProjectLimit",
    "RunBudget",
    "RunLimit",
    "limited_projects",
    "monthly_statement",
    "project_budgets",
    "router",
    "set_budget",
]

_MONTH = r"^2[0-9]{3}-(0[1-9]|1[0-2])$"
_Amount = Annotated[
    float | None, Field(ge=0, allow_inf_nan=False, description="in all; null lifts the limit")
]
_Unit = Annotated[str, Field(min_length=1, max_length=64, pattern=LINE)]


class ProjectLimit(BaseModel):
    """What a project may spend in all, in one unit."""

    project: str = Field(pattern=PROJECT)
    unit: _Unit
    amount: _Amount


class RunLimit(BaseModel):
    """What a run may spend in all, in one unit."""

    run: str = Field(pattern=RUN)
    unit: _Unit
    amount: _Amount


class RunBudget(BaseModel):
    """How the caller's run stands; without units while it never had a budget."""

    run: str
    budgets: list[BudgetStatus]


router = APIRouter(prefix="/v1", tags=["budgets"], responses=DECLARED, dependencies=[IDENTIFIED])


@router.get("/budgets/projects")
async def listed(broker: ServedBroker, caller: Caller) -> list[ProjectBudget]:
    """Return the projects that have a budget and that the caller may see, and how they stand."""
    return [
        ProjectBudget(project=project, budgets=project_budgets(broker, project))
        for project in limited_projects(broker)
        if caller.may_see(project)
    ]


@router.post("/budgets/projects")
async def limit_project(
    broker: ServedBroker, caller: Operator, body: ProjectLimit
) -> ProjectBudget:
    """Set or lift a project's budget in one unit; for operators."""
    account = str(ProjectAccount(body.project))
    budgets = await set_budget(broker, account, body.unit, body.amount, caller.user)
    return ProjectBudget(project=body.project, budgets=budgets)


@router.get("/budgets/runs")
async def shown_run(
    broker: ServedBroker, caller: Caller, run: Annotated[str, Query(pattern=RUN)]
) -> RunBudget:
    """Return how a run of the caller's stands; another user's run of this id is another run."""
    budgets = broker.events.state.books.status(str(RunAccount(run, caller.user)))
    return RunBudget(run=run, budgets=budgets)


@router.post("/budgets/runs", responses=declared(507))
async def limit_run(broker: ServedBroker, caller: Caller, body: RunLimit) -> RunBudget:
    """Set or lift the budget of a run in one unit. Only the caller's own jobs count in it."""
    broker.quotas.admit_run_budget(caller.user, broker.clock().timestamp())
    account = str(RunAccount(body.run, caller.user))
    budgets = await set_budget(broker, account, body.unit, body.amount, caller.user)
    return RunBudget(run=body.run, budgets=budgets)


@router.get("/statement", dependencies=[IN_TURN])
async def stated(
    broker: ServedBroker,
    caller: Caller,
    month: Annotated[
        str | None, Query(pattern=_MONTH, description="as 2026-11, in UTC; this one if left out")
    ] = None,
    project: Annotated[str | None, Query(pattern=PROJECT)] = None,
) -> list[StatementLine]:
    """Return what the projects that the caller may see were charged in a month."""
    asked = None if caller.is_operator else caller.projects
    if project is not None:
        asked = (project,) if caller.may_see(project) else ()
    return await monthly_statement(broker, month or f"{broker.clock():%Y-%m}", asked)


async def set_budget(
    broker: Broker, account: str, unit: str, amount: float | None, by: str
) -> list[BudgetStatus]:
    """Limit what an account may spend in all, None lifts the limit; return its budgets then.

    What was spent before counts; an amount below it is valid, and then nothing more is accepted.
    Raises `ApiError` for a unit in which no QPU of the site bills.
    """
    state = broker.events.state
    units = {rules.metering.unit for rules in state.rules.values()}  # of the QPUs that are open
    units.update(*state.books.accounts.values())
    if unit not in units:
        listed = ", ".join(sorted(units)) or "none yet"
        detail = f"no QPU here bills in {unit!r}; the units are: {listed}"
        raise ApiError(422, detail, kind="UnitUnknown")
    event = ev.BudgetSet(account=account, unit=unit, amount=amount, by=by)
    await broker.events.post(event)
    return broker.events.state.books.status(account)


def project_budgets(broker: Broker, project: str) -> list[BudgetStatus]:
    """Return a project's budget in each unit in which it was charged or limited."""
    return broker.events.state.books.status(str(ProjectAccount(project)))


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
