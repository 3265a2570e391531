"""A QPU behind the broker of another site: each qpu_task is one job there."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends.api import (
    AccessDenied,
    CalibrationChanged,
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
)
from backends.connection import Answer, SiteConnection, path_part
from backends.hpcqc.factory import BrokerOptions
from backends.hpcqc.requests import (
    BYTES,
    accepted_at,
    content_digest,
    failure_of,
    is_job,
    job_request,
    refusal_of,
    result_of,
    run_name,
    state_of,
    unheeded,
)
from backends.latest import LatestTasks
from backends.payloads import Payload
from backends.recent import Recent
from backends.sessions import Sessions
from backends.spread_looks import SpreadLooks, pause_s
from backends.started_jobs import StartedJob, StartedJobs
from backends.targets import target_from_json
from backends.validate import check, check_tag

__all__ = ["BrokerBackend"]

_PREFIX = "hpcqc"
# The other broker reads and checks a payload before it answers.
_ANSWER_S = 120.0
# Many callers ask for the target, one after the other; the device is not calibrated that often.
_TARGET_FRESH_S = 1.0
_LONGEST_WAIT_S = 30.0
# Requests that wait for the end of a job. A broker gives a user 64 connections, unless its site says
# otherwise, and starts need some, too.
_MOST_HELD = 32
# For so long a request without an answer may still be on its way through proxies and queues.
_IN_FLIGHT_S = 10.0
_ENDED_IN_MEMORY = 256
# Of a result, for each shot: more than any circuit's classical bits, a byte for each.
_LEAST_SHOT_BYTES = 1024


class BrokerBackend:
    """A QPU behind another broker. Nothing connects before the first call that asks it.

    Jobs are looked up by tag: each is a run of its own there, whose name has the tag and the id of
    this state folder. Equal requests are one job, so a start is repeated safely.
    """

    def __init__(self, options: BrokerOptions, *, state_dir: Path) -> None:
        """Store the arguments. state_dir: existing folder of this QPU's own."""
        self._options, self._state_dir = options, state_dir
        self._connection = SiteConnection(
            options.url, options.token, answer_s=_ANSWER_S, link=options.link
        )
        self._records = StartedJobs(state_dir / "tasks")
        self._sessions = Sessions()
        self._lock = threading.RLock()
        self._held = threading.BoundedSemaphore(_MOST_HELD)
        self._looks = SpreadLooks()
        self._open: dict[QpuTaskId, TaskState] = {}
        self._seen_at: dict[QpuTaskId, float] = {}
        self._ended: LatestTasks[Mapping[str, Any]] = LatestTasks(_ENDED_IN_MEMORY)
        self._client: str | None = None
        self._known = Recent(self._asked_target, _TARGET_FRESH_S)
        self._accepts = Recent(self._asked_labels, _TARGET_FRESH_S)

    def target(self) -> Target:
        """Describe the QPU as the other broker does; asks at most once a second.

        While it does not answer, this is the QPU as it was last known.
        """
        return self._known.get_or_last()

    @property
    def heard(self) -> Heard:
        """When the server last answered."""
        return self._connection.heard

    def acquire(self) -> SessionId:
        """Open a session, of which the other broker has no notion."""
        return self._sessions.open()

    def release(self, session: SessionId) -> None:
        """Close a session; its tasks go on."""
        self._sessions.close(session)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Submit a job; see ``Backend.start``.

        Also raises ``CalibrationChanged`` if the QPU was calibrated meanwhile, and ``AccessDenied``
        if the other site refuses the token, the project, its budget or the data's labels.
        """
        return self.start_labelled(session, payload, tag, ())

    def start_labelled(
        self, session: SessionId, payload: Payload, tag: str, labels: tuple[str, ...]
    ) -> QpuTaskId:
        """Submit a job with labels of its data, beside those of the option; see `start`.

        Nothing is sent to a broker that does not state that it accepts each of them.
        """
        self._sessions.check(session)
        check_tag(tag)
        with self._records.starting(tag):
            return self._started(payload, tag, _joined(self._options.labels, labels))

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag; the other broker is asked if a start got no answer.

        Raises ``QpuUnavailable`` while such a start may still be under way.
        """
        check_tag(tag)
        record = self._records.read(tag)
        if record is None:
            return None
        task = self._recorded_or_listed(record)
        age_s = time.time() - record.started_at_s
        if task is None and 0 <= age_s < _IN_FLIGHT_S:
            raise QpuUnavailable(
                f"the start of {tag} got no answer {age_s:.0f} s ago and may still arrive",
                retry_after_s=1.0,
            )
        return task

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state.

        Raises ``QpuUnavailable``, too, if the other broker is uncertain about it.
        """
        return self._look(task, 0.0)[0]

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or the time is up; the other broker answers at its end.

        Of many tasks it holds the requests of some, and the others are looked at one by one. Then
        this is the state as last known.
        """
        _job_of(task)
        deadline = time.monotonic() + timeout_s
        while True:
            is_asked = timeout_s > 0 and self._ended.get(task) is None
            if is_asked and not self._looks.await_turn(task, deadline):
                return self._open.get(task, TaskState.QUEUED)
            now = time.monotonic()
            since = self._seen_at.setdefault(task, now)
            is_held = self._held.acquire(blocking=False)
            try:
                wait_s = min(max(deadline - now, 0.0), _LONGEST_WAIT_S) if is_held else 0.0
                state, _ = self._look(task, wait_s)
            finally:
                if is_held:
                    self._held.release()
            if state.is_final:
                return state
            self._looks.put_off(task, pause_s(now - since))
            if time.monotonic() >= deadline:
                return state

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``.

        Raises ``CalibrationChanged`` or ``PayloadRejected``, too, where the job failed with that.
        """
        state, job = self._look(task, 0.0)
        if not state.is_final:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        if state is TaskState.FAILED:
            raise failure_of(job)
        answer = self._connection.read(
            "GET", f"/v1/jobs/{_job_of(task)}/result", larger_bytes=_largest_bytes(job)
        )
        if answer.status != 200:
            raise QpuUnavailable(f"the result of {task} cannot be read: {answer.reason}")
        if answer.content_digest not in (None, content_digest(answer.content)):
            raise QpuUnavailable(f"the result of {task} arrived damaged; it is read again")
        try:
            return result_of(job, answer.content)
        except ValueError as error:
            raise TaskFailed(
                f"the result of {task} cannot be read: {error}; use the same version of hpcqc at "
                "both sites"
            ) from error

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task, also on the other site's QPU."""
        answer = self._connection.read("POST", f"/v1/jobs/{_job_of(task)}/cancel")
        if answer.status == 404:
            raise UnknownTask(f"the other broker does not know {task}: {answer.reason}")
        if not answer.is_success:
            raise QpuUnavailable(f"{task} cannot be cancelled: {answer.reason}")

    def close(self) -> None:
        """Close the connections; jobs go on at the other site."""
        self._connection.close()

    def _started(self, payload: Payload, tag: str, labels: tuple[str, ...]) -> QpuTaskId:
        earlier = self._records.read(tag)
        try:
            known = None if earlier is None else self._recorded_or_listed(earlier)
            if known is not None:
                return known
            target = self.target()
            self._check_accepted(labels)
            check(payload, target)
            self._records.check_room(target, list(self._open), self.status)
        except QpuUnavailable as error:
            raise QpuBusy(
                f"nothing was started: {error}", retry_after_s=error.retry_after_s
            ) from error
        body = payload.to_bytes()
        anywhere = target.native_gates is None or target.site_transpiles
        headers = job_request(
            payload,
            run=run_name(self._client_id(), tag),
            qpu=self._options.qpu,
            project=self._options.project,
            labels=labels,
            calibration="" if anywhere else target.calibration.id,
        )
        headers = {**headers, "Content-Type": BYTES, "Content-Digest": content_digest(body)}
        record = self._records.send(
            _record_of(payload, tag, target),
            lambda: self._accepted(
                self._connection.submit("/v1/jobs", body, headers=headers), labels
            ),
        )
        return self._opened(str(record.job))

    def _check_accepted(self, labels: tuple[str, ...]) -> None:
        """Raise `AccessDenied` unless the other broker states that it accepts all labels."""
        if not labels:
            return
        accepted = self._accepts.get()
        missing = sorted(set(labels) - accepted)
        if missing:
            listed = ", ".join(sorted(accepted)) or "no label"
            raise AccessDenied(
                f"{self._options.url} accepts {listed} at QPU {self._options.qpu!r}, and the data is "
                f"labelled {', '.join(missing)}; nothing was sent there"
            )

    def _asked_labels(self, _known: frozenset[str] | None) -> frozenset[str]:
        answer = self._connection.read("GET", "/v1/qpus")
        try:
            listed = answer.json() if answer.is_success else None
            found = accepted_at(listed, self._options.qpu)
        except ValueError as error:
            raise QpuUnavailable(
                f"the labels that {self._options.url} accepts cannot be read: {answer.reason}"
            ) from error
        if found is None:
            raise AccessDenied(
                f"{self._options.url} does not say which labels of data it accepts, so labelled data "
                "is not sent there; its operators install a newer hpcqc"
            )
        return found

    def _accepted(self, answer: Answer, labels: tuple[str, ...]) -> str:
        """Return the job's id, or raise what the other broker's refusal means."""
        if not answer.is_success:
            error = refusal_of(answer.status, answer.error, answer.reason)
            if isinstance(error, CalibrationChanged):
                self._known.forget()
            raise error
        job = answer.error.get("id")
        if not is_job(job):
            raise QpuUnavailable(f"the other broker accepted a job and calls it {job!r:.100}")
        dropped = unheeded(labels, answer.error)
        if dropped:
            self._connection.read("POST", f"/v1/jobs/{job}/cancel")
            raise AccessDenied(
                f"{self._options.url} took job {job} without the labels {', '.join(dropped)} of its "
                "data; it was cancelled there, and its operators should hear of it"
            )
        return str(job)

    def _recorded_or_listed(self, record: StartedJob) -> QpuTaskId | None:
        """Return the task of a start: from its record, else by asking."""
        if record.job is not None:
            return QpuTaskId(f"{_PREFIX}:{record.job}")
        params = {"run": run_name(self._client_id(), record.tag), "limit": 1}
        answer = self._connection.read("GET", "/v1/jobs", params=params)
        try:
            listed = answer.json() if answer.is_success else None
            jobs = [one["id"] for one in listed or ()]
        except (ValueError, TypeError, KeyError):
            listed, jobs = None, []
        if listed is None or not all(map(is_job, jobs)):
            raise QpuUnavailable(f"the jobs of {record.tag} cannot be listed: {answer.reason}")
        return self._accept(record, jobs[0]) if jobs else None

    def _accept(self, record: StartedJob, job: str) -> QpuTaskId:
        self._records.write(record.accepted(job))
        return self._opened(job)

    def _opened(self, job: str) -> QpuTaskId:
        task = QpuTaskId(f"{_PREFIX}:{job}")
        with self._lock:
            if self._ended.get(task) is None:
                self._open.setdefault(task, TaskState.QUEUED)
        return task

    def _look(self, task: QpuTaskId, wait_s: float) -> tuple[TaskState, Mapping[str, Any]]:
        """Ask for a task's state, until ``wait_s`` or its end; also return the job."""
        path = f"/v1/jobs/{_job_of(task)}"
        ended = self._ended.get(task)
        if ended is not None:
            return TaskState(ended["state"]), ended
        params = {"wait_s": f"{wait_s:.3f}"} if wait_s > 0 else None
        answer = self._connection.read("GET", path, params=params, longer_s=wait_s)
        if answer.status == 404:
            self._forget(task)
            raise UnknownTask(f"the other broker does not know {task}: {answer.reason}")
        job = answer.error if answer.is_success else {}
        try:
            state = state_of(job)
        except ValueError as error:
            raise QpuUnavailable(
                f"the state of {task} cannot be read: HTTP {answer.status}, {error}"
            ) from None
        if state is None:
            raise QpuUnavailable(
                f"the other site does not know whether {task} runs, and its operators settle that"
            )
        with self._lock:
            if state.is_final:
                self._ended.note(task, job)
                self._forget(task)
            elif self._open.get(task) is TaskState.RUNNING:
                state = TaskState.RUNNING  # one of its slices ended, and the next one waits
            else:
                self._open[task] = state
        return state, job

    def _forget(self, task: QpuTaskId) -> None:
        with self._lock:
            self._open.pop(task, None)
            self._seen_at.pop(task, None)
        self._looks.forget(task)

    def _asked_target(self, _known: Target | None) -> Target:
        answer = self._connection.read("GET", f"/v1/qpus/{path_part(self._options.qpu)}/target")
        if answer.status == 404:
            raise AccessDenied(f"{self._options.url} has no such QPU: {answer.reason}")
        if not answer.is_success:
            raise QpuUnavailable(f"the target cannot be read: {answer.reason}")
        try:
            stated = target_from_json(answer.json())
        except ValueError as error:
            raise QpuUnavailable(
                f"the target that {self._options.url} states cannot be read: {error}; use the same "
                "version of hpcqc at both sites"
            ) from error
        return replace(
            stated,
            max_concurrent_tasks=self._options.tasks,
            can_find=True,
            durable=True,
            credential_lifetime_s=None,  # of the other site's own credentials
        )

    def _client_id(self) -> str:
        """Return the id of this state folder, made once, so that no other site has it."""
        if self._client is None:
            path = self._state_dir / "client"
            if not path.exists():
                draft = path.with_name(f"client.{uuid.uuid4().hex}")
                draft.write_text(uuid.uuid4().hex[:16], encoding="ascii")
                try:
                    os.link(draft, path)  # another process may have been first
                except FileExistsError:
                    pass
                finally:
                    draft.unlink()
            self._client = path.read_text("ascii")
        return self._client


def _record_of(payload: Payload, tag: str, target: Target) -> StartedJob:
    shapes = payload.shapes
    return StartedJob(
        tag=tag,
        job=None,
        shots=sum(shape.points * shape.shots for shape in shapes),
        circuits=sum(shape.points for shape in shapes),
        num_qubits=payload.num_qubits,
        modelled_s=0.0,
        recipes=(),
        started_at_s=time.time(),
        calibration_id=target.calibration.id,
    )


def _joined(*several: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({label for labels in several for label in labels}))


def _job_of(task: QpuTaskId) -> str:
    kind, _, job = str(task).partition(":")
    if kind != _PREFIX or not is_job(job):
        raise UnknownTask(f"no task {task!r:.200} was ever started here")
    return job


def _largest_bytes(job: Mapping[str, Any]) -> int:
    """Return how much longer than usual a job's result may be."""
    shots, qubits = job.get("shots"), job.get("num_qubits")
    counted = shots if isinstance(shots, int) and shots > 0 else 0
    width = qubits if isinstance(qubits, int) and qubits > 0 else 0
    return counted * max(_LEAST_SHOT_BYTES, 8 * width)
