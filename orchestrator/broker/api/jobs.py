"""The endpoints for quantum jobs: hand in, look, wait, fetch, cancel, resolve."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, Field, Json, TypeAdapter

from orchestrator.broker.api.endpoints import (
    IDENTIFIED,
    IN_TURN,
    Caller,
    Operator,
    ServedBroker,
    json_response,
    known_qpu,
    large_body_turn,
    read_body,
)
from orchestrator.broker.api.problems import DECLARED, ApiError, declared
from orchestrator.broker.client.content_digest import content_digest
from orchestrator.broker.client.models import Cancelled
from orchestrator.broker.client.protocol import job_error
from orchestrator.broker.client.status import JobUnknown
from orchestrator.broker.core.access import Forbidden
from orchestrator.broker.core.explain import Explanation
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.metered import Metered
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import JobFilter
from orchestrator.identity import JobId
from orchestrator.names import LINE, RUN

__all__ = ["Resolution", "router"]

_BYTES = "application/octet-stream"
_CHUNK_BYTES = 1 << 18
_LONGEST_WAIT_S = 60.0

_VIEW = TypeAdapter(JobView)
_VIEWS = TypeAdapter(list[JobView])
_WHY = TypeAdapter(Explanation)

_JobId = Annotated[str, Path(pattern=r"^j[0-9a-f]{20}$", description="id of a job")]
_Wait = Annotated[
    float, Query(ge=0, le=_LONGEST_WAIT_S, description="wait so long for its end, in seconds")
]


class Resolution(BaseModel):
    """An operator's word on the uncertain tasks of a job."""

    verdict: Literal["failed", "not-started"] = Field(
        description="failed: give the job up; not-started: the QPU never ran it, start it again"
    )
    reason: str = Field(
        min_length=1, max_length=1000, pattern=LINE, description="kept in the ledger"
    )
    used_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="QPU-seconds that the site metered for these tasks together, of those that failed",
    )
    charged: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="what the site bills for them, in the QPU's unit; by default its price of used_s",
    )


async def _visible_job(broker: ServedBroker, caller: Caller, job: _JobId) -> JobView:
    """Return a job of the caller's; another's is answered as one that does not exist."""
    view = await broker.view(JobId(job))
    if not caller.may_see(view.project):
        raise JobUnknown(f"no job {job!r}")
    return view


_VisibleJob = Annotated[JobView, Depends(_visible_job)]


def _without_repeats(text: Any) -> Any:
    """Refuse JSON in which a key is repeated, for Pydantic would take the last value."""
    if isinstance(text, str):
        with suppress(RecursionError, json.JSONDecodeError):  # Pydantic's parser reports these
            json.loads(text, object_pairs_hook=_unrepeated)
    return text


def _unrepeated(pairs: list[tuple[str, Any]]) -> None:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"key {key!r:.80} is given {count} times; give it once")


router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=DECLARED, dependencies=[IDENTIFIED])


