"""An IQM Server rehearsed: its protocol in version 1, over a simulated device.

It shares no code with the backend that speaks to it, but for the names of components: IQM's own
client runs against it unchanged (tests/vendors).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from backends.api import Calibration, PayloadRejected, TaskState
from backends.gates import MOVE
from backends.iqm.components import Components
from backends.iqm.served_circuits import (
    MOST_INSTRUCTIONS,
    CircuitJob,
    CircuitReader,
    counts_of,
    measurements_of,
)
from backends.payloads import SamplerPayload
from backends.profiles import Profile
from backends.rehearsal import RehearsedDevice, RehearsedJob

__all__ = [
    "RESONATOR",
    "IqmSite",
    "aalto_q20",
    "architecture_of",
    "euro_q_exa",
    "vlq",
    "vtt_q50",
]

_API = "/api/v1"
RESONATOR = "CR1"
_LONGEST_WAIT_S = 30.0
_LOOK_S = 0.005
_LONGEST_TAG = 50
_STATUS = {
    TaskState.QUEUED: "waiting",
    TaskState.RUNNING: "processing",
    TaskState.COMPLETED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
}
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "illegal_job_status",
    422: "validation_error",
    429: "rate_limit_exceeded",
    503: "system_unavailable",
}
# Of each gate of a profile: IQM's name, and the implementation that its calibration has.
_GATES = {"r": ("prx", "drag_gaussian"), "cz": ("cz", "tgss"), MOVE: ("move", "tgss_crf")}


class _Refused(Exception):
    """A request that the server refuses, with its status and error code."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True, kw_only=True)
class IqmSite:
    """A site with an IQM Server. alias: of its quantum computer."""

    profile: str
    alias: str
    assumed: tuple[str, ...]
    backend: str = "iqm"

    def call(self, method: str, path: str) -> str | None:
        """See `Dialect.call`."""
        parts = path.removeprefix(_API).strip("/").split("/")
        match method, parts:
            case "POST", ["jobs", _, "circuit"]:
                return "submit"
            case "GET", ["jobs", _]:
                return "status"
            case "GET", ["jobs", _, "artifacts", _]:
                return "result"
            case ("POST", ["jobs", _, "cancel"]) | ("DELETE", ["jobs", _]):
                return "cancel"
            case "GET", ["calibration-sets", _, _, "dynamic-quantum-architecture"]:
                return "target"
            case _:
                return "other"

    def error(self, status: int, reason: str) -> dict[str, Any]:
        """See `Dialect.error`."""
        code = _CODES.get(status, "internal_error")
        return {"error_code": code, "message": reason, "request_id": "rehearsal"}

    def options(self, url: str, token_file: Path, clock_scale: float) -> Mapping[str, Any]:
        """See `Dialect.options`."""
        return {
            "profile": self.profile,
            "url": url,
            "token": {"file": str(token_file)},
            "time_scale": clock_scale,
        }

    def router(self, device: RehearsedDevice) -> APIRouter:
        """See `Dialect.router`."""
        return _Server(self, device).router()


