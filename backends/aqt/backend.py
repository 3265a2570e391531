"""A QPU of AQT: each qpu_task is one job at its server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qiskit.primitives import PrimitiveResult

from backends.api import (
    BackendError,
    Calibration,
    Heard,
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
from backends.aqt.access import Access, CloudAccess, DeviceFacts, DirectAccess, Look
from backends.aqt.factory import NATIVE_GATES, AqtOptions, as_spoken
from backends.aqt.operations import circuits_of
from backends.aqt.samples import SampleRecipe, largest_bytes, recipes_of, result_of
from backends.connection import SiteConnection, bearer
from backends.connection_limit import ConnectionLimit
from backends.latest import LatestTasks
from backends.metering import Metering
from backends.payloads import Payload, SamplerPayload
from backends.quality_windows import is_provisional
from backends.recent import Recent
from backends.sessions import Sessions
from backends.spread_looks import SpreadLooks, pause_s
from backends.started_jobs import StartedJob, StartedJobs
from backends.validate import check, check_tag

__all__ = ["AqtBackend"]

_PREFIX = "aqt"
# Many callers ask for the target, one after the other; the device changes less often.
_TARGET_FRESH_S = 1.0
_MOST_HELD = 8
_ENDED_IN_MEMORY = 64
_Described = tuple[Target, str | None]  # the second is a calibration's id, if one is stated
_NOT_STATED = Calibration(id="not-stated", taken_at=datetime.fromtimestamp(0, UTC))


@dataclass(frozen=True, slots=True)
class _End:
    """How a task ended. look: without samples; native: its result if the samples are readable.

    known_at_s: when this was known here, in seconds since the epoch.
    """

    look: Look
    native: PrimitiveResult[Any] | None
    known_at_s: float

    @classmethod
    def of(cls, look: Look, record: StartedJob, known_at_s: float) -> _End:
        """Decode the samples, which take 64 times the memory of their bits."""
        bare = replace(look, samples=())
        if look.state is not TaskState.COMPLETED or look.message:
            return cls(bare, None, known_at_s)
        try:
            native = result_of(_recipes(record), look.samples)
        except TaskFailed as error:
            return cls(replace(bare, message=str(error)), None, known_at_s)
        return cls(bare, native, known_at_s)

    @classmethod
    def from_json(cls, stated: Mapping[str, Any], record: StartedJob) -> _End:
        """Read what `to_json` returned."""
        known_at_s, state = stated["known_at_s"], TaskState(stated["state"])
        look = Look(
            state=state,
            samples=stated["samples"],
            message=stated["message"],
            ended_at_s=stated["ended_at_s"],
        )
        return cls.of(look, record, known_at_s)

    def to_json(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Return it as JSON types, with the samples if they were readable."""
        return {
            "state": self.look.state.value,
            "samples": [] if self.native is None else list(samples),
            "message": self.look.message,
            "ended_at_s": self.look.ended_at_s,
            "known_at_s": self.known_at_s,
        }


