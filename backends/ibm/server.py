"""IBM's service rehearsed: jobs, sessions and devices of its REST API, over a simulated device.

It shares no code with the backend that speaks to it. Programs and results are read and written
with the schemas that IBM publishes; IBM's own client runs against it unchanged (tests/vendors).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from backends.api import PayloadRejected, TaskState
from backends.payloads import SamplerPayload
from backends.plugins import PluginUnusable
from backends.rehearsal import RehearsedDevice, RehearsedJob

__all__ = ["IbmSite", "ibm_fez"]

_API = "/api/v1"
_IDENTITY = "/identity/token"
_INSTANCE = "crn:v1:bluemix:public:quantum-computing:us-east:a/rehearsal:rehearsal::"
_STATUS = {
    TaskState.QUEUED: "Queued",
    TaskState.RUNNING: "Running",
    TaskState.COMPLETED: "Completed",
    TaskState.FAILED: "Failed",
    TaskState.CANCELLED: "Cancelled",
}
_TOKEN_S = 3600
_OURS = "hpcqc"


class _Refused(Exception):
    """A request that the service refuses, with its status and error code."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True, kw_only=True)
class IbmSite:
    """A device of IBM's service. device: its name there."""

    profile: str
    device: str
    assumed: tuple[str, ...]
    backend: str = "ibm"

    def call(self, method: str, path: str) -> str | None:
        """See `Dialect.call`."""
        parts = path.removeprefix(_API).strip("/").split("/")
        match method, parts:
            case "POST", ["identity", "token"]:
                return "token"
            case "POST", ["jobs"]:
                return "submit"
            case "GET", ["jobs"]:
                return "find"
            case "GET", ["jobs", _]:
                return "status"
            case "GET", ["jobs", _, "results"]:
                return "result"
            case "GET", ["jobs", _, "metrics"]:
                return "usage"
            case "POST", ["jobs", _, "cancel"]:
                return "cancel"
            case "GET", ["backends", _, "configuration"]:
                return "target"
            case "POST", ["sessions"]:
                return "session"
            case _:
                return "other"

    def is_public(self, method: str, path: str) -> bool:
        """Whether a request needs no token: the one that asks for a token."""
        return (method, path) == ("POST", _IDENTITY)

    def error(self, status: int, reason: str) -> dict[str, Any]:
        """See `Dialect.error`."""
        return {"errors": [{"code": 1000 + status, "message": reason, "solution": ""}]}

    def options(self, url: str, token_file: Path, clock_scale: float) -> Mapping[str, Any]:
        """See `Dialect.options`."""
        return {
            "profile": self.profile,
            "time_scale": clock_scale,
            "device": self.device,
            "instance": _INSTANCE,
            "url": f"{url}{_API}",
            "iam_url": url,
            "token": {"file": str(token_file)},
        }

    def router(self, device: RehearsedDevice) -> APIRouter:
        """See `Dialect.router`. Raises `PluginUnusable` without IBM's schemas."""
        try:
            import ibm_quantum_schemas  # noqa: F401
        except ImportError as error:
            raise PluginUnusable(
                f"{self.device} is rehearsed with the schemas that IBM publishes ({error}); install "
                "hpcqc[ibm]"
            ) from error
        return _Server(self, device).router()


@dataclass(slots=True)
class _Sent:
    """What came with a job. program: as the schemas read it."""

    program: Any
    tags: list[str]
    session: str | None