@dataclass(slots=True)
class _Server:
    """The routes, each a method that returns JSON or raises `_Refused`."""

    site: IqmSite
    device: RehearsedDevice
    components: Components = field(init=False)
    qc_id: str = "00000000-0000-4000-8000-000000000001"

    def __post_init__(self) -> None:
        profile = self.device.profile
        star = profile.resonator is not None
        self.components = Components(
            num_qubits=profile.num_qubits, resonator=RESONATOR if star else None
        )

    def router(self) -> APIRouter:
        router = APIRouter(prefix=_API)
        computer = "/quantum-computers/{qc}"
        sets = "/calibration-sets/{qc}/{name}"
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", "/about", self.about),
            ("GET", f"{computer}/artifacts/about", self.about_station),
            ("GET", "/quantum-computers", self.computers),
            ("GET", computer, self.computer),
            ("GET", f"{computer}/health", self.health),
            ("GET", f"{computer}/limits", self.limits),
            ("GET", f"{computer}/queue-availability", self.queue),
            ("GET", f"{computer}/timeslots", self.timeslots),
            ("GET", f"{computer}/artifacts/static-quantum-architectures", self.static),
            ("GET", f"{sets}/dynamic-quantum-architecture", self.architecture),
            ("GET", f"{sets}/metrics", self.metrics),
            ("GET", sets, self.observations),
            ("POST", "/jobs/{qc}/circuit", self.submit),
            ("GET", "/jobs/{job}", self.job),
            ("GET", "/jobs/{job}/payload", self.payload),
            ("GET", "/jobs/{job}/artifacts/measurements", self.measurements),
            ("GET", "/jobs/{job}/artifacts/measurement_counts", self.counts),
            ("POST", "/jobs/{job}/cancel", self.cancel),
            ("DELETE", "/jobs/{job}", self.delete),
        ]
        for method, path, answer in routes:
            router.add_api_route(
                path, _endpoint(self.site, answer), methods=[method], summary=answer.__doc__
            )
        return router

    async def about(self, _: Request) -> Any:
        """Describe this server."""
        return {"name": f"{self.site.alias}, rehearsed", "version": "1"}

    async def about_station(self, request: Request) -> Any:
        """Describe the software of the quantum computer: there is none."""
        self._check_computer(request)
        return {"version": "1", "software_versions": {}}

    async def computers(self, _: Request) -> Any:
        """List the quantum computers of this server: one."""
        return {"quantum_computers": [self._computer()]}

    async def computer(self, request: Request) -> Any:
        """Describe a quantum computer."""
        self._check_computer(request)
        return {
            **self._computer(),
            "description": self.device.profile.title,
            "backend_type": "real",
            "number_of_qubits": self.device.profile.num_qubits,
            "operational": "online",
            "health": self._health(),
            "limits": self._limits(),
            "queue_length": self.device.queue_length(),
            "pulla_enabled": False,
            "pricing": {
                "payg_price_per_second": "0",
                "timeslots": {"slot_duration": 0, "slot_price": "0"},
            },
            "additional_info": {
                "academy_url": "",
                "best_suited_for": [],
                "mock_url": "",
                "documentation_url": "",
            },
        }

    async def health(self, request: Request) -> Any:
        """Return whether it works."""
        self._check_computer(request)
        return self._health()

    async def limits(self, request: Request) -> Any:
        """Return what one job may hold."""
        self._check_computer(request)
        return self._limits()

    async def queue(self, request: Request) -> Any:
        """Return how many jobs have not ended."""
        self._check_computer(request)
        return {"queue_length": self.device.queue_length(), "available": True}

    async def timeslots(self, request: Request) -> Any:
        """List the booked timeslots: none."""
        self._check_computer(request)
        return {"timeslots": []}

    async def static(self, request: Request) -> Any:
        """Describe the chip, of which some qubits may be out of use."""
        self._check_computer(request)
        profile = self.device.profile
        names = [self.components.name(q) for q in range(profile.num_qubits)]
        used = range(profile.num_qubits)
        pairs = [[self.components.name(q) for q in pair] for pair in _pairs(profile, used)]
        return [
            {
                "dut_label": self.site.alias,
                "qubits": names,
                "computational_resonators": _resonators(self.components),
                "connectivity": pairs,
            }
        ]

    async def architecture(self, request: Request) -> Any:
        """Return the gates of a calibration set and where each can be used."""
        calibration = self._calibration(request)
        return architecture_of(self.device.profile, self.components, calibration)

    async def observations(self, request: Request) -> Any:
        """Return the control values of a calibration set: a simulated device has none."""
        return self._set(self._calibration(request), [])

    async def metrics(self, request: Request) -> Any:
        """Return the quality metrics of a calibration set."""
        calibration = self._calibration(request)
        return self._set(calibration, _metrics(self.device.profile, self.components))

    async def submit(self, request: Request) -> Any:
        """Queue a job of circuits."""
        self._check_computer(request)
        tag = request.query_params.get("tag", "")
        if len(tag) > _LONGEST_TAG:
            raise _Refused(422, f"tag has {len(tag)} characters; at most {_LONGEST_TAG}")
        if request.query_params.get("use_timeslot", "false").lower() == "true":
            raise _Refused(403, "there is no booked timeslot now", "timeslot_required")
        body = await request.json()
        fate = request.state.fate
        return await asyncio.to_thread(self._submitted, body, tag, fate)

    async def job(self, request: Request) -> Any:
        """Describe a job, or wait for its end first."""
        job = self._job(request)
        query = request.query_params
        if query.get("wait_until_terminal", "false").lower() == "true":
            timeout_s = min(float(query.get("timeout_seconds", _LONGEST_WAIT_S)), _LONGEST_WAIT_S)
            deadline = time.monotonic() + timeout_s
            while not job.state.is_final and time.monotonic() < deadline:
                await asyncio.sleep(_LOOK_S)  # a thread for each client that waits is too much
        return self._described(job)

    async def payload(self, request: Request) -> Any:
        """Return what was sent."""
        return self._job(request).details["body"]

    async def measurements(self, request: Request) -> Any:
        """Return each shot of a completed job, by circuit and key."""
        job = self._completed(request)
        return await asyncio.to_thread(measurements_of, job)

    async def counts(self, request: Request) -> Any:
        """Return how often each outcome came, by circuit."""
        job = self._completed(request)
        return await asyncio.to_thread(counts_of, job)

    async def cancel(self, request: Request) -> Any:
        """Cancel a job that has not ended."""
        job = self._job(request)
        if job.state.is_final:
            raise _Refused(409, f"job {job.id} is {_STATUS[job.state]}", "illegal_job_status")
        await asyncio.to_thread(self.device.cancel, job)
        return self._described(job)

    async def delete(self, request: Request) -> Any:
        """Cancel a job, if it has not ended."""
        job = self._job(request)
        await asyncio.to_thread(self.device.cancel, job)
        return None

    @property
    def _most_shots(self) -> int:
        return self.device.target.max_shots or 10**6

    @property
    def _most_circuits(self) -> int:
        return self.device.target.max_circuits or 500

    def _health(self) -> dict[str, Any]:
        return {"healthy": True, "updated_at": _iso(datetime.now(UTC))}

    def _limits(self) -> dict[str, int]:
        shots, circuits = self._most_shots, self._most_circuits
        return {
            "max_circuits_per_job": circuits,
            "max_executions_per_job": circuits * shots,
            "max_instructions_per_circuit": MOST_INSTRUCTIONS,
            "max_shots_per_circuit": shots,
        }

    def _computer(self) -> dict[str, Any]:
        alias, title = self.site.alias, self.device.profile.title
        return {"id": self.qc_id, "alias": alias, "display_name": title}

    def _check_computer(self, request: Request) -> None:
        name = request.path_params["qc"]
        if name not in (self.qc_id, self.site.alias):
            raise _Refused(404, f"no quantum computer {name!r}; there is {self.site.alias!r}")

    def _calibration(self, request: Request) -> Calibration:
        self._check_computer(request)
        name = request.path_params["name"]
        found = self.device.known_calibration(None if name == "default" else name)
        if found is None:
            raise _Refused(404, f"no calibration set {name!r}")
        return found

    def _set(self, calibration: Calibration, values: Sequence[tuple[str, float, str]]) -> Any:
        """Return a set of observations, each a name, a value and a unit."""
        taken_at = _iso(calibration.taken_at)
        return {
            "observation_set_id": calibration.id,
            "observation_set_type": "calibration-set",
            "dut_label": self.site.alias,
            "created_timestamp": taken_at,
            "end_timestamp": taken_at,
            "invalid": False,
            "observations": [
                {
                    "observation_id": number,
                    "dut_field": name,
                    "value": value,
                    "unit": unit,
                    "uncertainty": None,
                    "invalid": False,
                    "created_timestamp": taken_at,
                    "modified_timestamp": taken_at,
                }
                for number, (name, value, unit) in enumerate(values, 1)
            ],
        }

    def _job(self, request: Request) -> RehearsedJob:
        name = request.path_params["job"]
        found = self.device.job(name)
        if found is None:
            raise _Refused(404, f"no job {name!r}")
        return found

    def _completed(self, request: Request) -> RehearsedJob:
        job = self._job(request)
        if job.state is not TaskState.COMPLETED:
            raise _Refused(409, f"job {job.id} is {_STATUS[job.state]}", "illegal_job_status")
        return job

    def _submitted(self, body: Any, tag: str, fate: str) -> Any:
        try:
            sent = CircuitJob.model_validate(body)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise _Refused(422, f"{where}: {fault['msg']}") from None
        calibration = self.device.known_calibration(sent.calibration_set_id)
        if calibration is None:
            raise _Refused(404, f"no calibration set {sent.calibration_set_id!r}")
        if len(sent.circuits) > self._most_circuits or sent.shots > self._most_shots:
            raise _Refused(
                413,
                f"{len(sent.circuits)} circuits and {sent.shots} shots; at most "
                f"{self._most_circuits} and {self._most_shots}",
            )
        mapping = {m["logical_name"]: m["physical_name"] for m in sent.qubit_mapping or ()}
        try:
            read = [CircuitReader(self.components, mapping).circuit(one) for one in sent.circuits]
            payload = SamplerPayload.coerce([circuit for circuit, _ in read], shots=sent.shots)
            job = self.device.submit(
                payload,
                label=tag,
                calibration=calibration,
                details={"body": body, "keys": [keys for _, keys in read]},
                fate=fate,
            )
        except (PayloadRejected, ValueError) as error:
            raise _Refused(422, str(error), "invalid_job_payload") from None
        return self._described(job)

    def _described(self, job: RehearsedJob) -> dict[str, Any]:
        moments = (
            ("received", job.received_at),
            ("execution_started", job.started_at),
            ("execution_ended", job.ended_at if job.started_at else None),
            (_STATUS[job.state], job.ended_at if job.state.is_final else None),
        )
        timeline = [
            {"source": "rehearsal", "status": status, "timestamp": _iso_of(at)}
            for status, at in moments
            if at is not None
        ]
        failed = [
            {"source": "rehearsal", "error_code": "execution_failed", "message": job.error}
        ] * (job.state is TaskState.FAILED)
        usage = None if job.result is None else job.result.usage
        kinds = ("measurements", "measurement_counts")
        done = job.state is TaskState.COMPLETED
        return {
            "id": job.id,
            "type": "circuit",
            "status": _STATUS[job.state],
            "qc": {"id": self.qc_id, "alias": self.site.alias},
            "queue_position": self.device.position(job),
            "messages": [],
            "errors": failed,
            "timeline": timeline,
            "artifacts": [{"type": kind} for kind in kinds] if done else [],
            "compilation": {"calibration_set_id": job.calibration.id},
            "execution": None,
            "runtime_ms": None if usage is None else round(usage.qpu_seconds * 1000),
            "tag": job.label or None,
        }