class AqtBackend:
    """A QPU of AQT. Nothing connects before the first call that asks the server.

    The server can neither be searched nor asked to cancel: `find` knows the tasks whose ids
    arrived here, a start without an answer is never repeated under its tag, and `stop` lets a
    task go on to its end.
    """

    def __init__(self, options: AqtOptions, described: Target | None, *, state_dir: Path) -> None:
        self._options, self._described = options, described
        self._metering = Metering() if described is None else described.metering
        limit = options.connections
        header = options.api_key_header
        self._connection = SiteConnection(
            options.url,
            options.token,
            authorise=bearer if header is None else _in_header(header),
            limit=_limit_of(options, state_dir),
        )
        self._access: Access = DirectAccess(self._connection)
        if options.workspace is not None and options.resource is not None:
            self._access = CloudAccess(self._connection, options.workspace, options.resource)
        # One connection stays free for starts.
        self._held = threading.BoundedSemaphore(_MOST_HELD if limit is None else limit - 1)
        self._looks = SpreadLooks()
        self._records = StartedJobs(state_dir / "tasks")
        self._lock = threading.RLock()
        self._sessions = Sessions()
        self._open: dict[QpuTaskId, TaskState] = {}
        self._awaited: dict[QpuTaskId, Future[Look]] = {}
        self._ended: LatestTasks[_End] = LatestTasks(_ENDED_IN_MEMORY)
        self._known = Recent(self._described_now, _TARGET_FRESH_S)

    def target(self) -> Target:
        """Describe the QPU; asks the server at most once a second.

        While the server does not answer, this is the QPU as it was last known.
        """
        return self._known.get_or_last()[0]

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
        """Submit a job; see ``Backend.start``. Also raises ``AccessDenied``."""
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
        """Block until the task is final or the time is up.

        Many tasks in the cloud, whose protocol has no list of jobs, are looked at one by one. Then
        this is the state as last known.
        """
        deadline = time.monotonic() + timeout_s
        since_s = self._record(task).started_at_s
        while True:
            is_asked = timeout_s > 0 and self._ended.get(task) is None
            if is_asked and not self._looks.await_turn(task, deadline):
                return self._open.get(task, TaskState.QUEUED)
            state, _ = self._look(task, max(0.0, deadline - time.monotonic()))
            if state.is_final:
                return state
            self._looks.put_off(task, pause_s(time.time() - since_s))
            if time.monotonic() >= deadline:
                return state

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``."""
        record = self._record(task)
        state, end = self._look(task, 0.0)
        if end is None:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        if state is TaskState.FAILED:
            raise TaskFailed(f"{task} failed: {end.look.message or 'the server states no reason'}")
        if end.native is None:
            raise TaskFailed(f"{task} has no readable result: {end.look.message}")
        return Result(
            native=end.native, usage=self._usage(record), metadata=self._metadata(record, end)
        )

    def stop(self, task: QpuTaskId) -> None:
        """Do nothing but check the id: AQT's protocols cannot cancel, so the task runs to its end."""
        self._record(task)

    def close(self) -> None:
        """Close the connections; jobs go on at the server."""
        self._connection.close()

    def _started(self, payload: Payload, tag: str) -> QpuTaskId:
        known = self._records.arrived(tag)
        if known is not None:
            return _task_id(str(known.job), tag)
        try:
            # Asked anew, because a server out of service may leave a start in doubt.
            target, calibration_id = self._known.get()
            check(payload, target)
            self._records.check_room(target, list(self._open), self.status)
        except QpuUnavailable as error:
            raise QpuBusy(
                f"nothing was started: {error}", retry_after_s=error.retry_after_s
            ) from error
        assert isinstance(payload, SamplerPayload)  # as is all that its target takes
        circuits = circuits_of(payload)
        record = replace(_record_of(payload, tag, target), calibration_id=calibration_id)
        record = self._records.send(record, lambda: self._access.submit(circuits, tag))
        task = _task_id(str(record.job), tag)
        with self._lock:
            self._open[task] = TaskState.QUEUED
        return task

    def _described_now(self, _known: _Described | None) -> _Described:
        device = self._access.device()
        calibration = device.calibration
        return self._target_of(device), None if calibration is None else calibration.id

    def _target_of(self, device: DeviceFacts) -> Target:
        described = self._described
        if described is None:
            own = Target(
                name=device.name,
                num_qubits=device.num_qubits,
                payload_kinds=frozenset(),
                native_gates=NATIVE_GATES,
                max_concurrent_tasks=self._options.connections,
                calibration=_NOT_STATED,
                metering=Metering(),
            )
            described = as_spoken(own, self._options)
        missing = range(device.num_qubits, described.num_qubits or 0)
        unusable = sorted({*described.unusable_qubits, *missing})
        return replace(
            described,
            unusable_qubits=tuple(unusable),
            calibration=device.calibration or described.calibration,
        )

    def _look(self, task: QpuTaskId, wait_s: float) -> tuple[TaskState, _End | None]:
        """Return a task's state, and its end if that is known."""
        record = self._record(task)
        end = self._ended.get(task)
        if end is None and self._access.answers_once:
            stored = self._records.answer(record.tag)
            end = None if stored is None else _End.from_json(stored, record)
        if end is None:
            look = self._asked(task, record, wait_s)
            if not look.state.is_final:
                with self._lock:
                    self._open[task] = look.state
                return look.state, None
            end = _End.of(look, record, time.time())
            if self._access.answers_once:
                self._records.write_answer(record.tag, end.to_json(look.samples))
        self._forget(task)
        self._ended.note(task, end)
        return end.look.state, end

    def _asked(self, task: QpuTaskId, record: StartedJob, wait_s: float) -> Look:
        assert record.job is not None  # as of each task that has an id
        try:
            if not self._access.holds_answers:
                return self._access.look(record.job, largest_bytes(_recipes(record)))
            awaited = self._await(task, record)
            try:
                return awaited.result(wait_s)
            except TimeoutError:
                return Look(state=TaskState.RUNNING)
            finally:
                if awaited.done() and not _is_final(awaited):  # the next look asks again
                    with self._lock:
                        if self._awaited.get(task) is awaited:
                            del self._awaited[task]
        except UnknownTask:
            self._forget(task)
            raise

    def _forget(self, task: QpuTaskId) -> None:
        with self._lock:
            self._open.pop(task, None)
            self._awaited.pop(task, None)
        self._looks.forget(task)

    def _await(self, task: QpuTaskId, record: StartedJob) -> Future[Look]:
        """Have a thread await the answer about a job, whoever asks for it, and how often."""
        with self._lock:
            awaited = self._awaited.get(task)
            if awaited is not None:
                return awaited
            made: Future[Look] = Future()
            self._awaited[task] = made
        # A daemon, since a server may hold its answer back for hours.
        threading.Thread(
            target=self._fetch, args=(record, made), name=f"aqt-{record.job}", daemon=True
        ).start()
        return made

    def _fetch(self, record: StartedJob, made: Future[Look]) -> None:
        assert record.job is not None  # as of each task that has an id
        try:
            with self._held:
                made.set_result(self._access.look(record.job, largest_bytes(_recipes(record))))
        except BackendError as error:
            made.set_exception(error)
        except BaseException as error:
            made.set_exception(QpuUnavailable(f"job {record.job} cannot be read: {error}"))
            raise

    def _record(self, task: QpuTaskId) -> StartedJob:
        return self._records.of_task(task, _PREFIX)

    def _usage(self, record: StartedJob) -> Usage:
        charge = self._metering.charge(
            qpu_seconds=record.modelled_s, shots=record.shots, num_qubits=record.num_qubits
        )
        return Usage(
            qpu_seconds=record.modelled_s,
            shots=record.shots,
            circuits=record.circuits,
            tasks=1,
            charges=(charge,),
        )

    def _metadata(self, record: StartedJob, end: _End) -> dict[str, Any]:
        windows = () if self._described is None else self._described.quality_windows
        ended_at_s = end.look.ended_at_s or end.known_at_s
        return {
            "vendor_job": record.job,
            "calibration_id": record.calibration_id,
            # It ran at some time between the two.
            "provisional": is_provisional(windows, record.started_at_s)
            or is_provisional(windows, ended_at_s),
        }


