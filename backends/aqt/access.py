"""The two ways to a QPU of AQT: direct access, and the vendor's cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from backends.api import (
    Calibration,
    PayloadRejected,
    QpuUnavailable,
    TaskState,
    UnknownTask,
)
from backends.connection import Answer, SiteConnection, path_part

__all__ = ["Access", "CloudAccess", "DeviceFacts", "DirectAccess", "Look"]

# Direct access answers when the task has ended, in 24 hours at most; gateways give up earlier.
_HELD_S = 600.0
_API = "/api/v1"
# More than any device has: what is kept of a target grows with the number.
_MOST_IONS = 10_000
_LONGEST_TEXT = 300
_STATES = {
    "queued": TaskState.QUEUED,
    "ongoing": TaskState.RUNNING,
    "finished": TaskState.COMPLETED,
    "error": TaskState.FAILED,
    "cancelled": TaskState.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a server says of its QPU. calibration: when it was characterised, if that is stated."""

    name: str
    num_qubits: int
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A task as the server describes it. samples: of each circuit; message: why it failed.

    ended_at_s: in seconds since the epoch, where the server states that.
    """

    state: TaskState
    samples: Sequence[Any] = field(default=(), repr=False)
    message: str = ""
    ended_at_s: float | None = None


class Access(Protocol):
    """What the backend asks of a server. Raises errors of the backend tree."""

    answers_once: bool  # whether a server may give a result only once
    holds_answers: bool  # whether `look` takes until the task has ended

    def device(self) -> DeviceFacts:
        """Describe the QPU. Raises `QpuUnavailable` where it takes no tasks now."""
        ...

    def submit(self, circuits: Sequence[Mapping[str, Any]], label: str) -> Any:
        """Start a job and return its id as the server states it."""
        ...

    def look(self, job: str, larger_bytes: int) -> Look:
        """Return the state of a job, whose samples have a size. Raises `UnknownTask`."""
        ...


class DirectAccess:
    """A machine's own server: a circuit is put, and a request for its result is held back."""

    # Nobody states whether a result can be had again.
    answers_once = True
    holds_answers = True

    def __init__(self, connection: SiteConnection) -> None:
        self._connection = connection
        self._name = ""

    def device(self) -> DeviceFacts:
        """See `Access.device`."""
        if not self._name:
            self._name = _line(_read(self._connection, "/system/name")) or "aqt"
        ions = _read(self._connection, "/status/ions")
        number = ions.get("num_ions") if isinstance(ions, dict) else None
        return DeviceFacts(name=self._name, num_qubits=_number_of_ions(number, "the server"))

    def submit(self, circuits: Sequence[Mapping[str, Any]], label: str) -> Any:
        """See `Access.submit`; the server takes no label."""
        del label
        (circuit,) = circuits
        answer = _accepted(self._connection.submit("/circuit", circuit, method="PUT"))
        return answer.json()

    def look(self, job: str, larger_bytes: int) -> Look:
        """See `Access.look`; returns when the job has ended, or a gateway gave up waiting."""
        path = f"/circuit/result/{job}"
        answer = self._connection.read(
            "GET", path, longer_s=_HELD_S, held=True, larger_bytes=larger_bytes
        )
        if answer.status == 504:
            return Look(state=TaskState.RUNNING)
        payload = _described(answer, job).get("payload")
        payload = payload if isinstance(payload, dict) else {}
        match payload.get("status"):
            case "finished":
                return Look(state=TaskState.COMPLETED, samples=[payload.get("result")])
            case "error":
                return Look(state=TaskState.FAILED, message=_line(payload.get("message")))
            case status:
                raise _unreadable(answer, job, status)