def architecture_of(
    profile: Profile, components: Components, calibration: Calibration
) -> dict[str, Any]:
    """Return a device's dynamic quantum architecture as it is with a calibration."""
    used = [q for q in range(profile.num_qubits) if q not in profile.unusable_qubits]
    names = [components.name(q) for q in used]
    pairs = [[components.name(q) for q in pair] for pair in _pairs(profile, used)]
    gates = {}
    for gate in profile.gates:
        name, implementation = _GATES[gate.name]
        gates[name] = _gate(implementation, pairs if gate.num_qubits > 1 else _alone(names))
    gates["measure"] = _gate("constant", _alone(names))
    return {
        "calibration_set_id": calibration.id,
        "qubits": names,
        "computational_resonators": _resonators(components),
        "gates": gates,
    }


def _resonators(components: Components) -> list[str]:
    return [] if components.resonator is None else [components.resonator]


def _pairs(profile: Profile, used: Sequence[int]) -> list[tuple[int, int]]:
    if profile.resonator is not None:
        return [(q, profile.resonator) for q in used]
    return [pair for pair in profile.coupling or () if set(pair) <= set(used)]


def _alone(names: Sequence[str]) -> list[list[str]]:
    return [[name] for name in names]


def _gate(implementation: str, loci: list[list[str]]) -> dict[str, Any]:
    return {
        "implementations": {implementation: {"loci": loci}},
        "default_implementation": implementation,
        "override_default_implementation": {},
    }