@router.post(
    "",
    status_code=201,
    response_model=JobView,
    responses={
        200: {"description": "The call was known; this is its job", "model": JobView},
        **declared(402, 408, 409, 413, 415, 507),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {_BYTES: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def submit(
    broker: ServedBroker,
    caller: Caller,
    request: Request,
    asked: Annotated[
        Json[JobRequest],
        BeforeValidator(_without_repeats),
        Header(alias="Job-Request", description="the job, as ASCII JSON"),
    ],
) -> Response:
    """Hand in a payload. The answer comes when the job is durable; equal calls are one job."""
    asked = replace(asked, project=caller.paying(asked.project or None))
    if asked.priority > 0 and not caller.is_operator:
        raise Forbidden(
            f"priority {asked.priority}: only an operator raises it; give 0, or less to wait"
        )
    known_qpu(broker, asked.qpu)
    async with large_body_turn(request, caller):
        with await read_body(request) as body:
            job, new = await broker.submit_untrusted(asked, caller.user, body)
    return json_response(
        _VIEW.dump_json(job), 201 if new else 200, {"Location": f"/v1/jobs/{job.id}"}
    )


@router.get("", response_model=list[JobView], dependencies=[IN_TURN])
async def listed(
    broker: ServedBroker,
    caller: Caller,
    run: Annotated[str | None, Query(pattern=RUN)] = None,
    state: JobState | None = None,
    qpu: Annotated[str | None, Query(max_length=200, pattern=LINE)] = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 100,
) -> Response:
    """Return the latest jobs the caller may see, the oldest of them first."""
    projects = None if caller.is_operator else caller.projects
    wanted = JobFilter(run=run, projects=projects, qpu=qpu, state=state, limit=limit)
    jobs = await broker.jobs(wanted)
    return json_response(await asyncio.to_thread(_VIEWS.dump_json, jobs))


@router.get("/{job}", response_model=JobView)
async def shown(broker: ServedBroker, job: _VisibleJob, wait_s: _Wait = 0.0) -> Response:
    """Return a job, at its end if that comes within ``wait_s``."""
    return json_response(_VIEW.dump_json(await broker.wait(job.id, wait_s)))


@router.get(
    "/{job}/result",
    response_class=Response,
    responses={
        200: {
            "description": "The result of a completed job",
            "content": {_BYTES: {"schema": {"type": "string", "format": "binary"}}},
        },
        202: {"description": "It has not ended yet", "model": JobView},
        **declared(409),
    },
)
async def result(broker: ServedBroker, job: _VisibleJob, wait_s: _Wait = 0.0) -> Response:
    """Return the result once it is there; 409 for a job that ended, or stands, without one."""
    view = await broker.wait(job.id, wait_s)
    if view.state is JobState.COMPLETED:
        return await _download(await broker.result(view.id))
    if view.state in (JobState.QUEUED, JobState.RUNNING) or broker.is_waiting(view):
        return json_response(_VIEW.dump_json(view), 202)
    error = job_error(view)
    raise ApiError(409, str(error), kind=type(error).__name__)


@router.get("/{job}/why", response_model=Explanation)
async def why(broker: ServedBroker, job: _VisibleJob) -> Response:
    """Return why a job waits, why it went when it did, and when it will probably run."""
    return json_response(_WHY.dump_json(await broker.why(job.id)))


@router.post("/{job}/cancel")
async def cancel(broker: ServedBroker, job: _VisibleJob) -> Cancelled:
    """Ask for a job's end, on the QPU too; says so if it was too late."""
    accepted = await broker.cancel(job.id)
    state = (await broker.view(job.id)).state
    return Cancelled(job=job.id, too_late=not accepted, state=state)


@router.post("/{job}/resolve", responses=declared(409))
async def resolve(
    broker: ServedBroker, caller: Operator, job: _VisibleJob, resolution: Resolution
) -> JobView:
    """Settle a job's uncertain tasks; for operators."""
    metered = Metered(used_s=resolution.used_s, charged=resolution.charged)
    return await broker.resolve(job.id, resolution.verdict, caller.user, resolution.reason, metered)


async def _download(data: bytes) -> Response:
    """Answer with bytes: large ones from a file, so that slow readers hold none in memory."""
    length = {"Content-Length": str(len(data))}
    file = None
    if len(data) > _CHUNK_BYTES:
        with suppress(OSError):  # no room on the disk, and a result is not to wait for that
            digest, file = await asyncio.to_thread(_to_file, data)
    if file is None:
        headers = length | {"Content-Digest": content_digest(data)}
        return Response(data, media_type=_BYTES, headers=headers)
    return StreamingResponse(
        _chunks(file), media_type=_BYTES, headers=length | {"Content-Digest": digest}
    )


def _to_file(data: bytes) -> tuple[str, IO[bytes]]:
    file = TemporaryFile()  # noqa: SIM115  # `_chunks` closes it
    try:
        file.write(data)
        file.seek(0)
    except OSError:
        with suppress(OSError):
            file.close()
        raise
    return content_digest(data), file


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    with source:
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk
