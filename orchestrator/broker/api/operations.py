"""The endpoints for operating: QPUs and their targets, drain and resume, use per project, health."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, TypeAdapter

from backends.targets import target_to_json
from orchestrator.broker.api.budgets import limited_projects, project_budgets
from orchestrator.broker.api.endpoints import (
    IDENTIFIED,
    IN_TURN,
    Caller,
    Operator,
    ServedBroker,
    json_response,
    known_qpu,
)
from orchestrator.broker.api.problems import DECLARED
from orchestrator.broker.client.models import Health, ProjectUse, Whoami
from orchestrator.broker.client.status import ProjectTotals, QpuReadiness, QpuStatus, TaskShare
from orchestrator.broker.core.access import Identity
from orchestrator.broker.core.choice import ChoiceRequest, QpuChoice
from orchestrator.names import LINE

__all__ = ["Drain", "Released", "Slot", "health_router", "router"]

_QpuName = Annotated[
    str, Query(min_length=1, max_length=200, pattern=LINE, description="name of a QPU")
]
_LeaseName = Annotated[
    str, Query(min_length=1, max_length=300, pattern=LINE, description="id of a lease")
]
_Qpu = Annotated[str, Path(max_length=200, pattern=LINE, description="name of a QPU")]


class Drain(BaseModel):
    """Why a QPU takes no further work."""

    reason: str = Field(min_length=1, max_length=1000, pattern=LINE)


class Slot(BaseModel):
    """A task on a QPU in time. Job, project and user are left out where they are another's."""

    qpu: str
    tag: str | None
    job: str | None
    project: str | None
    user: str | None
    state: str
    started_at: datetime
    ended_at: datetime | None


class Released(BaseModel):
    """A lease that is over."""

    lease: str


_SLOTS = TypeAdapter(list[Slot])

# The one endpoint that asks for no token: it tells nothing of anybody's work.
health_router = APIRouter(tags=["operations"])
router = APIRouter(prefix="/v1", tags=["operations"], responses=DECLARED, dependencies=[IDENTIFIED])


@health_router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(broker: ServedBroker, request: Request) -> Response:
    """200 while work is accepted, 503 when not even the ledger is there."""
    states = {name: broker.status(name) for name in broker.qpus}
    missing = [s.name for s in states.values() if s.state == "unavailable"]
    failure = await broker.fault()
    status: Literal["ok", "degraded", "failing"] = "degraded" if missing else "ok"
    reason = f"unavailable: {', '.join(missing)}" if missing else None
    if failure:
        # Anybody reads this: the ledger's own error names its place, and is in the log.
        status, reason = "failing", "the ledger accepts no commits; see the broker's log"
    document = Health(
        status=status,
        reason=reason,
        ledger="failing" if failure else "ok",
        qpus={name: s.state for name, s in states.items()},
        queued=sum(s.queued for s in states.values()),
        version=request.app.version,
    )
    return JSONResponse(document.model_dump(), status_code=503 if failure else 200)


@router.get("/whoami")
async def whoami(caller: Caller) -> Whoami:
    """Return who the caller is."""
    return Whoami(user=caller.user, role=caller.role, projects=list(caller.projects))


@router.get("/qpus")
async def qpus(broker: ServedBroker, caller: Caller) -> list[QpuStatus]:
    """Return all QPUs and how they stand; why one cannot be opened is for operators alone."""
    states = [broker.status(name) for name in broker.qpus]
    return [
        replace(state, reason=None)
        if state.state == "unavailable" and not caller.is_operator
        else state
        for state in states
    ]


@router.get("/qpus/{qpu}/target")
async def target(broker: ServedBroker, qpu: _Qpu) -> dict[str, Any]:
    """Return what a QPU accepts now."""
    known_qpu(broker, qpu)
    return target_to_json(await broker.target(qpu))