def _metrics(profile: Profile, components: Components) -> list[tuple[str, float, str]]:
    """Return a profile's values under the names that observations have."""
    values: list[tuple[str, float, str]] = []
    used = [q for q in range(profile.num_qubits) if q not in profile.unusable_qubits]
    for name in map(components.name, used):
        if profile.coherence is not None:
            values.append((f"characterization.model.{name}.t1_time", profile.coherence.t1_s, "s"))
            values.append((f"characterization.model.{name}.t2_time", profile.coherence.t2_s, "s"))
        readout = f"metrics.ssro.measure.constant.{name}"
        values.append((f"{readout}.error_0_to_1", profile.readout.zero_as_one, ""))
        values.append((f"{readout}.error_1_to_0", profile.readout.one_as_zero, ""))
    for gate in profile.gates:
        wire, implementation = _GATES[gate.name]
        kind = "rb" if gate.num_qubits == 1 else "irb"
        for place in (
            _places(profile, components, used)
            if gate.num_qubits > 1
            else map(components.name, used)
        ):
            name = f"metrics.{kind}.{wire}.{implementation}.{place}.fidelity"
            values.append((name, 1 - gate.error, ""))
    return values


def _places(profile: Profile, components: Components, used: Sequence[int]) -> list[str]:
    """Return the names of the pairs of components that two-qubit gates use."""
    if profile.resonator is not None:
        return [f"{components.name(q)}__{components.resonator}" for q in used]
    pairs = [pair for pair in profile.coupling or () if set(pair) <= set(used)]
    return ["__".join(map(components.name, pair)) for pair in pairs]


