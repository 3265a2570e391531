"""A site rehearsed that takes two jobs: HEAppE's protocol, with circuits staged as OpenQASM files.

Qiskit's own reader reads the files; the backend that speaks to this server writes them by itself.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from qiskit import ClassicalRegister, QuantumCircuit, qasm3
from qiskit.circuit import CircuitInstruction

from backends.api import PayloadRejected, TaskState
from backends.gates import MoveGate
from backends.iqm.components import Components
from backends.iqm.served_circuits import measurements_of
from backends.iqm.server import RESONATOR, architecture_of
from backends.payloads import SamplerPayload
from backends.rehearsal import RehearsedDevice, RehearsedJob

__all__ = ["StagedSite", "vlq_staged"]

_API = "/heappe"
_COMMANDS = {"RunQInit": "init_queue", "RunQExecute": "compute_queue"}
_CREATED, _QUEUED, _RUNNING, _FINISHED, _FAILED, _CANCELED = 1, 4, 8, 16, 32, 64
_STATE = {
    TaskState.QUEUED: _QUEUED,
    TaskState.RUNNING: _RUNNING,
    TaskState.COMPLETED: _FINISHED,
    TaskState.FAILED: _FAILED,
    TaskState.CANCELLED: _CANCELED,
}
_LONGEST_NAME = 50
_MOST_JOBS = 100_000
_WORDS = {401: "Unauthorized", 404: "Not Found", 409: "Conflict", 422: "Unprocessable Content"}


class _Refused(Exception):
    """A request that the server refuses, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedSite:
    """A site behind HEAppE. cluster, resource, project: what it calls the QPU, and who pays."""

    profile: str
    cluster: str
    resource: str
    project: str
    assumed: tuple[str, ...]
    backend: str = "iqm"

    def call(self, method: str, path: str) -> str | None:
        """See `Dialect.call`."""
        match method, path.removeprefix(_API).strip("/").split("/"):
            case "POST", ["JobManagement", "CreateJob"]:
                return "create"
            case "POST", ["FileTransfer", "UploadFilesToJobExecutionDir"]:
                return "stage"
            case "PUT", ["JobManagement", "SubmitJob"]:
                return "submit"
            case "GET", ["JobManagement", "CurrentInfoForJob"]:
                return "status"
            case "POST", ["FileTransfer", "DownloadFileFromCluster"]:
                return "result"
            case "PUT", ["JobManagement", "CancelJob"]:
                return "cancel"
            case "GET", ["ClusterInformation", "ListAvailableClusters"]:
                return "target"
            case _:
                return "other"

    def error(self, status: int, reason: str) -> dict[str, Any]:
        """See `Dialect.error`: a problem document."""
        return {"title": _WORDS.get(status, "Error"), "status": status, "detail": reason}

    def options(self, url: str, token_file: Path, clock_scale: float) -> Mapping[str, Any]:
        """See `Dialect.options`."""
        return {
            "profile": self.profile,
            "url": url,
            "token": {"file": str(token_file)},
            "time_scale": clock_scale,
            "access": "staged",
            "cluster": self.cluster,
            "project": self.project,
            "resource": self.resource,
        }

    def router(self, device: RehearsedDevice) -> APIRouter:
        """See `Dialect.router`."""
        return _Server(self, device).router()


@dataclass(slots=True, eq=False)
class _Job:
    """A job of HEAppE with its folder. command: of its template; run: on the device."""

    id: int
    name: str
    command: str
    variables: Mapping[str, str]
    files: dict[str, bytes] = field(default_factory=dict)
    state: int = _CREATED
    run: RehearsedJob | None = None

    @property
    def task(self) -> int:
        return self.id + 1

    @property
    def stated(self) -> int:
        return self.state if self.run is None else _STATE[self.run.state]