def _recipes(record: StartedJob) -> list[SampleRecipe]:
    return [SampleRecipe.from_json(one) for one in record.recipes]


def _is_final(awaited: Future[Look]) -> bool:
    return awaited.exception() is None and awaited.result().state.is_final


def _in_header(name: str) -> Callable[[str], Mapping[str, str]]:
    return lambda key: {name: key}


def _limit_of(options: AqtOptions, state_dir: Path) -> ConnectionLimit | None:
    if options.connections is None:
        return None
    return ConnectionLimit(
        options.connections, state_dir / "connections.lock", shared_key=options.shared_key
    )


def _task_id(job: str, tag: str) -> QpuTaskId:
    return QpuTaskId(f"{_PREFIX}:{job}:{tag}")


def _record_of(payload: SamplerPayload, tag: str, target: Target) -> StartedJob:
    modelled_s = 0.0
    if target.timing is not None:
        depths = [shape.points * shape.shots * shape.depth for shape in payload.shapes]
        modelled_s = target.timing.duration_s(
            circuits=payload.circuits,
            shots=payload.shots,
            num_qubits=payload.num_qubits,
            depth=sum(depths) / max(1, payload.shots),
        )
    return StartedJob(
        tag=tag,
        job=None,
        shots=payload.shots,
        circuits=payload.circuits,
        num_qubits=payload.num_qubits,
        modelled_s=round(modelled_s, 3),
        recipes=tuple(recipe.to_json() for recipe in recipes_of(payload)),
        started_at_s=time.time(),
    )
