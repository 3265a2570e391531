"""A QPU behind an IQM Server: each qpu_task is one job there."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.api import (
    Calibration,
    CalibrationChanged,
    Heard,
    PayloadRejected,
    QpuBusy,
    QpuTaskId,
    QpuUnavailable,
    Result,
    SessionId,
    Target,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    TaskState,
    UnknownTask,
    Usage,
)
from backends.connection import Answer, SiteConnection, path_part
from backends.iqm.architecture import Architecture, read_architecture
from backends.iqm.description import described_by_server
from backends.iqm.factory import IqmOptions, as_spoken
from backends.iqm.jobs import PubRecipe, circuits_of, largest_bytes, recipes_of, result_of
from backends.latest import LatestTasks
from backends.metering import Metering
from backends.payloads import Payload, SamplerPayload
from backends.recent import Recent
from backends.sessions import Sessions
from backends.spread_looks import SpreadLooks, pause_s
from backends.started_jobs import StartedJob, StartedJobs
from backends.tags import short_tag
from backends.validate import check, check_tag

__all__ = ["IqmBackend", "record_of"]

_API = "/api/v1"
_PREFIX = "iqm"
_STATES = {
    "waiting": TaskState.QUEUED,
    "processing": TaskState.RUNNING,
    "completed": TaskState.COMPLETED,
    "failed": TaskState.FAILED,
    "cancelled": TaskState.CANCELLED,
}
# Many callers ask for the target, one after the other; the device is not calibrated that often.
_TARGET_FRESH_S = 1.0
_LONGEST_WAIT_S = 30.0
_POLL_S = 0.5
# Requests that wait for the end of a job, each on a connection of its own.
_MOST_HELD = 8
_LONGEST_TAG = 50
# The server's answers about ended jobs stay in memory for a while; older ones are asked for again.
_ENDED_IN_MEMORY = 256
_LONGEST_RUNTIME_MS = 1e10


class IqmBackend:
    """A QPU behind an IQM Server. Nothing connects before the first call that asks the server.

    The server cannot be searched by tag: `find` knows the tasks whose ids arrived here, and a
    start without an answer is never repeated under its tag.
    """

    def __init__(self, options: IqmOptions, described: Target | None, *, state_dir: Path) -> None:
        self._options, self._described = options, described
        self._metering = Metering() if described is None else described.metering
        self._connection = SiteConnection(options.url, options.token)
        self._records = StartedJobs(state_dir / "tasks")
        self._lock = threading.RLock()
        self._sessions = Sessions()
        self._held = threading.BoundedSemaphore(_MOST_HELD)
        self._looks = SpreadLooks()
        self._open: dict[QpuTaskId, TaskState] = {}
        self._ended: LatestTasks[Mapping[str, Any]] = LatestTasks(_ENDED_IN_MEMORY)
        self._computer: str | None = None
        self._known = Recent(self._described_now, _TARGET_FRESH_S)

    def target(self) -> Target:
        """Describe the QPU with the server's calibration; asks at most once a second.

        While the server does not answer, this is the QPU as it was last known: a start states for
        which calibration it was prepared, and the server refuses one that it has forgotten.
        """
        return self._known.get_or_last()[1]

    @property
    def heard(self) -> Heard:
        """When the server last answered."""
        return self._connection.heard

    def acquire(self) -> SessionId:
        """Open a session, of which the server has no notion."""
        return self._sessions.open()

    def release(self, session: SessionId) -> None:
        """Close a session; its tasks go on."""
        self._sessions.close(session)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Submit a job; see ``Backend.start``.

        Also raises ``CalibrationChanged`` where the server has forgotten the calibration for which
        circuits are compiled now, and ``AccessDenied``.
        """
        self._sessions.check(session)
        check_tag(tag)
        with self._records.starting(tag):
            return self._started(payload, tag)

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag if its id arrived here; the server cannot be asked."""
        check_tag(tag)
        record = self._records.read(tag)
        return None if record is None or record.job is None else _task_id(record.job, tag)

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state."""
        return self._look(task, 0.0)[0]

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or the time is up; the server answers at its end.

        Of many tasks the server holds the requests of some, and the others are looked at one by
        one, since IQM's protocol has no list of jobs. Then this is the state as last known.
        """
        deadline = time.monotonic() + timeout_s
        since_s = self._record(task).started_at_s
        while True:
            is_asked = timeout_s > 0 and self._ended.get(task) is None
            if is_asked and not self._looks.await_turn(task, deadline):
                return self._open.get(task, TaskState.QUEUED)
            asked_at = time.monotonic()
            is_held = self._held.acquire(blocking=False)
            try:
                wait_s = min(max(deadline - asked_at, 0.0), _LONGEST_WAIT_S) if is_held else 0.0
                state, _ = self._look(task, wait_s)
            finally:
                if is_held:
                    self._held.release()
            if state.is_final:
                return state
            # A server that does not hold the request back is asked seldom.
            rest_s = max(0.0, _POLL_S - (time.monotonic() - asked_at))
            self._looks.put_off(task, rest_s if is_held else pause_s(time.time() - since_s))
            if time.monotonic() >= deadline:
                return state

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``."""
        record = self._record(task)
        state, job = self._look(task, 0.0)
        if not state.is_final:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        if state is TaskState.FAILED:
            raise TaskFailed(f"{task} failed: {_errors(job)}")
        recipes = [PubRecipe.from_json(one) for one in record.recipes]
        path = f"/jobs/{record.job}/artifacts/measurements"
        answer = self._read("GET", path, larger_bytes=largest_bytes(recipes))
        if not answer.is_success:
            raise QpuUnavailable(f"the result of {task} cannot be read: {answer.reason}")
        native = result_of(recipes, _json(answer))
        return Result(native=native, usage=self._usage(record, job), metadata=_metadata(job))

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task; one that is running is interrupted."""
        record = self._record(task)
        if self._look(task, 0.0)[0].is_final:
            return
        answer = self._read("POST", f"/jobs/{record.job}/cancel")
        if answer.status == 404:
            raise UnknownTask(f"the server does not know {task}: {answer.reason}")
        if answer.status != 409 and not answer.is_success:  # 409: it ended meanwhile
            raise QpuUnavailable(f"{task} cannot be cancelled: {answer.reason}")

    def close(self) -> None:
        """Close the connections; jobs go on at the server."""
        self._connection.close()

    def _started(self, payload: Payload, tag: str) -> QpuTaskId:
        known = self._records.arrived(tag)
        if known is not None:
            return _task_id(str(known.job), tag)
        try:
            architecture, target = self._known.get_or_last()
            check(payload, target)
            self._records.check_room(target, list(self._open), self.status)
            computer = self._quantum_computer()
        except QpuUnavailable as error:
            raise QpuBusy(
                f"nothing was started: {error}", retry_after_s=error.retry_after_s
            ) from error
        assert isinstance(payload, SamplerPayload)  # as is all that its target takes
        body = {
            "circuits": circuits_of(payload, architecture.components),
            "shots": payload.pubs[0].shots,
            # Pinned: what was compiled for one calibration does not run with another.
            "calibration_set_id": architecture.calibration_set_id,
            "qubit_mapping": None,
            "max_circuit_duration_over_t2": None,
            "heralding_mode": "none",
            "move_gate_validation": "strict",
            "move_gate_frame_tracking": "full",
            "active_reset_cycles": None,
            "dd_mode": "disabled",
            "dd_strategy": None,
        }

        def submit() -> Any:
            use_timeslot = str(self._options.use_timeslot).lower()
            path = f"{_API}/jobs/{path_part(computer)}/circuit"
            params = {"tag": short_tag(tag, _LONGEST_TAG), "use_timeslot": use_timeslot}
            return self._accepted(self._connection.submit(path, body, params=params))

        record = self._records.send(record_of(payload, tag, target), submit)
        task = _task_id(str(record.job), tag)
        with self._lock:
            self._open[task] = TaskState.QUEUED
        return task

    def _accepted(self, answer: Answer) -> Any:
        """Return what the server calls the job, or raise what its refusal means."""
        if answer.is_success:
            return answer.error.get("id")
        if answer.status == 404 and "calibration" in answer.reason:
            self._known.forget()
            raise CalibrationChanged(
                f"the server has forgotten the calibration of this job: {answer.reason}; it is "
                "prepared anew"
            )
        raise PayloadRejected(f"the server refused the job: {answer.reason}")

    def _described_now(
        self, known: tuple[Architecture, Target] | None
    ) -> tuple[Architecture, Target]:
        architecture = self._architecture()
        if known is not None and known[0] == architecture:
            return known
        return architecture, self._target_of(architecture)

    def _architecture(self) -> Architecture:
        path = f"/calibration-sets/{path_part(self._quantum_computer())}/default/dynamic-quantum-architecture"
        answer = self._read("GET", path)
        if not answer.is_success:
            raise QpuUnavailable(f"the architecture cannot be read: {answer.reason}")
        stated = _json(answer)
        try:
            described = self._described or self._own_description(stated)
            return read_architecture(stated, described)
        except ValueError as error:
            raise QpuUnavailable(f"the architecture cannot be used: {error}") from error

    def _target_of(self, architecture: Architecture) -> Target:
        assert self._described is not None  # since the architecture was read
        stated = self._taken_at(self._quantum_computer(), architecture.calibration_set_id)
        calibration = Calibration(
            id=architecture.calibration_set_id,
            taken_at=stated or self._described.calibration.taken_at,
        )
        return replace(architecture.target(self._described), calibration=calibration)

    def _own_description(self, architecture: Any) -> Target:
        """Return what the server says of itself, and keep it."""
        computer = self._quantum_computer()
        answer = self._read("GET", f"/quantum-computers/{path_part(computer)}/limits")
        # Older servers have no such page.
        limits = answer.error if answer.is_success else {}
        target = as_spoken(described_by_server(computer, architecture, limits), self._options)
        self._described = target
        return target

    def _taken_at(self, computer: str, calibration: str) -> datetime | None:
        """Return when a calibration set was made, None where that is not stated."""
        answer = self._read(
            "GET", f"/calibration-sets/{path_part(computer)}/{path_part(calibration)}"
        )
        stated = answer.error.get("created_timestamp") if answer.is_success else None
        try:
            found = datetime.fromisoformat(str(stated))
        except ValueError:
            return None
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)

    def _quantum_computer(self) -> str:
        if self._options.quantum_computer is not None:
            return self._options.quantum_computer
        if self._computer is None:
            answer = self._read("GET", "/quantum-computers")
            listed = answer.error.get("quantum_computers") if answer.is_success else None
            found = (
                [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
            )
            names = [str(one.get("alias") or one.get("id")) for one in found]
            if len(names) != 1:
                raise QpuUnavailable(
                    f"{self._connection.url} has the quantum computers {', '.join(names) or 'none'}"
                    "; choose one with quantum_computer = 'NAME'"
                )
            self._computer = names[0]
        return self._computer

    def _look(self, task: QpuTaskId, wait_s: float) -> tuple[TaskState, Mapping[str, Any]]:
        """Ask for a task's state, until ``wait_s`` or its end; also return the server's answer."""
        record = self._record(task)
        ended = self._ended.get(task)
        if ended is not None:
            return _STATES[ended["status"]], ended
        params = {}
        if wait_s > 0:
            params = {"wait_until_terminal": "true", "timeout_seconds": f"{wait_s:.3f}"}
        answer = self._read("GET", f"/jobs/{record.job}", params=params, longer_s=wait_s)
        if answer.status == 404:
            self._forget(task)
            raise UnknownTask(f"the server does not know {task}: {answer.reason}")
        job = answer.error if answer.is_success else {}
        state = _STATES.get(str(job.get("status")))
        if state is None:
            raise QpuUnavailable(
                f"the state of {task} cannot be read: HTTP {answer.status}, status "
                f"{job.get('status')!r:.40}; expected one of {', '.join(_STATES)}"
            )
        with self._lock:
            if state.is_final:
                self._ended.note(task, job)
                self._forget(task)
            else:
                self._open[task] = state
        return state, job

    def _forget(self, task: QpuTaskId) -> None:
        with self._lock:
            self._open.pop(task, None)
        self._looks.forget(task)

    def _record(self, task: QpuTaskId) -> StartedJob:
        return self._records.of_task(task, _PREFIX)

    def _usage(self, record: StartedJob, job: Mapping[str, Any]) -> Usage:
        stated, seconds = job.get("runtime_ms"), record.modelled_s
        # What is no time is not counted, such as NaN.
        if isinstance(stated, int | float) and 0 <= stated < _LONGEST_RUNTIME_MS:
            seconds = stated / 1000
        charge = self._metering.charge(
            qpu_seconds=seconds, shots=record.shots, num_qubits=record.num_qubits
        )
        return Usage(
            qpu_seconds=seconds,
            shots=record.shots,
            circuits=record.circuits,
            tasks=1,
            charges=(charge,),
        )

    def _read(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        longer_s: float = 0,
        larger_bytes: int = 0,
    ) -> Answer:
        return self._connection.read(
            method, _API + path, params=params, longer_s=longer_s, larger_bytes=larger_bytes
        )


def _task_id(job: str, tag: str) -> QpuTaskId:
    return QpuTaskId(f"{_PREFIX}:{job}:{tag}")


def record_of(payload: SamplerPayload, tag: str, target: Target) -> StartedJob:
    """Return the record of a start that is about to be sent."""
    depths = [shape.points * shape.depth for shape in payload.shapes]
    modelled_s = 0.0
    if target.timing is not None:
        modelled_s = target.timing.duration_s(
            circuits=payload.circuits,
            shots=payload.shots,
            num_qubits=payload.num_qubits,
            depth=sum(depths) / payload.circuits,
        )
    return StartedJob(
        tag=tag,
        job=None,
        shots=payload.shots,
        circuits=payload.circuits,
        num_qubits=payload.num_qubits,
        modelled_s=modelled_s,
        recipes=tuple(recipe.to_json() for recipe in recipes_of(payload)),
        started_at_s=time.time(),
    )


def _metadata(job: Mapping[str, Any]) -> dict[str, Any]:
    compilation = job.get("compilation")
    known = compilation if isinstance(compilation, dict) else {}
    return {
        "calibration_id": known.get("calibration_set_id"),
        "vendor_job": job.get("id"),
        "timeline": job.get("timeline") or [],
    }


def _errors(job: Mapping[str, Any]) -> str:
    stated = job.get("errors")
    listed = [one for one in stated if isinstance(one, dict)] if isinstance(stated, list) else []
    words = [f"{one.get('error_code')}: {one.get('message')}" for one in listed]
    return "; ".join(words) or "the server states no reason"


def _json(answer: Answer) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise QpuUnavailable(
            f"the server answered with {len(answer.content)} bytes that are not JSON"
        ) from None
