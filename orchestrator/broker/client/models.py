"""What a broker service answers, as its API writes it and its client reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from orchestrator.broker.core.budgets import BudgetStatus
from orchestrator.broker.core.views import JobState

__all__ = ["Cancelled", "Health", "ProjectBudget", "ProjectUse", "Whoami"]


class Whoami(BaseModel):
    """The caller as the broker knows them."""

    user: str
    role: Literal["user", "operator"]
    projects: list[str]


class Health(BaseModel):
    """Whether the broker can do its work: the ledger takes commits, and QPUs are available."""

    status: Literal["ok", "degraded", "failing"]
    reason: str | None
    ledger: str
    qpus: dict[str, str]
    queued: int
    version: str


class ProjectUse(BaseModel):
    """What a project used. charges: by unit, each site bills in its own.

    budgets: for each unit that it was charged or limited in, what is spent, reserved and left.
    """

    project: str
    jobs: int
    open: int
    shots: int
    qpu_seconds: float
    charges: dict[str, float]
    budgets: list[BudgetStatus]


class ProjectBudget(BaseModel):
    """A project's budget in each unit that it was charged or limited in."""

    project: str
    budgets: list[BudgetStatus]


class Cancelled(BaseModel):
    """The answer to a cancellation. too_late: the job had ended before."""

    job: str
    too_late: bool
    state: JobState