@dataclass(slots=True)
class _Server:
    """The routes, each a method that returns JSON or raises `_Refused`."""

    site: IbmSite
    device: RehearsedDevice
    jobs: list[RehearsedJob] = field(default_factory=list)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def router(self) -> APIRouter:
        router = APIRouter()
        backend = f"{_API}/backends/{{name}}"
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", _IDENTITY, self.token),
            ("GET", f"{_API}/backends", self.backends),
            ("GET", f"{backend}/configuration", self.configuration),
            ("GET", f"{backend}/properties", self.properties),
            ("GET", f"{backend}/status", self.status),
            ("GET", f"{_API}/instances/usage", self.usage),
            ("POST", f"{_API}/jobs", self.submit),
            ("GET", f"{_API}/jobs", self.list_jobs),
            ("GET", f"{_API}/jobs/{{job}}", self.job),
            ("GET", f"{_API}/jobs/{{job}}/results", self.results),
            ("GET", f"{_API}/jobs/{{job}}/metrics", self.metrics),
            ("POST", f"{_API}/jobs/{{job}}/cancel", self.cancel),
            ("POST", f"{_API}/sessions", self.open_session),
            ("GET", f"{_API}/sessions/{{session}}", self.session),
            ("PATCH", f"{_API}/sessions/{{session}}", self.change_session),
            ("DELETE", f"{_API}/sessions/{{session}}/close", self.cancel_session),
        ]
        for method, path, answer in routes:
            router.add_api_route(
                path, _endpoint(self.site, answer), methods=[method], summary=answer.__doc__
            )
        return router

    async def token(self, request: Request) -> Any:
        """Exchange an API key for a token, which is the key itself here."""
        form = parse_qs((await request.body()).decode())
        key = form.get("apikey", [""])[0]
        expiration = int(time.time()) + _TOKEN_S
        return {
            "access_token": key,
            "token_type": "Bearer",
            "expires_in": _TOKEN_S,
            "expiration": expiration,
        }

    async def backends(self, _: Request) -> Any:
        """List the devices of the instance: one."""
        profile = self.device.profile
        listed = {
            "name": self.site.device,
            "status": {"name": "online"},
            "qubits": profile.num_qubits,
            "queue_length": self.device.queue_length(),
            "class": "qpu",
        }
        return {"devices": [listed]}

    async def configuration(self, request: Request) -> Any:
        """Describe a device."""
        self._check_device(request)
        profile = self.device.profile
        gates = [gate.name for gate in profile.gates]
        pairs = [list(pair) for a, b in profile.coupling or () for pair in ((a, b), (b, a))]
        singles = [[qubit] for qubit in range(profile.num_qubits)]
        return {
            "backend_name": self.site.device,
            "backend_version": "1.0.0",
            "n_qubits": profile.num_qubits,
            "basis_gates": gates,
            "gates": [
                {
                    "name": gate.name,
                    "parameters": [],
                    "qasm_def": "",
                    "coupling_map": pairs if gate.num_qubits > 1 else singles,
                }
                for gate in profile.gates
            ],
            "supported_instructions": [*gates, "measure", "reset", "delay", *profile.control_flow],
            "supported_features": ["qasm3"],
            "coupling_map": pairs,
            "local": False,
            "simulator": False,
            "conditional": False,
            "open_pulse": False,
            "memory": True,
            "max_shots": profile.max_shots,
            "max_experiments": profile.max_circuits,
            "dt": 4.0,
            "dtm": 4.0,
            "online_date": "2024-05-14T04:00:00Z",
        }

    async def properties(self, request: Request) -> Any:
        """Return what the last calibration measured."""
        self._check_device(request)
        profile = self.device.profile
        date = _iso(self.device.calibration.taken_at)
        qubits = []
        for _ in range(profile.num_qubits):
            values = [
                ("readout_error", _mean(profile), ""),
                ("prob_meas1_prep0", profile.readout.zero_as_one, ""),
                ("prob_meas0_prep1", profile.readout.one_as_zero, ""),
                ("readout_length", profile.readout.duration_s * 1e9, "ns"),
            ]
            if profile.coherence is not None:
                values.append(("T1", profile.coherence.t1_s * 1e6, "us"))
                values.append(("T2", profile.coherence.t2_s * 1e6, "us"))
            qubits.append([_measured(date, *value) for value in values])
        gates = [
            {
                "gate": gate.name,
                "name": f"{gate.name}{'_'.join(map(str, place))}",
                "qubits": list(place),
                "parameters": [
                    _measured(date, "gate_error", gate.error, ""),
                    _measured(date, "gate_length", gate.duration_s * 1e9, "ns"),
                ],
            }
            for gate in profile.gates
            for place in _places(self.device, gate.num_qubits)
        ]
        return {
            "backend_name": self.site.device,
            "backend_version": "1.0.0",
            "last_update_date": date,
            "qubits": qubits,
            "gates": gates,
            "general": [],
        }

    async def status(self, request: Request) -> Any:
        """Return whether a device works."""
        self._check_device(request)
        length = self.device.queue_length()
        return {"state": True, "status": "active", "length_queue": length}

    async def usage(self, _: Request) -> Any:
        """Return how much time of the instance was used: there is no limit."""
        return {"instance_id": _INSTANCE, "usage_consumed_seconds": 0, "usage_limit_reached": False}

    async def submit(self, request: Request) -> Any:
        """Queue a job."""
        body = await request.json()
        fate = getattr(request.state, "fate", "")
        job = await asyncio.to_thread(self._submitted, body, fate)
        return {"id": job.id, "backend": self.site.device}

    async def list_jobs(self, request: Request) -> Any:
        """List the jobs that have all the tags asked for, the newest first."""
        query = request.query_params
        tags = set(query.getlist("tags"))
        found = [
            job
            for job in reversed(self.jobs)
            if tags <= set(job.details.tags)
            and query.get("backend", self.site.device) == self.site.device
            and query.get("session_id", job.details.session) == job.details.session
        ]
        first, most = int(query.get("offset", 0)), int(query.get("limit", 10))
        shown = [self._described(job) for job in found[first : first + most]]
        return {"jobs": shown, "count": len(found), "limit": most, "offset": first}

    async def job(self, request: Request) -> Any:
        """Describe a job."""
        return self._described(self._job(request))

    async def results(self, request: Request) -> Any:
        """Return a job's result, as IBM's schema of results has it."""
        job = self._job(request)
        if not job.state.is_final:
            raise _Refused(404, f"job {job.id} has no results yet")
        if job.result is None:
            return Response(job.error, media_type="text/plain")
        return Response(await asyncio.to_thread(_result_text, job), media_type="application/json")

    async def metrics(self, request: Request) -> Any:
        """Return when a job ran, and what it used."""
        job = self._job(request)
        seconds = 0.0 if job.result is None else job.result.usage.qpu_seconds
        return {
            "timestamps": {
                "created": _iso_of(job.received_at),
                "running": _iso_of(job.started_at),
                "finished": _iso_of(job.ended_at),
            },
            "usage": {
                "qpu_charge_time_seconds": seconds,
                "status": "complete" if job.state.is_final else "pending",
            },
        }

    async def cancel(self, request: Request) -> Any:
        """Cancel a job that has not ended."""
        job = self._job(request)
        if job.state.is_final:
            raise _Refused(409, f"job {job.id} has ended: {_STATUS[job.state]}")
        await asyncio.to_thread(self.device.cancel, job)
        return Response(status_code=204)

    async def open_session(self, request: Request) -> Any:
        """Open a session."""
        body = await request.json()
        made = {
            "id": uuid.uuid4().hex,
            "backend_name": body.get("backend"),
            "mode": body.get("mode"),
            "max_ttl": body.get("max_ttl"),
            "accepting_jobs": True,
            "state": "open",
        }
        self.sessions[str(made["id"])] = made
        return made

    async def session(self, request: Request) -> Any:
        """Describe a session."""
        return self._session(request)

    async def change_session(self, request: Request) -> Any:
        """Close a session for new jobs, or open it."""
        found = self._session(request)
        found["accepting_jobs"] = bool((await request.json()).get("accepting_jobs"))
        found["state"] = "open" if found["accepting_jobs"] else "closed"
        return Response(status_code=204)

    async def cancel_session(self, request: Request) -> Any:
        """Close a session."""
        self._session(request).update(accepting_jobs=False, state="closed")
        return Response(status_code=204)

    def _check_device(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self.site.device:
            raise _Refused(404, f"no backend {name!r}; there is {self.site.device!r}")

    def _job(self, request: Request) -> RehearsedJob:
        name = request.path_params["job"]
        found = self.device.job(name)
        if found is None:
            raise _Refused(404, f"job {name!r} not found")
        return found

    def _session(self, request: Request) -> dict[str, Any]:
        name = request.path_params["session"]
        if name not in self.sessions:
            raise _Refused(404, f"session {name!r} not found")
        return self.sessions[name]

    def _submitted(self, body: Any, fate: str) -> RehearsedJob:
        from ibm_quantum_schemas.executor.version_2_0 import ParamsModel

        if body.get("program_id") != "executor":
            raise _Refused(400, f"program {body.get('program_id')!r}; rehearsed is 'executor'")
        if body.get("backend") != self.site.device:
            raise _Refused(404, f"no backend {body.get('backend')!r}")
        session = body.get("session_id")
        if session is not None and not self.sessions.get(session, {}).get("accepting_jobs"):
            raise _Refused(400, f"session {session!r} takes no jobs")
        try:
            program = ParamsModel.model_validate(body["params"]).quantum_program
            payload = _payload(program)
        except (KeyError, ValidationError, ValueError) as error:
            raise _Refused(400, f"invalid params: {error!s:.300}") from None
        tags = [str(tag) for tag in body.get("tags", ())]
        try:
            job = self.device.submit(
                payload,
                label=next((tag for tag in tags if tag != _OURS), ""),
                details=_Sent(program, tags, session),
                fate=fate,
            )
        except PayloadRejected as error:
            raise _Refused(400, str(error)) from None
        self.jobs.append(job)
        return job

    def _described(self, job: RehearsedJob) -> dict[str, Any]:
        status = _STATUS[job.state]
        state: dict[str, Any] = {"status": status}
        if job.state is TaskState.FAILED:
            state["reason"] = job.error
        return {
            "id": job.id,
            "backend": self.site.device,
            "program": {"id": "executor"},
            "status": status,
            "state": state,
            "created": _iso_of(job.received_at),
            "tags": job.details.tags,
            "session_id": job.details.session,
        }


def _payload(program: Any) -> SamplerPayload:
    """Return the circuits of a program. Raises ``ValueError`` for what is not rehearsed."""
    pubs = []
    for circuit, item in zip(program.circuits.to_python(), program.items, strict=True):
        if item.item_type != "circuit" or program.meas_level != "classified":
            raise ValueError(f"{item.item_type!r}, {program.meas_level!r}; rehearsed are circuits")
        values = item.circuit_arguments.to_numpy()
        pubs.append((circuit, values) if circuit.num_parameters else (circuit,))
    return SamplerPayload.coerce(pubs, shots=program.shots)


def _result_text(job: RehearsedJob) -> str:
    from ibm_quantum_schemas.common import CompressedTensorModel
    from ibm_quantum_schemas.executor.version_2_0 import (
        ItemMetadataModel,
        MetadataModel,
        QuantumProgramResultItemModel,
        QuantumProgramResultModel,
    )

    assert job.result is not None
    data = [
        QuantumProgramResultItemModel(
            results={
                name: CompressedTensorModel.from_numpy(
                    np.ascontiguousarray(bits.to_bool_array(order="little"))
                )
                for name, bits in pub.data.items()
            },
            metadata=ItemMetadataModel(),
        )
        for pub in job.result.native
    ]
    made: str = QuantumProgramResultModel(
        data=data,
        metadata=MetadataModel(chunk_timing=[]),
        passthrough_data=job.details.program.passthrough_data,
        semantic_role=job.details.program.semantic_role,
    ).model_dump_json()
    return made


def _places(device: RehearsedDevice, num_qubits: int) -> list[tuple[int, ...]]:
    profile = device.profile
    if num_qubits == 1:
        return [(qubit,) for qubit in range(profile.num_qubits)]
    return [pair for a, b in profile.coupling or () for pair in ((a, b), (b, a))]


def _mean(profile: Any) -> float:
    return float(profile.readout.zero_as_one + profile.readout.one_as_zero) / 2


def _measured(date: str, name: str, value: float, unit: str) -> dict[str, Any]:
    return {"date": date, "name": name, "unit": unit, "value": value}


def _endpoint(site: IbmSite, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            found = await answer(request)
        except _Refused as refused:
            return JSONResponse(site.error(refused.status, str(refused)), refused.status)
        except (AttributeError, TypeError, ValueError) as error:  # a body that is no such JSON
            return JSONResponse(site.error(400, str(error)), 400)
        return found if isinstance(found, Response) else JSONResponse(found)

    return endpoint


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _iso_of(seconds: float | None) -> str | None:
    return None if seconds is None else _iso(datetime.fromtimestamp(seconds, UTC))


ibm_fez = IbmSite(
    profile="ibm-fez",
    device="ibm_fez",
    assumed=(
        "the routes and the fields of answers are those that IBM's client 0.51 uses and reads",
        "the API key itself serves as the token that the identity service returns for it",
        "the codes and texts of errors, and that a job which is stored is listed at once",
    ),
)
