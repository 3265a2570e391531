"""A QPU whose site takes two jobs: one that describes it, and one that runs staged OpenQASM files."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

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
from backends.connection import SiteConnection
from backends.iqm.architecture import Architecture, read_architecture
from backends.iqm.backend import record_of
from backends.iqm.description import described_by_server
from backends.iqm.factory import IqmOptions, as_spoken
from backends.iqm.heappe import Heappe, HeappeJob, JobStage, Template
from backends.iqm.jobs import PubRecipe, largest_bytes, result_of
from backends.iqm.openqasm import openqasm_of
from backends.metering import Metering
from backends.payloads import Payload, SamplerPayload
from backends.recent import Recent
from backends.sessions import Sessions
from backends.spread_looks import SpreadLooks, pause_s
from backends.started_jobs import StartedJob, StartedJobs
from backends.tags import short_tag
from backends.validate import check, check_tag

__all__ = ["StagedBackend"]

_PREFIX = "staged"
# Names of the site's commands, and of the queues that they run on.
_DESCRIBE, _RUN = ("RunQInit", "init_queue"), ("RunQExecute", "compute_queue")
_ARCHITECTURE, _OPTIONS = "dynamic_quantum_architecture.json", "run_kwargs.json"
_MEASUREMENTS, _REPORT, _ERRORS = "measurements.json", "job.json", "stderr.txt"
_DESCRIBE_WALLTIME_S, _RUN_WALLTIME_S = 60, 7200
# A description costs a job on a queue; a calibration lasts for hours.
_FRESH_S = 600.0
_DESCRIBED_WITHIN_S = 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_LONGEST_REASON = 500
_LONGEST_NAME = 50
_STATES = {
    JobStage.RUNNING: TaskState.RUNNING,
    JobStage.FINISHED: TaskState.COMPLETED,
    JobStage.FAILED: TaskState.FAILED,
    JobStage.CANCELED: TaskState.CANCELLED,
    JobStage.DELETED: TaskState.CANCELLED,
}


class StagedBackend:
    """A QPU behind HEAppE. Nothing connects before the first call that asks the server.

    A job is created, which starts nothing, before its files are staged and it is submitted. So its
    id is known here before it can run, and after a lost answer the server says whether it does.
    """

    def __init__(self, options: IqmOptions, described: Target | None, *, state_dir: Path) -> None:
        self._options, self._described = options, described
        self._metering = Metering() if described is None else described.metering
        self._connection = SiteConnection(options.url, options.token)
        self._heappe = Heappe(self._connection)
        self._records = StartedJobs(state_dir / "tasks")
        self._lock = threading.RLock()
        self._sessions = Sessions()
        self._looks = SpreadLooks()
        self._open: dict[QpuTaskId, TaskState] = {}
        self._templates: dict[tuple[str, str], Template] = {}
        self._known = Recent(self._described_anew, _FRESH_S)

    def target(self) -> Target:
        """Describe the QPU as its last description job did, which is repeated every ten minutes."""
        return self._known.get_or_last()[1]

    @property
    def heard(self) -> Heard:
        """When the server answered last."""
        return self._connection.heard

    def acquire(self) -> SessionId:
        """Open a session, of which the server has no notion."""
        return self._sessions.open()

    def release(self, session: SessionId) -> None:
        """Close a session; its tasks go on."""
        self._sessions.close(session)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Create a job, stage its circuits and submit it; see ``Backend.start``."""
        self._sessions.check(session)
        check_tag(tag)
        with self._records.starting(tag):
            return self._started(payload, tag)

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag if its job was submitted, as the server says."""
        check_tag(tag)
        record = self._records.read(tag)
        if record is None or record.job is None:  # no job of it was ever submitted
            return None
        try:
            stage = self._heappe.job(_id_of(record)).stage
        except UnknownTask:
            return None
        return None if stage is JobStage.CONFIGURING else _task_id(record.job, tag)

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state."""
        return self._look(task)[0]

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or the time is up; many tasks are looked at one by one."""
        deadline = time.monotonic() + timeout_s
        since_s = self._record(task).started_at_s
        while True:
            if timeout_s > 0 and not self._looks.await_turn(task, deadline):
                return self._open.get(task, TaskState.QUEUED)
            state, _ = self._look(task)
            if state.is_final:
                return state
            self._looks.put_off(task, pause_s(time.time() - since_s))
            if time.monotonic() >= deadline:
                return state

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``.

        Raises ``CalibrationChanged`` if the site has forgotten the calibration of its circuits.
        """
        record = self._record(task)
        state, job = self._look(task)
        if not state.is_final:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        if state is TaskState.FAILED:
            raise self._failure(task, job)
        recipes = [PubRecipe.from_json(one) for one in record.recipes]
        measured = self._heappe.file(job, _MEASUREMENTS, larger_bytes=2 * largest_bytes(recipes))
        report = _json(self._heappe.file(job, _REPORT), _REPORT)
        known = report if isinstance(report, dict) else {}
        return Result(
            native=result_of(recipes, _json(measured, _MEASUREMENTS)),
            usage=self._usage(record, known),
            metadata={
                "calibration_id": known.get("calibration_set_id"),
                "vendor_job": str(job.id),
            },
        )

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task."""
        state, job = self._look(task)
        if not state.is_final:
            self._heappe.cancel(job)

    def close(self) -> None:
        """Close the connections; jobs go on at the site."""
        self._connection.close()

    def _started(self, payload: Payload, tag: str) -> QpuTaskId:
        record = self._records.read(tag)
        try:
            architecture, target = self._known.get_or_last()
            check(payload, target)
            if record is not None and record.job is not None:
                job = self._heappe.job(_id_of(record))
                if job.stage is not JobStage.CONFIGURING:
                    return _task_id(record.job, tag)
            else:
                self._records.check_room(target, list(self._open), self.status)
                template = self._template(*_RUN)
        except QpuUnavailable as error:
            raise QpuBusy(
                f"nothing was started: {error}", retry_after_s=error.retry_after_s
            ) from error
        assert isinstance(payload, SamplerPayload)  # as is all that its target takes
        circuits = openqasm_of(payload)
        if record is None or record.job is None:  # what was created without an answer never runs

            def create() -> str:
                name, variables = short_tag(tag, _LONGEST_NAME), self._variables("backend_run")
                made = self._heappe.create(
                    template, name, walltime_s=_RUN_WALLTIME_S, variables=variables
                )
                return f"{made.id}-{made.task}"

            record = self._records.send(record_of(payload, tag, target), create)
            job = _created(record)
        self._stage(job, circuits, payload.pubs[0].shots, architecture)
        try:
            self._heappe.submit(job)
        except PayloadRejected:
            self._records.remove(tag)
            raise
        task = _task_id(str(record.job), tag)
        with self._lock:
            self._open[task] = TaskState.QUEUED
        return task

    def _stage(
        self, job: HeappeJob, circuits: list[str], shots: int, architecture: Architecture
    ) -> None:
        files = {
            f"circuit_{number:04d}.qasm": text.encode() for number, text in enumerate(circuits)
        }
        # Pinned: what was compiled for one calibration does not run with another.
        options = {"shots": shots, "calibration_set_id": architecture.calibration_set_id}
        self._heappe.stage(job, {**files, _OPTIONS: to_json(options)})

    def _described_anew(
        self, _known: tuple[Architecture, Target] | None
    ) -> tuple[Architecture, Target]:
        """Have a job of its own describe the QPU. Raises `QpuUnavailable`."""
        template = self._template(*_DESCRIBE)
        variables = self._variables("get_dynamic_quantum_architecture")
        try:
            job = self._heappe.create(
                template,
                "hpcqc-describe",
                walltime_s=_DESCRIBE_WALLTIME_S,
                variables={**variables, "Q_OPTIONAL_ARG": "default"},
            )
            self._heappe.submit(job)
        except QpuBusy as error:
            raise QpuUnavailable(str(error), retry_after_s=error.retry_after_s) from error
        job = self._ended(job)
        if job.stage is not JobStage.FINISHED:
            raise QpuUnavailable(f"the job that describes the QPU failed: {self._reason(job)}")
        stated = _json(self._heappe.file(job, _ARCHITECTURE), _ARCHITECTURE)
        try:
            if self._described is None:
                own = described_by_server(str(self._options.cluster), stated, {})
                self._described = as_spoken(own, self._options)
            architecture = read_architecture(stated, self._described)
        except ValueError as error:
            raise QpuUnavailable(f"the architecture cannot be used: {error}") from error
        calibration = Calibration(
            id=architecture.calibration_set_id, taken_at=self._described.calibration.taken_at
        )
        return architecture, replace(architecture.target(self._described), calibration=calibration)

    def _ended(self, job: HeappeJob) -> HeappeJob:
        """Wait for the end of a job that describes the QPU. Raises `QpuUnavailable`."""
        deadline, pause = time.monotonic() + _DESCRIBED_WITHIN_S, _FIRST_PAUSE_S
        while time.monotonic() < deadline:
            seen = self._heappe.job(job.id)
            if seen.stage in _STATES and _STATES[seen.stage].is_final:
                return seen
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        raise QpuUnavailable(f"job {job.id}, which describes the QPU, has not ended in time")

    def _template(self, command: str, queue: str) -> Template:
        found = self._templates.get((command, queue))
        if found is None:
            cluster, account = str(self._options.cluster), str(self._options.resource)
            found = self._heappe.template(cluster, account, command, queue)
            self._templates[(command, queue)] = found
        return found

    def _variables(self, command: str) -> dict[str, str]:
        return {"Q_COMMAND": command, "LEXIS_PROJECT": str(self._options.project)}

    def _look(self, task: QpuTaskId) -> tuple[TaskState, HeappeJob]:
        record = self._record(task)
        try:
            job = self._heappe.job(_id_of(record))
        except UnknownTask:
            self._forget(task)
            raise
        state = _STATES.get(job.stage, TaskState.QUEUED)
        if state.is_final:
            self._forget(task)
        else:
            with self._lock:
                self._open[task] = state
        return state, job

    def _forget(self, task: QpuTaskId) -> None:
        with self._lock:
            self._open.pop(task, None)
        self._looks.forget(task)

    def _record(self, task: QpuTaskId) -> StartedJob:
        return self._records.of_task(task, _PREFIX)

    def _failure(self, task: QpuTaskId, job: HeappeJob) -> TaskFailed | CalibrationChanged:
        reason = self._reason(job)
        if "calibration" in reason:
            self._known.forget()
            return CalibrationChanged(
                f"the site has forgotten the calibration of {task}: {reason}; it is prepared anew"
            )
        return TaskFailed(f"{task} failed: {reason}")

    def _reason(self, job: HeappeJob) -> str:
        try:
            text = self._heappe.file(job, _ERRORS).decode("utf-8", "replace")
        except QpuUnavailable as error:
            return str(error)
        return " ".join(text.split())[-_LONGEST_REASON:] or "the site states no reason"

    def _usage(self, record: StartedJob, report: Mapping[str, Any]) -> Usage:
        stated, seconds = report.get("hardware_s"), record.modelled_s
        if isinstance(stated, int | float) and 0 <= stated < _RUN_WALLTIME_S:
            seconds = float(stated)
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


def _task_id(job: str, tag: str) -> QpuTaskId:
    return QpuTaskId(f"{_PREFIX}:{job}:{tag}")


def _id_of(record: StartedJob) -> int:
    return _created(record).id


def _created(record: StartedJob) -> HeappeJob:
    job, _, task = str(record.job).partition("-")
    return HeappeJob(id=int(job), task=int(task), stage=JobStage.CONFIGURING)


def _json(content: bytes, name: str) -> Any:
    try:
        return from_json(content)
    except ValueError:
        raise QpuUnavailable(
            f"{name} has {len(content)} bytes that are not JSON; the site's own service writes "
            "pickled objects, which hpcqc does not load"
        ) from None
