"""A resource of QRMI as a device: each task is started and followed in a thread of its own."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.devices.api import FlatJob, FlatResult
from backends.errors import (
    AccessDenied,
    BackendError,
    CalibrationChanged,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    UnknownTask,
)
from backends.iqm.architecture import Architecture
from backends.qrmi.factory import QrmiOptions
from backends.qrmi.programs import (
    counts_of,
    program_of,
    recipes_of,
    seconds_between,
    stated_architecture,
)
from backends.qrmi.resource import QrmiCalls
from backends.recent import Recent
from backends.started_jobs import StartedJob, StartedJobs
from backends.tags import short_tag

__all__ = ["QrmiDevice"]

_PREFIX = "qrmi"
_FINAL = ("completed", "failed", "cancelled")
# Nothing was started after these; after any other error of a start, nobody knows.
_REFUSALS = (AccessDenied, CalibrationChanged, PayloadRejected, QpuBusy)
_START_S = 25.0
_TARGET_FRESH_S = 2.0
_Stated = tuple[Architecture, Mapping[str, Any]]
# QRMI's look at a task waits for its end where the resource's protocol allows that.
_LOOK_PAUSE_S, _FAULT_PAUSE_S = 0.1, 1.0
_LONGEST_TAG = 50
# The job's id at the resource, and the tag, which is a safe file name.
_TASK = re.compile(r"qrmi:([0-9A-Za-z_-]{1,100}):([0-9A-Za-z_][0-9A-Za-z_.=+-]{0,199})")
_KEEP_S = 30 * 86400.0


@dataclass(slots=True)
class _Course:
    """A task as it was last seen. error: of the last look at it, None if that succeeded."""

    state: str = "queued"
    error: BackendError | None = None
    result: FlatResult | None = None
    reason: str = ""
    seen_running_at: float | None = None


@dataclass(slots=True)
class _Start:
    """A start that is under way in its thread."""

    job: str | None = None
    error: BackendError | None = None


class QrmiDevice:
    """See ``FlatDevice``. A start without an answer is never repeated under its tag."""

    def __init__(self, resource: QrmiCalls, options: QrmiOptions, *, state_dir: Path) -> None:
        """Store the arguments; nothing connects before the first call that asks the resource."""
        self._resource, self._options = resource, options
        self._records = StartedJobs(state_dir / "tasks")
        self._changed = threading.Condition()
        self._acquiring = threading.Lock()
        self._starting: set[str] = set()
        self._courses: dict[str, _Course] = {}
        self._known = Recent(self._stated, _TARGET_FRESH_S)
        self._token: str | None = None
        self._purged = self._closed = False

    def target(self) -> Mapping[str, Any]:
        """Return the target that the resource stated within the last seconds."""
        return self._known.get_or_last()[1]

    def start(self, job: FlatJob, tag: str) -> str:
        """Start a task; see ``FlatDevice.start``. Waits for QRMI's answer, but not for long."""
        with self._changed:
            if tag in self._starting:
                raise QpuBusy(f"task {tag} is being started by another call")
            record = self._records.arrived(tag)
            if record is not None:
                return _task_id(record)
            self._refuse_when_full()
            self._starting.add(tag)
        try:
            record, program = self._prepared(job, tag)
        except BaseException:
            with self._changed:
                self._starting.discard(tag)
            raise
        start = _Start()
        self._spawn(self._send, start, record, program)
        with self._changed:
            self._changed.wait_for(lambda: tag not in self._starting, _START_S)
            if start.error is not None:
                raise start.error
            if start.job is None:
                raise QpuUnavailable(f"QRMI has not answered to the start of {tag}; it may yet")
        task = _task_id(record.accepted(start.job))
        self._course(task)
        return task

    def find(self, tag: str) -> str | None:
        """Return the task of a tag if its id arrived here; QRMI cannot be asked."""
        with self._changed:
            if tag in self._starting:
                raise QpuUnavailable(f"QRMI has not answered to the start of {tag}")
        record = self._records.read(tag)
        return None if record is None or record.job is None else _task_id(record)

    def status(self, task: str) -> str:
        """Return a task's state as it was last seen."""
        return _state(self._course(task))

    def wait(self, task: str, timeout_s: float) -> str:
        """Return a task's state when it has ended, or when the time is up."""
        course = self._course(task)
        with self._changed:
            self._changed.wait_for(lambda: course.state in _FINAL, timeout_s)
            return _state(course)

    def result(self, task: str) -> FlatResult:
        """Return a completed task's result."""
        course = self._course(task)
        state = _state(course)
        if state == "cancelled":
            raise TaskCancelled(f"{task} was cancelled")
        if state == "failed":
            raise TaskFailed(f"{task} failed: {course.reason}")
        if course.result is None:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        return course.result

    def stop(self, task: str) -> None:
        """Cancel a task; returns before the resource has."""
        course, job = self._course(task), self._record(task).job
        if course.state not in _FINAL and job is not None:
            self._spawn(self._stop, job)

    def close(self) -> None:
        """Release the resource; tasks go on there."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            token, self._token = self._token, None
        if token is not None:
            self._spawn(self._release, token)

    def _prepared(self, job: FlatJob, tag: str) -> tuple[StartedJob, str]:
        """Return the record and the program of a start; the record is on disk."""
        try:
            # Asked first: a resource that does not answer this would leave the start in doubt.
            architecture, _ = self._known.get()
        except QpuUnavailable as error:
            raise QpuBusy(f"nothing was started: {error}") from error
        program = program_of(job, architecture)
        if not self._purged:
            self._purged = True
            self._records.purge(time.time() - _KEEP_S)
        record = StartedJob(
            tag=tag,
            job=None,
            shots=sum(pub.shots * len(pub.angles) for pub in job.pubs),
            circuits=sum(len(pub.angles) for pub in job.pubs),
            num_qubits=max(pub.num_qubits for pub in job.pubs),
            modelled_s=0.0,
            recipes=tuple(recipes_of(job)),
            started_at_s=time.time(),
            calibration_id=architecture.calibration_set_id,
        )
        self._records.write(record)
        return record, program

    def _send(self, start: _Start, record: StartedJob, program: str) -> None:
        error: BackendError | None = None
        job = None
        try:
            self._acquire()
            job = self._resource.start(program, short_tag(record.tag, _LONGEST_TAG))
            self._records.write(record.accepted(job))
        except BackendError as raised:
            error = raised
            if isinstance(raised, _REFUSALS):
                self._records.remove(record.tag)
        except Exception as raised:  # noqa: BLE001 - of QRMI, or of a full disk
            error = QpuUnavailable(f"the start of {record.tag} failed: {raised}")
        if isinstance(error, CalibrationChanged):
            self._known.forget()
        with self._changed:
            start.job, start.error = job, error
            self._starting.discard(record.tag)
            self._changed.notify_all()

    def _acquire(self) -> None:
        """Acquire the resource once, before the first start. Raises `QpuBusy` if that fails."""
        with self._acquiring:
            if self._token is None:
                try:
                    self._token = self._resource.acquire()
                except QpuUnavailable as error:
                    raise QpuBusy(f"nothing was started: {error}") from error

    def _release(self, token: str) -> None:
        with contextlib.suppress(BackendError):
            self._resource.release(token)

    def _stop(self, job: str) -> None:
        with contextlib.suppress(BackendError):  # the follower sees whether it ended
            self._resource.stop(job)

    def _course(self, task: str) -> _Course:
        """Return a task's course, which a thread follows from the first call on."""
        course = self._courses.get(task)
        if course is not None:
            return course
        record = self._record(task)
        with self._changed:
            course = self._courses.get(task)
            if course is None:
                course = self._courses[task] = _Course()
                self._spawn(self._follow, course, record)
        return course

    def _follow(self, course: _Course, record: StartedJob) -> None:
        """Look at a task until it has ended and its result is here."""
        assert record.job is not None  # as of each task with an id
        while not self._closed and course.state not in _FINAL:
            pause_s = _LOOK_PAUSE_S
            try:
                self._look(course, record, record.job)
            except BackendError as error:
                with self._changed:
                    course.error = error
                    self._changed.notify_all()
                pause_s = _FAULT_PAUSE_S
            except Exception as error:  # noqa: BLE001 - QRMI may raise anything
                with self._changed:
                    course.error = QpuUnavailable(f"{type(error).__name__}: {error}")
                pause_s = _FAULT_PAUSE_S
            time.sleep(pause_s)

    def _look(self, course: _Course, record: StartedJob, job: str) -> None:
        state, reason, result = self._resource.state(job), "", None
        if state == "running" and course.seen_running_at is None:
            course.seen_running_at = time.time()
        if state == "failed":
            reason = self._reason(job)
        if state == "completed":
            try:
                result = self._fetched(record, job, course)
            except TaskFailed as error:
                state, reason = "failed", str(error)
        with self._changed:
            course.error, course.result, course.reason = None, result, reason
            if not (state == "queued" and course.state == "running"):
                course.state = state
            self._changed.notify_all()

    def _fetched(self, record: StartedJob, job: str, course: _Course) -> FlatResult:
        counts = counts_of(record.recipes, self._resource.result(job))
        seconds = None
        with contextlib.suppress(BackendError):
            seconds = seconds_between(self._resource.logs(job))
        if seconds is None:  # as far as it was seen from here
            seconds = time.time() - (course.seen_running_at or record.started_at_s)
        return FlatResult(
            counts=counts,
            qpu_seconds=max(0.0, seconds),
            metadata={
                "device": self._options.resource,
                "calibration_id": record.calibration_id,
                "vendor_job": job,
            },
        )

    def _reason(self, job: str) -> str:
        try:
            return " ".join(self._resource.logs(job).split())[:300] or "QRMI states no reason"
        except BackendError as error:
            return f"QRMI states no reason ({error})"

    def _record(self, task: str) -> StartedJob:
        found = _TASK.fullmatch(task)
        record = None if found is None else self._records.read(found[2])
        if found is None or record is None or record.job != found[1]:
            raise UnknownTask(f"no task {task!r:.200} was ever started here")
        return record

    def _refuse_when_full(self) -> None:
        running = len(self._starting) + sum(
            course.state not in _FINAL for course in self._courses.values()
        )
        if running >= self._options.tasks:
            raise QpuBusy(
                f"{self._options.resource} has {running} tasks of this client and takes at most "
                f"{self._options.tasks} (option tasks); start again when one has ended"
            )

    def _stated(self, _known: _Stated | None) -> _Stated:
        try:
            architecture, target = stated_architecture(
                self._options.resource, self._resource.target()
            )
        except ValueError as error:
            raise QpuUnavailable(f"the resource's target cannot be used: {error}") from error
        return architecture, {**target, "max_concurrent_tasks": self._options.tasks}

    @staticmethod
    def _spawn(work: Any, *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, name="qrmi", daemon=True).start()


def _state(course: _Course) -> str:
    """Return the state that was seen; raises what the last look at an open task raised."""
    if course.error is not None and course.state not in _FINAL:
        raise course.error
    return course.state


def _task_id(record: StartedJob) -> str:
    return f"{_PREFIX}:{record.job}:{record.tag}"
