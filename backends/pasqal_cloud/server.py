"""Pasqal's cloud rehearsed: its service for batches, over a simulated device.

It follows what pasqal-cloud 0.22 sends and reads, and shares no code with the backend that speaks to it:
that client runs against it unchanged (tests/vendors).
"""

from __future__ import annotations

import json
import secrets
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from backends.api import PayloadRejected, TaskState
from backends.payloads import AnalogPayload
from backends.rehearsal import RehearsedDevice, RehearsedJob, Simulator

__all__ = ["DEVICE_TYPE", "PROJECT", "PasqalCloud", "pasqal_cloud"]

PROJECT = "c10d0000-0000-4000-8000-000000000001"
DEVICE_TYPE = "FRESNEL"

_CORE = "/core-fast"
_STORE = "/storage"
_USER = "rehearsal"
_MOST_BYTES = 64 << 20
_STATUS = {
    TaskState.QUEUED: "PENDING",
    TaskState.RUNNING: "RUNNING",
    TaskState.COMPLETED: "DONE",
    TaskState.FAILED: "ERROR",
    TaskState.CANCELLED: "CANCELED",
}


class _Refused(Exception):
    """A request that the server refuses, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class PasqalCloud:
    """The service for batches, with one device."""

    profile: Simulator
    assumed: tuple[str, ...]
    backend: str = "pasqal-cloud"

    def is_public(self, method: str, path: str) -> bool:
        """Whether a request needs no credential, or has a signature in its place."""
        return method == "GET" and path in (_STORE, f"{_CORE}/api/v1/devices/public-specs")

    def call(self, method: str, path: str) -> str | None:
        """See `Dialect.call`."""
        match method, path.removeprefix(_CORE).strip("/").split("/"):
            case "POST", ["api", "v1", "batches"]:
                return "submit"
            case "GET", ["api", "v1", "batches"]:
                return "find"
            case "GET", ["api", "v2", "batches", _]:
                return "status"
            case "GET", ["storage"] | ["api", "v2", "jobs"] | ["api", "v1", "jobs", _, _]:
                return "result"
            case "PATCH", ["api", "v2", "batches", _, "cancel"]:
                return "cancel"
            case "GET", ["api", "v1", "devices", _]:
                return "target"
            case _:
                return "other"

    def error(self, status: int, reason: str) -> dict[str, Any]:
        """See `Dialect.error`."""
        return {
            "status": "fail" if status < 500 else "error",
            "code": str(status),
            "message": reason,
            "data": {"description": reason},
        }

    def options(self, url: str, token_file: Path, clock_scale: float) -> Mapping[str, Any]:
        """See `Dialect.options`."""
        return {
            "url": f"{url}{_CORE}",
            "project": PROJECT,
            "device_type": DEVICE_TYPE,
            "token": {"file": str(token_file)},
            "device": self.profile.options["device"],
            "time_scale": clock_scale,
        }

    def router(self, device: RehearsedDevice) -> APIRouter:
        """See `Dialect.router`."""
        return _Server(self, device).router()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    id: str
    tags: tuple[str, ...]
    device_type: str
    jobs: tuple[RehearsedJob, ...]

    @property
    def state(self) -> TaskState:
        states = [job.state for job in self.jobs]
        if all(state.is_final for state in states):
            return max(states, key=list(TaskState).index)
        return TaskState.QUEUED if set(states) == {TaskState.QUEUED} else TaskState.RUNNING


@dataclass(slots=True)
class _Server:
    """The routes, each a method that returns the data of its envelope or raises `_Refused`."""

    site: PasqalCloud
    device: RehearsedDevice
    batches: dict[str, _Batch] = field(default_factory=dict)
    signature: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def router(self) -> APIRouter:
        router = APIRouter()
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", "/api/v1/batches", self.create),
            ("GET", "/api/v1/batches", self.list),
            ("GET", "/api/v2/batches/{batch}", self.batch),
            ("PATCH", "/api/v2/batches/{batch}/cancel", self.cancel),
            ("GET", "/api/v2/jobs", self.jobs),
            ("GET", "/api/v1/jobs/{job}/results_link", self.link),
            ("GET", "/api/v1/devices/specs", self.specs),
            ("GET", "/api/v1/devices/public-specs", self.public_specs),
        ]
        for method, path, answer in routes:
            router.add_api_route(_CORE + path, self._endpoint(answer), methods=[method])
        router.add_api_route(_STORE, self.stored, methods=["GET"])
        return router

    async def create(self, request: Request) -> Any:
        raw = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            raw = _unpacked(raw)
        if len(raw) > _MOST_BYTES:
            raise _Refused(413, "the batch is too large")
        body = json.loads(raw)
        if not isinstance(body, dict) or body.get("project_id") != PROJECT:
            raise _Refused(403, "the project is not yours")
        if body.get("device_type") not in (None, DEVICE_TYPE):
            raise _Refused(400, f"no device {body.get('device_type')!r}")
        jobs = body.get("jobs")
        if not isinstance(jobs, list) or not jobs or not all(isinstance(j, dict) for j in jobs):
            raise _Refused(422, "give jobs")
        name, tags = str(uuid.uuid4()), tuple(map(str, body.get("tags") or ()))
        try:
            payloads = [
                AnalogPayload.coerce(
                    [one.get("sequence") or body.get("sequence_builder")], shots=one.get("runs")
                )
                for one in jobs
            ]
            started = [
                self.device.submit(
                    payload,
                    label=tags[0] if tags else "",
                    details={"batch": name},
                    fate=request.state.fate,
                )
                for payload in payloads
            ]
        except PayloadRejected as error:
            raise _Refused(422, str(error)) from None
        made = _Batch(id=name, tags=tags, device_type=DEVICE_TYPE, jobs=tuple(started))
        self.batches[name] = made
        return self._described(made)

    async def list(self, request: Request) -> Any:
        tag = request.query_params.get("tag")
        return [
            self._described(one) for one in self.batches.values() if tag is None or tag in one.tags
        ]

    async def batch(self, request: Request) -> Any:
        return self._described(self._batch(request.path_params["batch"]))

    async def cancel(self, request: Request) -> Any:
        found = self._batch(request.path_params["batch"])
        if found.state.is_final:
            raise _Refused(400, "the batch has ended")
        for job in found.jobs:
            if self.device.position(job) is not None:
                self.device.cancel(job)
            else:  # one that is running ends when the machine looks
                job.stopped.set()
        return self._described(found)

    async def jobs(self, request: Request) -> Any:
        found = self._batch(request.query_params.get("batch_id", ""))
        return [self._job(found, job) for job in found.jobs]

    async def link(self, request: Request) -> Any:
        name = request.path_params["job"]
        job = self.device.job(name)
        if job is None:
            raise _Refused(404, f"no job {name!r}")
        base = f"{request.url.scheme}://{request.url.netloc}{_STORE}"
        done = job.result is not None
        return {"results_link": f"{base}?job={name}&signature={self.signature}" if done else None}

    async def stored(self, request: Request) -> JSONResponse:
        job = self.device.job(request.query_params.get("job", ""))
        signed = secrets.compare_digest(
            request.query_params.get("signature", "").encode(), self.signature.encode()
        )
        if job is None or job.result is None or not signed:
            return JSONResponse({"message": "AccessDenied"}, 403)
        if "authorization" in request.headers:  # as S3: a link is signed, or a header is
            return JSONResponse({"message": "InvalidArgument: two ways to authenticate"}, 400)
        (counts,) = job.result.native
        return JSONResponse({"counter": dict(counts.counts), "raw": None})

    async def specs(self, request: Request) -> Any:
        del request
        return {DEVICE_TYPE: self._specification}

    async def public_specs(self, request: Request) -> Any:
        del request
        return [{"device_type": DEVICE_TYPE, "specs": self._specification}]

    @property
    def _specification(self) -> str:
        rydberg = self.device.target.rydberg
        assert rydberg is not None  # as of every simulator of atoms
        return rydberg.specification

    def _batch(self, name: str) -> _Batch:
        found = self.batches.get(name)
        if found is None:
            raise _Refused(404, f"no batch {name!r}")
        return found

    def _described(self, batch: _Batch) -> dict[str, Any]:
        first, last = batch.jobs[0], batch.jobs[-1]
        ended = last.ended_at if batch.state.is_final else None
        return {
            "id": batch.id,
            "open": False,
            "complete": True,
            "created_at": _iso(first.received_at),
            "updated_at": _iso(ended or first.received_at),
            "device_type": batch.device_type,
            "project_id": PROJECT,
            "user_id": _USER,
            "status": _STATUS[batch.state],
            "jobs_count": len(batch.jobs),
            "tags": list(batch.tags),
            "start_datetime": None if first.started_at is None else _iso(first.started_at),
            "end_datetime": None if ended is None else _iso(ended),
        }

    def _job(self, batch: _Batch, job: RehearsedJob) -> dict[str, Any]:
        return {
            "id": job.id,
            "batch_id": batch.id,
            "project_id": PROJECT,
            "runs": job.payload.shapes[0].shots,
            "status": _STATUS[job.state],
            "created_at": _iso(job.received_at),
            "updated_at": _iso(job.ended_at or job.received_at),
            "errors": [job.error] if job.error else None,
            "start_timestamp": None if job.started_at is None else _iso(job.started_at),
            "end_timestamp": None if job.ended_at is None else _iso(job.ended_at),
            "variables": None,
        }

    def _endpoint(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> JSONResponse:
            try:
                data = await answer(request)
            except _Refused as refused:
                return JSONResponse(self.site.error(refused.status, str(refused)), refused.status)
            except (ValueError, OSError) as error:  # a body that is not JSON, or no gzip
                return JSONResponse(self.site.error(400, str(error)), 400)
            body = {"status": "success", "message": "OK.", "code": "200", "data": data}
            if isinstance(data, list):
                body["pagination"] = {"total": len(data), "start": 0, "end": len(data)}
            return JSONResponse(body)

        return endpoint


def _unpacked(raw: bytes) -> bytes:
    """Unpack gzip, not far beyond what is accepted. Raises `_Refused` for other bytes."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(raw, _MOST_BYTES + 1)
    except zlib.error as error:
        raise _Refused(400, f"the body is no gzip: {error}") from None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


pasqal_cloud = PasqalCloud(
    profile=Simulator(
        title="A machine of Pasqal with up to 14 atoms, without noise",
        backend="rydberg",
        options={"device": "analog"},
    ),
    assumed=(
        "the texts and codes of errors, and the status of a cancellation that comes too late",
        "that a batch is found by its tag as soon as it is stored",
        "tokens are made here; the login at the vendor's identity provider is not rehearsed",
    ),
)
