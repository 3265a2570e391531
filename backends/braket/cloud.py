"""A device of Amazon Braket's service: each task is one quantum task there, results lie in S3.

A start carries a client token that follows from its tag, so the service itself starts it once.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)

from backends.braket.factory import CloudOptions
from backends.braket.openqasm import GATES, openqasm
from backends.devices.api import BoundStep, FlatJob, FlatResult, bound_steps
from backends.devices.outcomes import spread, written_bits
from backends.errors import (
    AccessDenied,
    BackendError,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    UnknownTask,
)
from backends.recent import Recent
from backends.started_jobs import StartedJob, StartedJobs
from backends.tags import is_tag

__all__ = ["ARN", "BraketCloud"]

# Names of tasks at the service.
ARN = re.compile(r"arn:[0-9A-Za-z:/_-]{1,300}")

_TAG = "hpcqc-tag"
_LONGEST_MS = 30 * 86_400_000
_STATES = {
    "CREATED": "queued",
    "QUEUED": "queued",
    "RUNNING": "running",
    "CANCELLING": "running",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}
_DENIED = frozenset({
    "AccessDeniedException", "ExpiredTokenException", "IncompleteSignatureException",
    "InvalidSignatureException", "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
})  # fmt: skip
_BUSY = frozenset({
    "DeviceOfflineException", "ServiceQuotaExceededException", "ThrottlingException",
    "TooManyRequestsException",
})  # fmt: skip
_REJECTED = frozenset(
    {"DeviceRetiredException", "ResourceNotFoundException", "ValidationException"}
)
_UNSENT = (
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)
_TARGET_FRESH_S = 60.0
_PROGRAM = {"name": "braket.ir.openqasm.program", "version": "1"}
_RESULT_BYTES = 1 << 24
_RESULT_SHOT_BYTES = 64
_WHOLE_RESULT_S = 600.0
_PIECE_BYTES = 1 << 20


class BraketCloud:
    """See ``backends.devices.api.FlatDevice``. Nothing connects before the first call.

    records: of starts, with what is needed to read their results in any process.
    """

    def __init__(self, options: CloudOptions, records: StartedJobs) -> None:
        """Make the clients, with few repetitions: starts are idempotent, all else is asked again."""
        self._options, self._records = options, records
        session = boto3.session.Session(region_name=options.region, profile_name=options.profile)
        config = Config(
            connect_timeout=5,
            read_timeout=15,
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": "path"} if options.s3_endpoint_url else None,
        )
        self._braket: Any = session.client(
            "braket", endpoint_url=options.endpoint_url, config=config
        )
        self._s3: Any = session.client("s3", endpoint_url=options.s3_endpoint_url, config=config)
        self._known = Recent(self._asked_target, _TARGET_FRESH_S)

    def target(self) -> Mapping[str, Any]:
        """Return what the service states of the device, asked for once a minute."""
        return self._known.get()

    def _asked_target(self, _known: Mapping[str, Any] | None) -> Mapping[str, Any]:
        try:
            answer = self._braket.get_device(deviceArn=self._options.arn)
            stated = json.loads(answer["deviceCapabilities"])
            return self._described(str(answer["deviceName"]), stated)
        except (BotoCoreError, ClientError) as error:
            _raise(error, "the device cannot be described")
        except (KeyError, TypeError, ValueError) as error:
            raise QpuUnavailable(f"the device's capabilities cannot be read: {error!r}") from error

    def start(self, job: FlatJob, tag: str) -> str:
        """See ``FlatDevice.start``; the same tag gives the same task, in any process."""
        with self._records.starting(tag):
            known = self._records.read(tag)
            if known is not None and known.job is not None:
                return known.job
            (pub,) = job.pubs
            steps = list(bound_steps(pub, 0))
            written = written_bits(steps)
            program = openqasm(steps, {bit: place for place, bit in enumerate(written)})
            recipe = {
                "written": list(written),
                "wires": _wires(steps, written),
                "width": pub.num_clbits,
                "layouts": list(job.layouts),
            }
            record = StartedJob(
                tag=tag,
                job=None,
                shots=pub.shots,
                circuits=1,
                num_qubits=pub.num_qubits,
                modelled_s=0.0,  # nothing states how long a device takes
                recipes=(recipe,),
                started_at_s=time.time(),
                calibration_id=self._calibration_id(),
            )
            sent = self._records.send(record, lambda: self._created(program, pub.shots, tag))
            return str(sent.job)

    def find(self, tag: str) -> str | None:
        """See ``FlatDevice.find``."""
        record = self._records.read(tag)
        if record is not None and record.job is not None:
            return record.job
        filters = [
            {"name": "deviceArn", "operator": "EQUAL", "values": [self._options.arn]},
            {"name": f"tags:{_TAG}", "operator": "EQUAL", "values": [tag]},
        ]
        try:
            listed = self._braket.search_quantum_tasks(filters=filters)["quantumTasks"]
            task = str(listed[0]["quantumTaskArn"]) if listed else None
        except (BotoCoreError, ClientError) as error:
            _raise(error, "tasks cannot be searched")
        except (KeyError, TypeError) as error:
            raise QpuUnavailable(f"the list of tasks cannot be read: {error!r}") from error
        if task is not None and record is not None:
            self._records.write(record.accepted(task))
        return task

    def status(self, task: str) -> str:
        """See ``FlatDevice.status``."""
        return _STATES[str(self._look(task)["status"])]

    def result(self, task: str) -> FlatResult:
        """See ``FlatDevice.result``."""
        stated = self._look(task)
        state = _STATES[str(stated["status"])]
        if state in ("queued", "running"):
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state == "cancelled":
            raise TaskCancelled(f"{task} was cancelled")
        if state == "failed":
            reason = stated.get("failureReason") or "the service states no reason"
            raise TaskFailed(f"{task} failed: {reason}")
        record = self._record(task, stated)
        key = f"{stated['outputS3Directory']}/results.json"
        try:
            stream = self._s3.get_object(Bucket=stated["outputS3Bucket"], Key=key)["Body"]
            with closing(stream):
                body = _bounded(stream, _most_bytes(record))
        except (BotoCoreError, ClientError) as error:
            _raise(error, f"the result of {task} cannot be read")
        try:
            read = json.loads(body)
        except ValueError as error:
            raise TaskFailed(f"the result of {task} is no JSON: {error}") from error
        (recipe,) = record.recipes
        seconds = _qpu_seconds(read)
        return FlatResult(
            counts=((_counts(read, recipe, record.shots),),),
            qpu_seconds=seconds or 0.0,
            metadata={
                "device": self._options.arn,
                "calibration_id": record.calibration_id,
                "vendor_job": task,
                "qpu_seconds": "unknown" if seconds is None else "stated by the service",
            },
            layouts=tuple(recipe["layouts"]),
        )

    def stop(self, task: str) -> None:
        """See ``FlatDevice.stop``."""
        if _STATES[str(self._look(task)["status"])] not in ("queued", "running"):
            return
        try:
            self._braket.cancel_quantum_task(
                quantumTaskArn=task, clientToken=_client_token(f"cancel {task}")
            )
        except ClientError as error:
            if _code(error) != "ConflictException":  # it ended meanwhile
                _raise(error, f"{task} cannot be cancelled")
        except BotoCoreError as error:
            _raise(error, f"{task} cannot be cancelled")

    def close(self) -> None:
        """Close the connections; tasks go on at the service."""
        self._braket.close()
        self._s3.close()

    def _created(self, program: str, shots: int, tag: str) -> str:
        action = {"braketSchemaHeader": _PROGRAM, "source": program, "inputs": {}}
        try:
            answer = self._braket.create_quantum_task(
                clientToken=_client_token(tag),
                deviceArn=self._options.arn,
                action=json.dumps(action),
                shots=shots,
                outputS3Bucket=self._options.bucket,
                outputS3KeyPrefix=self._options.prefix,
                tags={_TAG: tag},
            )
            return str(answer["quantumTaskArn"])
        except (BotoCoreError, ClientError, KeyError, TypeError) as error:
            _raise_for_start(error)

    def _record(self, task: str, stated: Mapping[str, Any]) -> StartedJob:
        """Return the record of a task that the service describes."""
        tag = (stated.get("tags") or {}).get(_TAG)
        record = self._records.read(tag) if is_tag(tag) else None
        if record is None or record.job not in (None, task):
            raise QpuUnavailable(
                f"{task} was started with another state folder, which alone can read its result"
            )
        return record

    def _calibration_id(self) -> str | None:
        """Return the calibration as last known; a start asks for nothing else."""
        known = self._known.last
        return None if known is None else str(known["calibration"]["id"])

    def _look(self, task: str) -> Mapping[str, Any]:
        if not task.startswith("arn:"):
            raise UnknownTask(f"no task {task!r:.200} was ever started here")
        try:
            stated: Mapping[str, Any] = self._braket.get_quantum_task(quantumTaskArn=task)
        except ClientError as error:
            if _code(error) in ("ResourceNotFoundException", "ValidationException"):
                raise UnknownTask(f"the service does not know {task}: {error}") from error
            _raise(error, f"{task} cannot be asked for")
        except BotoCoreError as error:
            _raise(error, f"{task} cannot be asked for")
        if stated.get("status") not in _STATES:
            raise QpuUnavailable(
                f"the state of {task} is {stated.get('status')!r}; expected one of "
                f"{', '.join(_STATES)}"
            )
        return stated

    def _described(self, name: str, stated: Mapping[str, Any]) -> dict[str, Any]:
        action = stated["action"]["braket.ir.openqasm.program"]
        offered = {str(gate).lower() for gate in action["supportedOperations"]}
        updated = str(stated["service"].get("updatedAt") or datetime.now(UTC).isoformat())
        moment = datetime.fromisoformat(updated)
        taken_at = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return {
            "name": name,
            "num_qubits": int(stated["paradigm"]["qubitCount"]),
            # The service compiles for the device.
            "native_gates": [ours for ours, theirs in GATES.items() if theirs.lower() in offered],
            "mid_circuit_measurement": False,
            "coupling_class": "batch",
            "max_shots": int(stated["service"]["shotsRange"][1]),
            "max_circuits": 1,
            "max_concurrent_tasks": self._options.concurrent_tasks,
            "durable": True,
            "calibration": {
                "id": f"{name}-{taken_at:%Y%m%dT%H%M%S}",
                "taken_at": taken_at.isoformat(),
            },
        }


def _wires(steps: Sequence[BoundStep], written: Sequence[int]) -> list[int]:
    """Return the wire of the program that each measured bit is read from, as `openqasm` has it."""
    used = sorted(
        {q for name, qubits, _, _ in steps if name not in ("barrier", "delay") for q in qubits}
    )
    measured = {clbits[0]: qubits[0] for name, qubits, clbits, _ in steps if name == "measure"}
    return [used.index(measured[bit]) for bit in written]


def _most_bytes(record: StartedJob) -> int:
    """Return how large a result may be: each shot lists a digit and two signs for each qubit."""
    return _RESULT_BYTES + record.shots * (4 * record.num_qubits + _RESULT_SHOT_BYTES)


def _bounded(stream: Any, most_bytes: int) -> bytes:
    """Read a body, which a faulty store may never end. Raises `TaskFailed`, `QpuUnavailable`."""
    content, deadline = bytearray(), time.monotonic() + _WHOLE_RESULT_S
    while piece := stream.read(_PIECE_BYTES):
        content += piece
        if len(content) > most_bytes:
            raise TaskFailed(f"the result has more than {most_bytes} bytes, so it is none")
        if time.monotonic() > deadline:
            raise QpuUnavailable(f"the result has not arrived within {_WHOLE_RESULT_S:g} s")
    return bytes(content)


def _counts(stated: Any, recipe: Mapping[str, Any], shots: int) -> dict[str, int]:
    """Return counts over all classical bits. Raises `TaskFailed` for results that are none."""
    try:
        column = {wire: place for place, wire in enumerate(stated["measuredQubits"])}
        places = [column[wire] for wire in recipe["wires"]]
        outcomes = Counter(
            "".join(str(int(shot[place])) for place in reversed(places))
            for shot in stated["measurements"]
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TaskFailed(f"the result holds no measurements of the circuit: {error!r}") from error
    if outcomes.total() != shots:
        raise TaskFailed(f"the result has {outcomes.total()} shots; {shots} were asked for")
    return spread(outcomes, recipe["written"], recipe["width"])


def _qpu_seconds(stated: Any) -> float | None:
    """Return how long a simulator of the service ran; None for QPUs, whose results do not say."""
    try:
        milliseconds = stated["additionalMetadata"]["simulatorMetadata"]["executionDuration"]
    except (KeyError, TypeError):
        return None
    known = type(milliseconds) in (int, float) and 0 <= milliseconds < _LONGEST_MS
    return milliseconds / 1000 if known else None


def _client_token(tag: str) -> str:
    """Return a token that is the same for a tag in every process, of 64 characters."""
    return hashlib.sha256(tag.encode()).hexdigest()


def _code(error: BaseException) -> str:
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""


def _refusal(error: BaseException) -> type[BackendError] | None:
    code = _code(error)
    if code in _DENIED or isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return AccessDenied
    if code in _BUSY:
        return QpuBusy
    return PayloadRejected if code in _REJECTED else None


def _raise(error: BaseException, what: str) -> NoReturn:
    kind = AccessDenied if _refusal(error) is AccessDenied else QpuUnavailable
    raise kind(f"{what}: {error}") from error


def _raise_for_start(error: BaseException) -> NoReturn:
    kind = _refusal(error)
    if kind is not None:
        raise kind(f"Braket refused the task: {error}") from error
    if isinstance(error, _UNSENT):
        raise QpuBusy(f"Braket cannot be reached, so nothing was started: {error}") from error
    raise QpuUnavailable(
        f"the answer of Braket to a start is unknown: {type(error).__name__}: {error}"
    ) from error
