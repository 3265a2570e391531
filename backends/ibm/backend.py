"""A device of IBM's service: each qpu_task is one job there, found by its tag."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from qiskit.primitives import PrimitiveResult
from qiskit_ibm_runtime import IBMBackend
from qiskit_ibm_runtime.decoders.defaults import DEFAULT_DECODERS
from qiskit_ibm_runtime.executor_sampler import Sampler
from qiskit_ibm_runtime.utils.backend_decoder import configuration_from_server_data

from backends.api import (
    AccessDenied,
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
from backends.ibm.access import AccessTokens
from backends.ibm.description import calibration_of, check_branches, described
from backends.ibm.factory import ServiceOptions, coupling_class_of
from backends.ibm.pubs import PubForm, separate
from backends.ibm.service import IbmService, Refused
from backends.ibm.sessions import ServiceSessions
from backends.latest import LatestTasks
from backends.packed_texts import TooMuchPacked, check_packed
from backends.payloads import Payload, SamplerPayload
from backends.recent import Recent
from backends.started_jobs import StartedJob, StartedJobs
from backends.tags import is_tag, short_tag
from backends.validate import check, check_tag

__all__ = ["IbmBackend", "open_service"]

_PREFIX = "ibm"
_PROGRAM = "executor"
# What a result may unpack to: for each shot more than a bit for any circuit's classical bits.
_UNPACKED_BYTES = 1 << 26
_UNPACKED_SHOT_BYTES = 1024
_MOST_SHOTS = 100_000
# Jobs of hpcqc have this tag and their own, so that one request lists all of them.
_OURS = "hpcqc"
_LONGEST_TAG = 80
_JOB_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
_STATES = {
    "QUEUED": TaskState.QUEUED,
    "RUNNING": TaskState.RUNNING,
    "COMPLETED": TaskState.COMPLETED,
    "FAILED": TaskState.FAILED,
    "CANCELLED": TaskState.CANCELLED,
}
# The service cancels a job that runs longer than it may.
_RAN_TOO_LONG = 1305
# Devices are calibrated daily, and their description is a megabyte.
_TARGET_FRESH_S = 60.0
_LIST_FRESH_S = 0.5
_LISTED_JOBS = 100
# How long a stored job may be missing in the service's list, and its usage in its metrics.
_SETTLES_S = 10.0
_ENDED_IN_MEMORY = 256


def open_service(options: ServiceOptions, *, state_dir: Path) -> IbmBackend:
    """Return a device of the service; nothing connects yet."""
    tokens = AccessTokens(options.iam_url, options.token)
    service = IbmService(options.instance, options.url, tokens)
    return IbmBackend(options, service, state_dir=state_dir)


class _Submitter:
    """What IBM's sampler takes for a service: it posts the job and returns the raw answer."""

    is_local = False

    def __init__(self, service: IbmService) -> None:
        self.of_thread = threading.local()
        self._service = service

    def _run(
        self, *, program_id: str, options: Mapping[str, Any], inputs: Any, **_given: Any
    ) -> Any:
        return self._service.submitting(
            self._service.client.program_run,
            program_id=program_id,
            backend_name=options["backend"],
            params=inputs,
            image=None,
            log_level=options["log_level"],
            session_id=self.of_thread.session,
            job_tags=options["job_tags"],
        )