class CloudAccess:
    """AQT's cloud: jobs of several circuits go to a resource of a workspace."""

    answers_once = False
    holds_answers = False

    def __init__(self, connection: SiteConnection, workspace: str, resource: str) -> None:
        self._connection = connection
        self._workspace, self._resource = path_part(workspace), path_part(resource)

    def device(self) -> DeviceFacts:
        """See `Access.device`."""
        stated = _read(self._connection, f"{_API}/resources/{self._resource}")
        stated = stated if isinstance(stated, dict) else {}
        number = _number_of_ions(stated.get("available_qubits"), f"resource {self._resource!r}")
        status = stated.get("status")
        if status != "online":
            raise QpuUnavailable(f"resource {self._resource!r} is {status!r:.40}, not 'online'")
        known = stated.get("characterisation")
        at = _time(known.get("updated_at")) if isinstance(known, dict) else None
        return DeviceFacts(
            name=_line(stated.get("name")) or self._resource,
            num_qubits=number,
            calibration=None if at is None else Calibration(id=at.isoformat(), taken_at=at),
        )

    def submit(self, circuits: Sequence[Mapping[str, Any]], label: str) -> Any:
        """See `Access.submit`."""
        body = {
            "job_type": "quantum_circuit",
            "label": label,
            "payload": {"circuits": list(circuits)},
        }
        path = f"{_API}/submit/{self._workspace}/{self._resource}"
        job = _accepted(self._connection.submit(path, body)).error.get("job")
        return job.get("job_id") if isinstance(job, dict) else job

    def look(self, job: str, larger_bytes: int) -> Look:
        """See `Access.look`."""
        path = f"{_API}/result/{job}"
        answer = self._connection.read("GET", path, larger_bytes=larger_bytes)
        response = _described(answer, job).get("response")
        response = response if isinstance(response, dict) else {}
        state = _STATES.get(str(response.get("status")))
        if state is None:
            raise _unreadable(answer, job, response.get("status"))
        samples: list[Any] = []
        if state is TaskState.COMPLETED:
            result = response.get("result")
            numbered = result if isinstance(result, dict) else {}
            samples = [numbered.get(str(number)) for number in range(len(numbered))]
        return Look(
            state=state,
            samples=samples,
            message=_line(response.get("message")) if state is TaskState.FAILED else "",
            ended_at_s=_ended_at_s(response.get("timing_data")),
        )


def _read(connection: SiteConnection, path: str) -> Any:
    answer = connection.read("GET", path)
    try:
        if answer.is_success:
            return answer.json()
    except ValueError:
        pass
    raise QpuUnavailable(f"{path} cannot be read: {answer.reason}")


def _number_of_ions(stated: Any, name: str) -> int:
    if isinstance(stated, bool) or not isinstance(stated, int) or not 1 <= stated <= _MOST_IONS:
        raise QpuUnavailable(
            f"{name} states {stated!r:.40} ions; expected a number from 1 to {_MOST_IONS}"
        )
    return stated


def _line(stated: Any) -> str:
    """Return a server's text as one line of bounded length; nothing for what is no text."""
    text = stated if isinstance(stated, str) else ""
    return " ".join(text[: 10 * _LONGEST_TEXT].split())[:_LONGEST_TEXT]


def _accepted(answer: Answer) -> Answer:
    if answer.is_success:
        return answer
    raise PayloadRejected(f"the server refused the job: {answer.reason}")


def _described(answer: Answer, job: str) -> Mapping[str, Any]:
    if answer.status == 404:
        raise UnknownTask(f"the server does not know job {job}: {answer.reason}")
    return answer.error if answer.is_success else {}


def _unreadable(answer: Answer, job: str, status: Any) -> QpuUnavailable:
    return QpuUnavailable(
        f"the state of job {job} cannot be read: {answer.reason}, status {status!r:.40}; expected "
        f"one of {', '.join(_STATES)}"
    )


def _ended_at_s(timing: Any) -> float | None:
    """Return the latest time of a job's changes of state."""
    changes = timing if isinstance(timing, list) else []
    times = [_time(one.get("timestamp")) for one in changes if isinstance(one, dict)]
    known = [at.timestamp() for at in times if at is not None]
    return max(known, default=None)


def _time(stated: Any) -> datetime | None:
    """Return a time that a server states, in UTC unless it has an offset; None for what is none."""
    try:
        found = datetime.fromisoformat(str(stated))
        # Times near the bounds of the calendar cannot be converted.
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
