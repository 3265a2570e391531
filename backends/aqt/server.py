"""AQT's servers rehearsed: direct access and the cloud, over a simulated device.

They share no code with the backend that speaks to them: AQT's own client runs against them
unchanged (tests/vendors).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from backends.api import PayloadRejected, TaskState
from backends.aqt.served_circuits import AqtJob, Circuit, circuit_of, samples_of
from backends.payloads import SamplerPayload
from backends.rehearsal import RehearsedDevice, RehearsedJob

__all__ = ["AqtSite", "ibex_q1", "piast_q"]

_API = "/api/v1"
_LOOK_S = 0.005
_SEEN_EVERY = 100  # looks at whether the client that waits is still there
_STATUS = {
    TaskState.QUEUED: "queued",
    TaskState.RUNNING: "ongoing",
    TaskState.COMPLETED: "finished",
    TaskState.FAILED: "error",
    TaskState.CANCELLED: "cancelled",
}


class _Refused(Exception):
    """A request that the server refuses, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class AqtSite:
    """A site with a machine of AQT.

    workspace, resource: of the cloud; None for direct access. api_key_header: header that carries
    the key; None for a bearer token. most_connections: see `Dialect`.
    """

    profile: str
    assumed: tuple[str, ...]
    workspace: str | None = None
    resource: str | None = None
    api_key_header: str | None = None
    most_connections: int | None = None
    backend: str = "aqt"

    def call(self, method: str, path: str) -> str | None:
        """See `Dialect.call`. There is no request for a job's status alone."""
        parts = path.removeprefix(_API).strip("/").split("/")
        match method, parts:
            case ("PUT", ["circuit"]) | ("POST", ["submit", _, _]):
                return "submit"
            case ("GET", ["circuit", "result", _]) | ("GET", ["result", _]):
                return "result"
            case ("GET", ["status", "ions"]) | ("GET", ["resources", _]):
                return "target"
            case _:
                return "other"

    def error(self, status: int, reason: str) -> dict[str, Any]:
        """See `Dialect.error`."""
        del status
        return {"detail": reason}

    def options(self, url: str, token_file: Path, clock_scale: float) -> Mapping[str, Any]:
        """See `Dialect.options`."""
        stated = {
            "workspace": self.workspace,
            "resource": self.resource,
            "api_key_header": self.api_key_header,
            "connections": self.most_connections,
        }
        return {
            "profile": self.profile,
            "url": url,
            "token": {"file": str(token_file)},
            "time_scale": clock_scale,
            **{name: value for name, value in stated.items() if value is not None},
        }

    def router(self, device: RehearsedDevice) -> APIRouter:
        """See `Dialect.router`."""
        server = _Server(self, device)
        return server.direct() if self.workspace is None else server.cloud()