class IbmBackend:
    """A device of IBM's service; see ``backends.api.Backend``."""

    def __init__(self, options: ServiceOptions, service: IbmService, *, state_dir: Path) -> None:
        self._options, self._service = options, service
        self._submitter = _Submitter(service)
        self._records = StartedJobs(state_dir / "tasks")
        self._lock = threading.RLock()
        self._sessions = ServiceSessions(options, service, state_dir / "sessions")
        self._open: dict[QpuTaskId, str] = {}  # the jobs of tasks
        self._ended: LatestTasks[Mapping[str, Any]] = LatestTasks(_ENDED_IN_MEMORY)
        self._listing = threading.Lock()  # for the whole time in which a list is read
        self._listed: tuple[float, Mapping[str, Mapping[str, Any]]] = (0.0, {})
        self._completed_at: dict[QpuTaskId, float] = {}
        self._known = Recent(self._read_device, _TARGET_FRESH_S)

    def target(self) -> Target:
        """Describe the device with its newest calibration; the service is asked once a minute."""
        return self._known.get_or_last()[1]

    @property
    def heard(self) -> Heard:
        """When the service last described the device."""
        return self._known.heard

    def acquire(self) -> SessionId:
        """Open a session. A batch of IBM's is opened with the first task, if the options ask for it."""
        self._close_left()
        return self._sessions.open()

    def acquire_lease(self, lease: str, longest_s: float) -> SessionId:
        """Open a session for a lease; the same with a dedicated session of IBM's. See `Leasing`."""
        self._close_left()
        return self._sessions.open(lease, longest_s)

    def release(self, session: SessionId) -> None:
        """Close a session, and IBM's; its tasks go on.

        Raises `AccessDenied` or `QpuUnavailable` if one of IBM's stays open. It costs until it is
        closed, which is tried again with the next session that is opened or closed.
        """
        self._sessions.close(session)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Submit a job; see ``Backend.start``."""
        self._sessions.check(session)
        check_tag(tag)
        with self._records.starting(tag):
            return self._started(session, payload, tag)

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag, also of one whose answer was lost.

        Of several jobs, which something between here and the service made of one request, the
        oldest is the task and the others are cancelled.
        """
        check_tag(tag)
        record = self._records.read(tag)
        if record is not None and record.job is not None:
            return _task_id(record.job, tag)
        jobs = sorted(
            self._tagged(short_tag(tag, _LONGEST_TAG)), key=lambda job: str(job.get("created", ""))
        )
        if not jobs:
            if record is not None and time.time() - record.started_at_s < _SETTLES_S:
                raise QpuUnavailable(
                    f"the service does not list the job of {tag} yet, whose start got no answer",
                    retry_after_s=1.0,
                )
            return None
        for surplus in jobs[1:]:
            if _state_of(surplus) in (TaskState.QUEUED, TaskState.RUNNING):
                self._cancel(str(surplus["id"]))
        job = str(jobs[0]["id"])
        if record is not None:
            self._records.write(record.accepted(job))
        return _task_id(job, tag)

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state."""
        return _state_of(self._look(task))

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``."""
        job, record = self._parsed(task)
        described_job = self._look(task)
        state = _state_of(described_job)
        if not state.is_final:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        if state is TaskState.FAILED:
            reason = described_job["state"].get("reason") or "the service states no reason"
            raise TaskFailed(f"{task} failed: {reason}")
        text = self._asked(task, self._service.client.job_results, job)
        most_bytes = _most_unpacked_bytes(record)
        native = _native(text, None if record is None else _forms(record), most_bytes)
        metrics = self._asked(task, self._service.client.job_metadata, job)
        return Result(
            native=native,
            usage=self._usage(task, record, native, metrics),
            metadata={
                "device": self._options.device,
                "vendor_job": job,
                "timestamps": metrics.get("timestamps") or {},
            },
        )

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task; one that is running is interrupted."""
        job, _ = self._parsed(task)
        if not _state_of(self._look(task)).is_final:
            self._cancel(job)

    def close(self) -> None:
        """Close the connections; jobs go on at the service."""
        self._close_left()
        self._service.close()

    def _close_left(self) -> None:
        """Close what of IBM's sessions nobody needs, as far as the service answers."""
        with contextlib.suppress(AccessDenied, QpuUnavailable):
            self._sessions.close_left()

    def _started(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        known = self._records.read(tag)
        if known is not None:
            found = self.find(tag)
            if found is not None:
                return found
        try:
            device, target = self._known.get_or_last()
            check(payload, target)
            assert isinstance(payload, SamplerPayload)  # as is all that its target takes
            check_branches(payload, target)
            self._records.check_room(target, list(self._open), self.status)
            ibm_session = self._sessions.of_tasks(session)
        except QpuUnavailable as error:
            raise QpuBusy(
                f"nothing was started: {error}", retry_after_s=error.retry_after_s
            ) from error
        record = StartedJob(
            tag=tag,
            job=None,
            shots=payload.shots,
            circuits=payload.circuits,
            num_qubits=payload.num_qubits,
            modelled_s=0.0,  # the service states the time
            recipes=tuple(PubForm.of(pub).to_json() for pub in payload.pubs),
            started_at_s=time.time(),
        )
        record = self._records.send(
            record, lambda: self._submitted(device, payload, tag, ibm_session)
        )
        job = str(record.job)
        task = _task_id(job, tag)
        with self._lock:
            self._open[task] = job
        return task

    def _submitted(
        self, device: Any, payload: SamplerPayload, tag: str, ibm_session: str | None
    ) -> Any:
        options = {"environment": {"job_tags": [_OURS, short_tag(tag, _LONGEST_TAG)]}}
        pubs = [part for pub in payload.pubs for part in separate(pub)]
        self._submitter.of_thread.session = ibm_session
        try:
            answer: Any = Sampler(mode=device, options=options).run(pubs)
        except (AccessDenied, PayloadRejected, QpuBusy, QpuUnavailable):
            raise
        except Exception as error:  # before anything was sent, in IBM's client
            raise PayloadRejected(
                f"IBM's client refuses the job: {type(error).__name__}: {error}"
            ) from error
        return answer.get("id") if isinstance(answer, dict) else None

    def _read_device(self, _known: tuple[Any, Target] | None) -> tuple[Any, Target]:
        client, name = self._service.client, self._options.device
        try:
            stated = self._service.asking(client.backend_configuration, name, refresh=True)
            configuration = configuration_from_server_data(stated, instance=self._options.instance)
            if configuration is None:
                raise QpuUnavailable(f"the description of {name!r} cannot be read")
            device = IBMBackend(
                configuration=configuration,
                service=self._submitter,
                api_client=client,
                instance=self._options.instance,
            )
            properties = self._service.asking(device.properties)
        except Refused as error:
            listed = self._service.asking(client.list_backends)
            names = ", ".join(sorted(str(one.get("name")) for one in listed)) or "none"
            raise QpuUnavailable(
                f"the service has no device {name!r} for this instance ({error}); it has: {names}"
            ) from error
        if properties is None:
            raise QpuUnavailable(f"the service states no properties of {name!r}")
        target = described(
            name,
            device.target,
            calibration_of(name, properties.last_update_date),
            max_shots=getattr(configuration, "max_shots", None),
            max_circuits=getattr(configuration, "max_experiments", None),
            max_concurrent_tasks=self._options.concurrent_tasks,
            uniform_shots=True,
            durable=True,
            clock_scale=self._options.time_scale,
            coupling_class=coupling_class_of(self._options.session, self._options.session_s),
        )
        return device, self._with_profile(target)

    def _with_profile(self, target: Target) -> Target:
        """Add the times and the prices that the service does not state."""
        if self._options.profile is None:
            return target
        from backends.profiles import load_profile

        stated = load_profile(self._options.profile).target()
        return replace(target, timing=stated.timing, metering=stated.metering)

    def _look(self, task: QpuTaskId) -> Mapping[str, Any]:
        """Return what the service says of a task's job."""
        job, _ = self._parsed(task)
        ended = self._ended.get(task)
        if ended is not None:
            return ended
        found = self._from_list(job)
        if found is None:
            found = self._asked(task, self._service.client.job_get, job)
        state = _state_of(found)
        with self._lock:
            if state.is_final:
                self._ended.note(task, found)
                self._open.pop(task, None)
            else:
                self._open[task] = job
        return found

    def _from_list(self, job: str) -> Mapping[str, Any] | None:
        """Return a job from one list for all open tasks, which is asked for twice a second."""
        with self._lock:
            if job not in self._open.values() or len(self._open) < 2:
                return None
        with self._listing:  # one thread asks, and all take its answer
            listed_at, listed = self._listed
            if time.monotonic() - listed_at >= _LIST_FRESH_S:
                listed = {str(one.get("id")): one for one in self._tagged(_OURS)}
                self._listed = (time.monotonic(), listed)
        return listed.get(job)

    def _tagged(self, tag: str) -> Sequence[Mapping[str, Any]]:
        """Return the newest jobs with a tag."""
        try:
            answer = self._service.asking(
                self._service.client.jobs_get,
                limit=_LISTED_JOBS,
                backend_name=self._options.device,
                job_tags=[tag],
            )
            listed = [job for job in answer["jobs"] if tag in job["tags"]]
        except Refused as error:
            raise QpuUnavailable(f"jobs cannot be listed: {error}") from error
        except (KeyError, TypeError) as error:
            raise QpuUnavailable(f"the service's list of jobs cannot be read: {error!r}") from error
        return listed

    def _cancel(self, job: str) -> None:
        try:
            self._service.asking(self._service.client.job_cancel, job)
        except Refused as error:
            if error.status == 404:
                raise UnknownTask(f"the service does not know job {job!r}: {error}") from error
            if error.status != 409:  # it has ended meanwhile
                raise QpuUnavailable(f"job {job!r} cannot be cancelled: {error}") from error

    def _asked(self, task: QpuTaskId, call: Any, job: str) -> Any:
        try:
            return self._service.asking(call, job)
        except Refused as error:
            if error.status == 404:
                with self._lock:
                    self._open.pop(task, None)
                raise UnknownTask(f"the service does not know {task}: {error}") from error
            raise QpuUnavailable(f"{task} cannot be asked for: {error}") from error

    def _parsed(self, task: QpuTaskId) -> tuple[str, StartedJob | None]:
        """Return the job of a task and its record, which another folder may hold."""
        kind, _, rest = str(task).partition(":")
        job, _, tag = rest.partition(":")
        if kind != _PREFIX or not _JOB_ID.fullmatch(job) or not is_tag(tag):
            raise UnknownTask(f"no task {task!r:.200} was ever started here")
        record = self._records.read(tag)
        return job, record if record is not None and record.job == job else None

    def _usage(
        self,
        task: QpuTaskId,
        record: StartedJob | None,
        native: PrimitiveResult[Any],
        metrics: Mapping[str, Any],
    ) -> Usage:
        stated = metrics.get("usage") or {}
        seconds = stated.get("qpu_charge_time_seconds")
        if stated.get("status", "pending") == "pending" or not isinstance(seconds, int | float):
            since_s = self._completed_at.setdefault(task, time.monotonic())
            if time.monotonic() - since_s < _SETTLES_S:
                raise QpuUnavailable(f"the usage of {task} is not known yet", retry_after_s=0.5)
        self._completed_at.pop(task, None)
        qpu_seconds = (
            float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e9 else 0.0
        )
        shots = 0 if record is None else record.shots
        charge = self._known.get_or_last()[1].metering.charge(
            qpu_seconds=qpu_seconds,
            shots=shots,
            num_qubits=0 if record is None else record.num_qubits,
        )
        return Usage(
            qpu_seconds=qpu_seconds,
            shots=shots,
            circuits=len(native) if record is None else record.circuits,
            tasks=1,
            charges=(charge,),
        )


def _state_of(job: Any) -> TaskState:
    """Return a job's state. Raises `QpuUnavailable` for what is no description of a job."""
    try:
        stated = job["state"]
        name = str(stated["status"]).upper()
        code = stated.get("reason_code") or stated.get("reasonCode")
        state = _STATES[name]
    except (AttributeError, KeyError, TypeError):
        raise QpuUnavailable(
            f"the state of a job cannot be read: {job!r:.200}; expected one of {', '.join(_STATES)}"
        ) from None
    return TaskState.FAILED if code == _RAN_TOO_LONG else state


def _most_unpacked_bytes(record: StartedJob | None) -> int:
    """Return how many bytes the arrays of a job's result may have: enough, by its shots."""
    shots = _MOST_SHOTS if record is None else record.shots
    return _UNPACKED_BYTES + shots * _UNPACKED_SHOT_BYTES


def _native(text: Any, forms: Sequence[PubForm] | None, most_bytes: int) -> PrimitiveResult[Any]:
    """Decode a result with IBM's client, and give the PUBs their own form back."""
    try:
        if isinstance(text, str):  # as the client gives it; its decoders unpack without a bound
            check_packed(text, most_bytes)
    except TooMuchPacked as error:
        raise TaskFailed(f"the result is refused unread: {error}") from error
    try:
        found: Any = reduce(
            lambda result, decoder: (
                decoder.decode(result) if decoder.is_applicable(result) else result
            ),
            DEFAULT_DECODERS[_PROGRAM],
            text,
        )
        results = list(found)
    except Exception as error:  # of IBM's decoders
        raise QpuUnavailable(
            f"the result cannot be read: {type(error).__name__}: {error!s:.200}"
        ) from error
    if forms is None:
        return PrimitiveResult(results, metadata={"version": 2})
    wanted = sum(form.parts for form in forms)
    if len(results) != wanted:
        raise TaskFailed(f"the service returned {len(results)} results; {wanted} were asked for")
    rest = iter(results)
    pubs = [form.joined([next(rest) for _ in range(form.parts)]) for form in forms]
    return PrimitiveResult(pubs, metadata={"version": 2})


def _forms(record: StartedJob) -> list[PubForm]:
    return [PubForm.from_json(stated) for stated in record.recipes]


def _task_id(job: str, tag: str) -> QpuTaskId:
    return QpuTaskId(f"{_PREFIX}:{job}:{tag}")