@dataclass(slots=True)
class _Server:
    """The routes, each a method that returns JSON or raises `_Refused`."""

    site: StagedSite
    device: RehearsedDevice
    components: Components = field(init=False)
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1000, 2))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        profile = self.device.profile
        star = profile.resonator is not None
        self.components = Components(
            num_qubits=profile.num_qubits, resonator=RESONATOR if star else None
        )

    def router(self) -> APIRouter:
        router = APIRouter(prefix=_API)
        routes: list[tuple[str, str, Callable[[Request], Any]]] = [
            ("GET", "/ClusterInformation/ListAvailableClusters", self.clusters),
            ("POST", "/JobManagement/CreateJob", self.create),
            ("PUT", "/JobManagement/SubmitJob", self.submit),
            ("GET", "/JobManagement/CurrentInfoForJob", self.info),
            ("PUT", "/JobManagement/CancelJob", self.cancel),
            ("POST", "/FileTransfer/UploadFilesToJobExecutionDir", self.upload),
            ("POST", "/FileTransfer/DownloadFileFromCluster", self.download),
        ]
        for method, path, answer in routes:
            router.add_api_route(
                path, _endpoint(self.site, answer), methods=[method], summary=answer.__doc__
            )
        return router

    async def clusters(self, request: Request) -> Any:
        """List the queues of the cluster, and the commands that the project may run there."""
        wanted = request.query_params.get("ClusterName", self.site.cluster)
        if wanted != self.site.cluster:
            return []
        node_types = []
        for number, (command, queue) in enumerate(_COMMANDS.items(), 1):
            template = {"Id": number, "Name": command, "IsGeneric": False, "IsEnabled": True}
            project = {
                "Id": 1,
                "Name": self.site.project,
                "AccountingString": self.site.resource,
                "CommandTemplates": [template],
            }
            node_types.append(
                {
                    "Id": number,
                    "Name": queue,
                    "ClusterId": 1,
                    "FileTransferMethodId": 1,
                    "Projects": [project],
                }
            )
        return [{"Id": 1, "Name": self.site.cluster, "NodeTypes": node_types}]

    async def create(self, request: Request) -> Any:
        """Create a job, which waits for its files."""
        sent = (await request.json())["JobSpecification"]
        name = sent["Name"]
        (task,) = sent["Tasks"]
        if not isinstance(name, str) or len(name) > _LONGEST_NAME:
            raise _Refused(400, f"Name {name!r:.80}; expected at most {_LONGEST_NAME} characters")
        number = task["CommandTemplateId"]
        if number not in (1, 2) or task["ClusterNodeTypeId"] != number:
            raise _Refused(400, f"no command template {number!r} on that node type")
        stated = {one["Name"]: one["Value"] for one in sent.get("EnvironmentVariables") or ()}
        job = _Job(next(self._ids), name, list(_COMMANDS)[number - 1], stated)
        with self._lock:
            if len(self._jobs) >= _MOST_JOBS:
                del self._jobs[next(iter(self._jobs))]
            self._jobs[job.id] = job
        return self._described(job)

    async def upload(self, request: Request) -> Any:
        """Put files into the folder of a job that was not submitted."""
        job = self._job(request.query_params.get("JobId"))
        if job.stated != _CREATED:
            raise _Refused(409, f"job {job.id} was submitted")
        sent = _files_of(request.headers.get("content-type", ""), await request.body())
        stored = []
        for name, content in sent:
            job.files[name] = content
            path = f"/{job.id}/{job.task}/{name}"
            stored.append({"FileName": name, "Succeeded": True, "Path": path})
        return stored

    async def submit(self, request: Request) -> Any:
        """Start a job, once."""
        job = self._job((await request.json()).get("CreatedJobInfoId"))
        fate = request.state.fate
        await asyncio.to_thread(self._submitted, job, fate)
        return self._described(job)

    async def info(self, request: Request) -> Any:
        """Describe a job."""
        return self._described(self._job(request.query_params.get("SubmittedJobInfoId")))

    async def cancel(self, request: Request) -> Any:
        """Cancel a job that has not ended."""
        job = self._job((await request.json()).get("SubmittedJobInfoId"))
        if job.run is not None:
            await asyncio.to_thread(self.device.cancel, job.run)
        elif job.state == _CREATED:
            job.state = _CANCELED
        return self._described(job)

    async def download(self, request: Request) -> Any:
        """Return a file of a job, in base64."""
        body = await request.json()
        job = self._job(body.get("SubmittedJobInfoId"))
        folder, _, name = str(body.get("RelativeFilePath")).strip("/").rpartition("/")
        content = None
        if folder == f"{job.id}/{job.task}":
            content = await asyncio.to_thread(self._file, job, name)
        if content is None:
            raise _Refused(404, f"job {job.id} has no file {name!r}")
        return base64.b64encode(content).decode()

    def _submitted(self, job: _Job, fate: str) -> None:
        with self._lock:
            if job.stated != _CREATED:
                raise _Refused(409, f"job {job.id} was submitted before")
            command = job.variables.get("Q_COMMAND")
            if job.command == "RunQInit" and command == "get_dynamic_quantum_architecture":
                job.state = _FINISHED
                described = architecture_of(
                    self.device.profile, self.components, self.device.calibration
                )
                job.files["dynamic_quantum_architecture.json"] = json.dumps(described).encode()
            elif job.command == "RunQExecute" and command == "backend_run":
                try:
                    job.run = self._run(job, fate)
                except (PayloadRejected, ValueError, KeyError) as error:
                    job.state = _FAILED
                    job.files["stderr.txt"] = f"ERROR: {error}\n".encode()
            else:
                raise _Refused(400, f"command {command!r} with template {job.command}")

    def _run(self, job: _Job, fate: str) -> RehearsedJob:
        """Queue a job at the device. Raises ``ValueError`` for files that make no sense."""
        options = json.loads(job.files["run_kwargs.json"])
        calibration = self.device.known_calibration(options.get("calibration_set_id"))
        if calibration is None:
            raise ValueError(f"no calibration set {options.get('calibration_set_id')!r}")
        names = sorted(name for name in job.files if name.startswith("circuit_"))
        if not names:
            raise ValueError("no circuit was staged")
        wires = self.components.num_qubits + (self.components.resonator is not None)
        read = [_native(job.files[name].decode(), wires) for name in names]
        payload = SamplerPayload.coerce([circuit for circuit, _ in read], shots=options["shots"])
        return self.device.submit(
            payload,
            label=job.name,
            calibration=calibration,
            details={"keys": [keys for _, keys in read]},
            fate=fate,
        )

    def _file(self, job: _Job, name: str) -> bytes | None:
        run = job.run
        if run is not None and run.state is TaskState.COMPLETED:
            if name == "measurements.json":
                return json.dumps(measurements_of(run)).encode()
            if name == "job.json":
                usage = 0.0 if run.result is None else run.result.usage.qpu_seconds
                stated = {"hardware_s": usage, "calibration_set_id": run.calibration.id}
                return json.dumps(stated).encode()
        if run is not None and run.state is TaskState.FAILED and name == "stderr.txt":
            return f"ERROR: {run.error}\n".encode()
        return job.files.get(name)

    def _job(self, number: Any) -> _Job:
        found = self._jobs.get(int(number)) if str(number).isdigit() else None
        if found is None:
            raise _Refused(404, f"no job {number!r:.40}")
        return found

    def _described(self, job: _Job) -> dict[str, Any]:
        state = job.stated
        times = (None, None) if job.run is None else (job.run.started_at, job.run.ended_at)
        started, ended = (
            None if at is None else datetime.fromtimestamp(at, UTC).isoformat() for at in times
        )
        task = {
            "Id": job.task,
            "Name": "quantum_task",
            "State": state,
            "StartTime": started,
            "EndTime": ended,
            "ErrorMessage": None if job.run is None else job.run.error or None,
        }
        return {
            "Id": job.id,
            "Name": job.name,
            "State": state,
            "StartTime": started,
            "EndTime": ended,
            "Tasks": [task],
        }