@dataclass(slots=True)
class _Server:
    """The routes, each a method that returns JSON or raises `_Refused`."""

    site: AqtSite
    device: RehearsedDevice

    def direct(self) -> APIRouter:
        """Return the routes of direct access."""
        return _routes(
            self.site,
            "",
            [
                ("GET", "/status/ions", self.ions),
                ("GET", "/system/name", self.name),
                ("PUT", "/circuit", self.put_circuit),
                ("GET", "/circuit/result/{job}", self.await_result),
            ],
        )

    def cloud(self) -> APIRouter:
        """Return the routes of the cloud."""
        return _routes(
            self.site,
            _API,
            [
                ("GET", "/workspaces", self.workspaces),
                ("GET", "/resources/{resource}", self.resource),
                ("POST", "/submit/{workspace}/{resource}", self.submit),
                ("GET", "/result/{job}", self.result),
            ],
        )

    async def ions(self, _: Request) -> Any:
        """Return how many ions are loaded."""
        return {"num_ions": self.device.profile.num_qubits}

    async def name(self, _: Request) -> Any:
        """Return the machine's name."""
        return self.device.profile.name

    async def put_circuit(self, request: Request) -> Any:
        """Queue a circuit."""
        sent = _parsed(Circuit, await request.body())
        job = await asyncio.to_thread(self._queued, [sent], "", request.state.fate)
        return job.id

    async def await_result(self, request: Request) -> Any:
        """Return the samples of a circuit when it has been run."""
        job = self._job(request)
        looks = 0
        while not job.state.is_final:
            looks += 1
            if looks % _SEEN_EVERY == 0 and await request.is_disconnected():
                break
            await asyncio.sleep(_LOOK_S)  # a thread for each client that waits is too much
        payload: dict[str, Any] = {"status": "error"}
        if job.state is TaskState.COMPLETED:
            samples = await asyncio.to_thread(samples_of, job, self._zero_as_one)
            payload = {"status": "finished", "result": samples["0"]}
        return {"job_id": job.id, "payload": payload}

    async def workspaces(self, _: Request) -> Any:
        """List the workspaces: one."""
        return [
            {
                "id": self.site.workspace,
                "accepting_job_submissions": True,
                "jobs_being_processed": True,
                "resources": [self._resource()],
            }
        ]

    async def resource(self, request: Request) -> Any:
        """Describe a machine and how well it works."""
        self._check(request, "resource", self.site.resource)
        return {
            **self._resource(),
            "status": "online",
            "available_qubits": self.device.profile.num_qubits,
            "status_updated_at": _iso(datetime.now(UTC)),
            "characterisation": self._characterisation(),
        }

    async def submit(self, request: Request) -> Any:
        """Queue a job of circuits."""
        self._check(request, "workspace", self.site.workspace)
        self._check(request, "resource", self.site.resource)
        sent = _parsed(AqtJob, await request.body())
        job = await asyncio.to_thread(
            self._queued, sent.payload.circuits, sent.label or "", request.state.fate
        )
        return {"job": self._described(job), "response": {"status": "queued"}}

    async def result(self, request: Request) -> Any:
        """Return the state of a job, and its samples when it has been run."""
        job = self._job(request)
        response: dict[str, Any] = {
            "status": _STATUS[job.state],
            "timing_data": [
                {"new_status": status, "timestamp": _iso(datetime.fromtimestamp(at, UTC))}
                for status, at in (
                    ("queued", job.received_at),
                    ("ongoing", job.started_at),
                    (_STATUS[job.state], job.ended_at),
                )
                if at is not None
            ],
        }
        match job.state:
            case TaskState.RUNNING:
                response["finished_count"] = 0
            case TaskState.FAILED:
                response["message"] = job.error
            case TaskState.COMPLETED:
                response["result"] = await asyncio.to_thread(samples_of, job, self._zero_as_one)
        return {"job": self._described(job), "response": response}

    def _queued(self, sent: list[Circuit], label: str, fate: str) -> RehearsedJob:
        most = self.device.target.max_shots
        for one in sent:
            if most is not None and one.repetitions > most:
                raise _Refused(422, f"repetitions: {one.repetitions}; this site takes {most}")
        try:
            pubs = [(circuit_of(one), None, one.repetitions) for one in sent]
            payload = SamplerPayload.coerce(pubs)
            return self.device.submit(payload, label=label, details=sent, fate=fate)
        except (PayloadRejected, ValueError) as error:
            raise _Refused(422, str(error)) from None

    @property
    def _zero_as_one(self) -> float:
        return self.device.profile.readout.zero_as_one

    def _job(self, request: Request) -> RehearsedJob:
        name = request.path_params["job"]
        found = self.device.job(name)
        if found is None:
            raise _Refused(404, f"no job {name!r}")
        return found

    def _check(self, request: Request, part: str, known: str | None) -> None:
        name = request.path_params[part]
        if name != known:
            raise _Refused(404, f"no {part} {name!r}; there is {known!r}")

    def _resource(self) -> dict[str, Any]:
        title = self.device.profile.title
        return {"id": self.site.resource, "name": title, "type": "device"}

    def _described(self, job: RehearsedJob) -> dict[str, Any]:
        return {
            "job_id": job.id,
            "job_type": "quantum_circuit",
            "label": job.label or None,
            "resource_id": self.site.resource,
            "workspace_id": self.site.workspace,
        }

    def _characterisation(self) -> dict[str, Any] | None:
        profile = self.device.profile
        if profile.coherence is None:
            return None
        gates = {gate.name: gate for gate in profile.gates}
        single, pair = gates["r"], gates["rxx"]
        readout = max(profile.readout.zero_as_one, profile.readout.one_as_zero)
        return {
            "single_qubit_gate_fidelity": {
                str(ion): _percent(single.error) for ion in range(profile.num_qubits)
            },
            "mean_two_qubit_gate_fidelity": _percent(pair.error),
            "spam_fidelity_lower_bound": 100 * (1 - readout),
            "t1_s": {"value": profile.coherence.t1_s, "uncertainty": 0.0},
            "t2_coherence_time_s": {"value": profile.coherence.t2_s, "uncertainty": 0.0},
            "readout_time_micros": 1e6 * profile.readout.duration_s,
            "single_qubit_gate_duration_micros": 1e6 * single.duration_s,
            "two_qubit_gate_duration_micros": 1e6 * pair.duration_s,
            "updated_at": _iso(self.device.calibration.taken_at),
        }


def _parsed(model: Any, body: bytes) -> Any:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise _Refused(422, f"{where}: {fault['msg']}") from None


def _percent(error: float) -> dict[str, float]:
    return {"value": 100 * (1 - error), "uncertainty": 0.0}


def _routes(
    site: AqtSite, prefix: str, routes: list[tuple[str, str, Callable[[Request], Any]]]
) -> APIRouter:
    router = APIRouter(prefix=prefix)
    for method, path, answer in routes:
        router.add_api_route(
            path, _endpoint(site, answer), methods=[method], summary=answer.__doc__
        )
    return router


def _endpoint(site: AqtSite, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> JSONResponse:
        try:
            return JSONResponse(await answer(request))
        except _Refused as refused:
            return JSONResponse(site.error(refused.status, str(refused)), refused.status)

    return endpoint


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


piast_q = AqtSite(
    profile="piast-q",
    api_key_header="X-API-Key",
    most_connections=4,
    assumed=(
        (
            "PIAST-Q is reached by one REST call to the site's broker, whose protocol is not "
            "described, so AQT's direct access is rehearsed, which takes the same list of gates"
        ),
        "the header that carries the API key; a bearer token is accepted, too",
        (
            "the status of the error beyond four connections, 429 here; the lesson of the site "
            "states that the job completes nevertheless"
        ),
        "a refusal of more than 200 shots, 422 here",
        "how errors are written",
    ),
)
ibex_q1 = AqtSite(
    profile="ibex-q1",
    workspace="rehearsal",
    resource="ibex-q1",
    assumed=(
        "how errors are written, and what is answered to a client that asks too often",
        "names of workspaces and resources",
    ),
)