@router.get("/qpus/{qpu}/readiness")
async def readiness(
    broker: ServedBroker,
    caller: Caller,
    qpu: _Qpu,
    qubits: Annotated[int, Query(ge=1, le=10**6)] = 1,
    seconds: Annotated[float, Query(ge=0, le=1e9, allow_inf_nan=False)] = 0.0,
) -> QpuReadiness:
    """Return a QPU's status, capacity and readiness, when and with whose credentials obtained."""
    known_qpu(broker, qpu)
    found = broker.readiness(qpu, qubits=qubits, seconds=seconds)
    if caller.is_operator:
        return found
    # Where the site keeps its secrets is for operators.
    sources = {
        fact: source
        if source.credentials == "broker"
        else replace(source, credentials="the site's own")
        for fact, source in found.sources.items()
    }
    return replace(found, slurm_error=None, sources=sources)


@router.post("/choices")
async def choose(broker: ServedBroker, caller: Caller, body: ChoiceRequest) -> QpuChoice:
    """Choose a QPU for work that names none; its name is empty if none fits."""
    asked = replace(body, project=caller.paying(body.project or None))
    return await broker.choose(asked, caller.user)


@router.post("/qpus/{qpu}/drain")
async def drain(broker: ServedBroker, caller: Operator, qpu: _Qpu, body: Drain) -> QpuStatus:
    """Start nothing further on a QPU; for operators."""
    known_qpu(broker, qpu)
    await broker.drain(qpu, caller.user, body.reason)
    return broker.status(qpu)


@router.post("/qpus/{qpu}/resume")
async def resume(broker: ServedBroker, caller: Operator, qpu: _Qpu) -> QpuStatus:
    """Let a QPU take work again; for operators."""
    known_qpu(broker, qpu)
    await broker.resume(qpu, caller.user)
    return broker.status(qpu)


@router.delete("/leases")
async def release(
    broker: ServedBroker, caller: Caller, qpu: _QpuName, lease: _LeaseName
) -> Released:
    """Let a lease of the caller's go before its time; one that has ended stays as it is."""
    known_qpu(broker, qpu)
    await broker.release(qpu, lease, caller.user)
    return Released(lease=lease)


@router.get("/projects", dependencies=[IN_TURN])
async def projects(broker: ServedBroker, caller: Caller, request: Request) -> list[ProjectUse]:
    """Return what each project used that the caller may see: of jobs, budgets and tokens."""
    entries = request.app.state.callers.tokens.entries()
    uses = await broker.uses()
    listed = {project for entry in entries for project in entry.projects}
    for project in listed.union(limited_projects(broker)):
        uses.setdefault(project, ProjectTotals())
    return [
        ProjectUse(
            project=project,
            jobs=use.jobs,
            open=use.open,
            shots=use.usage.shots,
            qpu_seconds=use.usage.qpu_seconds,
            charges={charge.unit: charge.amount for charge in use.usage.charges},
            budgets=project_budgets(broker, project),
        )
        for project, use in sorted(uses.items())
        if caller.may_see(project)
    ]


@router.get("/timeline", response_model=list[Slot], dependencies=[IN_TURN])
async def timeline(
    broker: ServedBroker, caller: Caller, hours: Annotated[float, Query(gt=0, le=24 * 31)] = 24.0
) -> Response:
    """Return the tasks of all QPUs in the last hours; whose they are only to whom may know."""
    since = broker.clock() - timedelta(hours=hours)
    shares = await broker.slots(since)

    def encoded() -> bytes:
        return _SLOTS.dump_json([_slot(share, caller) for share in shares])

    return json_response(await asyncio.to_thread(encoded))


def _slot(share: TaskShare, caller: Identity) -> Slot:
    job, task = share.job, share.task
    known = caller.may_see(job.project)
    assert task.started_at is not None
    return Slot(
        qpu=job.qpu,
        tag=task.tag if known else None,
        job=job.id if known else None,
        project=job.project if known else None,
        user=job.user if known else None,
        state=task.state,
        started_at=task.started_at,
        ended_at=task.ended_at,
    )