def _native(text: str, wires: int) -> tuple[QuantumCircuit, list[tuple[str, range]]]:
    """Read a file of OpenQASM 3 on physical qubits as gates of the device, and its registers."""
    try:
        read = qasm3.loads(text)
    except Exception as error:  # noqa: BLE001  # the reader's have no class in common
        raise ValueError(f"not readable as OpenQASM 3: {error}") from None
    if read.num_qubits > wires or read.layout is None:
        raise ValueError(f"expected physical qubits $0 to ${wires - 1}")
    circuit = QuantumCircuit(wires)
    registers = [ClassicalRegister(one.size, f"m{n}") for n, one in enumerate(read.cregs)]
    circuit.add_register(*registers)
    for step in read.data:
        _add(circuit, step, [read.find_bit(bit).index for bit in (*step.qubits, *step.clbits)])
    keys: list[tuple[str, range]] = []
    first = 0
    for register in read.cregs:
        keys.append((register.name, range(first, first + register.size)))
        first += register.size
    return circuit, keys


def _add(circuit: QuantumCircuit, step: CircuitInstruction, bits: list[int]) -> None:
    """Add a step on bits of these numbers. Raises ``ValueError`` for one that the device lacks."""
    match step.name:
        case "r":
            theta, phi = map(float, step.operation.params)
            if not (math.isfinite(theta) and math.isfinite(phi)):
                raise ValueError("an angle is no number")
            circuit.r(theta, phi, *bits)
        case "cz":
            circuit.cz(*bits)
        case "move":
            circuit.append(MoveGate(), bits)
        case "barrier":
            circuit.barrier(bits)
        case "delay":
            circuit.delay(step.operation.duration, bits, unit=step.operation.unit)
        case "measure":
            circuit.measure(*bits)
        case name:
            raise ValueError(f"{name!r} is no gate of this device")


def _files_of(content_type: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a form. Raises ``ValueError`` for what is none."""
    form = BytesParser(policy=HTTP).parsebytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body
    )
    if not form.is_multipart():
        raise ValueError("a form with files")
    for part in form.iter_parts():
        name, content = part.get_filename(), part.get_payload(decode=True)
        if not name or "/" in name or not isinstance(content, bytes):
            raise ValueError("files with a name")
        yield name, content


def _endpoint(site: StagedSite, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> JSONResponse:
        try:
            return JSONResponse(await answer(request))
        except _Refused as refused:
            return JSONResponse(site.error(refused.status, str(refused)), refused.status)
        except (ValueError, KeyError, TypeError) as error:  # a body of another form
            return JSONResponse(site.error(400, f"the request lacks {error}"), 400)

    return endpoint


vlq_staged = StagedSite(
    profile="vlq",
    cluster="VLQ",
    resource="VLQ-CZ",
    project="rehearsal",
    assumed=(
        (
            "the site's own service exchanges Python objects, pickled, for the backend's description, "
            "the options of a run and its results; here they are JSON files, because hpcqc loads no "
            "pickles and cannot make those of the vendor's classes. So hpcqc does not reach the site "
            "itself this way"
        ),
        "what HEAppE answers to a second submission of a job, 409 here, and how errors are written",
        (
            "LEXIS' portal, which tells a project's resources, and the encrypted copy of the user's "
            "token that is staged with each job, are left out"
        ),
        "that a job with an unknown calibration set fails, and what it says then",
    ),
)