def _endpoint(site: IqmSite, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> JSONResponse:
        try:
            return JSONResponse(await answer(request))
        except _Refused as refused:
            body = site.error(refused.status, str(refused))
            return JSONResponse(
                body | ({"error_code": refused.code} if refused.code else {}), refused.status
            )
        except ValueError as error:  # a body that is not JSON, a number that is none
            return JSONResponse(site.error(400, str(error)), 400)

    return endpoint


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _iso_of(seconds: float) -> str:
    return _iso(datetime.fromtimestamp(seconds, UTC))


_SERVER = (
    "the names of the gates' implementations, and which observations a calibration set has",
    "a server's limits of circuits and shots, where its profile states an assumption",
)

vlq = IqmSite(
    profile="vlq",
    alias="vlq",
    assumed=(
        (
            "VLQ's users submit two jobs through HEAppE, which `hpcqc rehearse vlq-staged` rehearses; "
            "here the IQM Server of the device is, which stands behind them and is not open to users"
        ),
        *_SERVER,
    ),
)
euro_q_exa = IqmSite(
    profile="euro-q-exa",
    alias="euro-q-exa",
    assumed=(
        (
            "Euro-Q-Exa's portal takes abstract circuits and transpiles; its protocol is not "
            "described, so the IQM Server of the device is rehearsed, which takes native ones"
        ),
        *_SERVER,
    ),
)
vtt_q50 = IqmSite(profile="vtt-q50", alias="q50", assumed=_SERVER)
aalto_q20 = IqmSite(profile="aalto-q20", alias="q20", assumed=_SERVER)
