"""A QPU of neutral atoms behind a vendor's server: each qpu_task is one job of one sequence."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from backends.analog.device import SHOT_S, RydbergDevice
from backends.api import (
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
    Usage,
)
from backends.coupling_class import CouplingClass
from backends.latest import LatestTasks
from backends.metering import Metering
from backends.payloads import AnalogCounts, AnalogItem, AnalogPayload, Payload
from backends.recent import Recent
from backends.sessions import Sessions
from backends.shared_looks import SharedLooks
from backends.spread_looks import SpreadLooks, pause_s
from backends.started_jobs import StartedJob, StartedJobs
from backends.timing import TimingModel
from backends.validate import check, check_tag

__all__ = ["AnalogSite", "RemoteAnalogBackend", "SiteJob", "analog_target"]

_TARGET_FRESH_S = 60.0
# The server's answers about ended jobs stay in memory for a while; older ones are asked for again.
_ENDED_IN_MEMORY = 256
# A server may show a job some time after it took it, and after a gateway gave up.
_SETTLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteJob:
    """A job as its server describes it.

    reason: why it failed. counts: of its outcomes, once it is completed. qpu_seconds: where the
    server states them. facts: JSON-compatible.
    """

    state: TaskState
    reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    qpu_seconds: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class AnalogSite(Protocol):
    """What a vendor's protocol is asked. Calls raise only ``BackendError``.

    prefix: before the ids of tasks. can_find: whether `find` is authoritative. coupling_class: of the
    target.
    """

    prefix: str
    can_find: bool
    coupling_class: CouplingClass

    @property
    def heard(self) -> Heard:
        """When the server last answered."""
        ...

    def device(self) -> RydbergDevice:
        """Return the device as the server describes it."""
        ...

    def submit(self, item: AnalogItem, tag: str) -> str:
        """Send a job once and return its id, as ``SiteConnection.submit`` does."""
        ...

    def find(self, tag: str) -> str | None:
        """Return the id of the job that has a tag; not called where ``can_find`` is false."""
        ...

    def look(self, job: str) -> SiteJob:
        """Return a job. Raises ``UnknownTask``."""
        ...

    def states(self, jobs: Sequence[str]) -> Mapping[str, TaskState]:
        """Return the states of jobs by one request. Raises ``BackendError`` without a list."""
        ...

    def cancel(self, job: str) -> None:
        """Ask for the end of a job; one that has ended stays as it is."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def analog_target(
    device: RydbergDevice, *, can_find: bool, clock_scale: float, coupling_class: CouplingClass
) -> Target:
    """Return the target of a device behind a server, which states no date of its calibration."""
    digest = hashlib.sha256(device.specification.encode()).hexdigest()[:12]
    return Target(
        name=device.name,
        num_qubits=device.max_atoms,
        payload_kinds=frozenset({AnalogPayload.kind}),
        mid_circuit_measurement=False,
        max_shots=device.max_runs,
        max_circuits=1,
        max_concurrent_tasks=None,
        can_find=can_find,
        coupling_class=coupling_class,
        durable=True,
        calibration=Calibration(id=f"{device.name}-{digest}", taken_at=datetime.now(UTC)),
        metering=Metering(),
        timing=TimingModel(shot_s=SHOT_S),
        clock_scale=clock_scale,
        rydberg=device,
    )


class RemoteAnalogBackend:
    """See ``backends.api.Backend``. Nothing connects before the first call that asks the server.

    Where the server cannot be searched by tag, `find` knows the tasks whose ids arrived here, and a
    start without an answer is never repeated under its tag.
    """

    def __init__(
        self,
        site: AnalogSite,
        *,
        described: RydbergDevice | None,
        clock_scale: float,
        state_dir: Path,
    ) -> None:
        """Store the arguments.

        Args:
            site: How the server is asked.
            described: The device as the site file states it, for times without an answer.
            clock_scale: Seconds that pass for each second of the device.
            state_dir: Private and existing, for records of starts.
        """
        self._site, self._clock_scale = site, clock_scale
        self._records = StartedJobs(state_dir / "tasks")
        self._sessions = Sessions()
        self._lock = threading.Lock()
        self._ended: LatestTasks[SiteJob] = LatestTasks(_ENDED_IN_MEMORY)
        self._states: dict[QpuTaskId, TaskState] = {}  # of open tasks, as last known
        self._looks = SpreadLooks()
        self._shared: SharedLooks[TaskState] = SharedLooks(site.states)
        self._known = Recent(self._described_now, _TARGET_FRESH_S)
        if described is not None:
            self._known.suppose(self._described(described))

    def target(self) -> Target:
        """Describe the QPU as the server does; asks at most once a minute."""
        return self._known.get_or_last()

    @property
    def heard(self) -> Heard:
        """When the server last answered."""
        return self._site.heard

    def acquire(self) -> SessionId:
        """Open a session of this process; the server's own belongs to the user's job."""
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
        """Return the task of a tag: from the records, else from a server that can be searched."""
        check_tag(tag)
        record = self._records.read(tag)
        if record is not None and record.job is not None:
            return self._task_id(record.job, tag)
        if not self._site.can_find:
            return None
        # Without a record, too: another machine may have started it.
        job = self._site.find(tag)
        if job is not None:
            if record is not None:
                self._records.write(record.accepted(job))
            return self._task_id(job, tag)
        age_s = _SETTLE_S if record is None else time.time() - record.started_at_s
        if 0 <= age_s < _SETTLE_S:
            raise QpuUnavailable(
                f"the server does not show {tag} yet; it is asked again",
                retry_after_s=_SETTLE_S - age_s,
            )
        return None

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state."""
        return self._look(task)[1].state

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or the time is up.

        Of many tasks a list tells which have ended. Without one they are looked at one by one; then
        this is the state as last known.
        """
        deadline = time.monotonic() + timeout_s
        record = self._record(task)
        since_s = record.started_at_s
        while True:
            is_asked = timeout_s > 0 and self._ended.get(task) is None
            listed = self._listed(task, str(record.job)) if is_asked else None
            if listed is not None and not listed.is_final:
                rest_s = deadline - time.monotonic()
                if rest_s <= 0:
                    return listed
                time.sleep(min(self._shared.pause_s, rest_s))
                continue
            if is_asked and listed is None and not self._looks.await_turn(task, deadline):
                return self._states.get(task, TaskState.QUEUED)
            state = self._look(task)[1].state
            if state.is_final:
                return state
            self._looks.put_off(task, pause_s(time.time() - since_s))
            if time.monotonic() >= deadline:
                return state

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``."""
        record, job = self._look(task)
        if not job.state.is_final:
            raise TaskNotFinished(f"{task} is {job.state}; wait until it has ended")
        if job.state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        if job.state is TaskState.FAILED:
            raise TaskFailed(f"{task} failed: {job.reason or 'the server states no reason'}")
        atoms, shots = tuple(record.recipes[0]["atoms"]), record.shots
        counted = sum(job.counts.values())
        if counted != shots or any(len(outcome) != len(atoms) for outcome in job.counts):
            raise TaskFailed(
                f"{task} returned {counted} outcomes such as {min(job.counts, default='')!r:.60}; "
                f"expected {shots} of {len(atoms)} atoms"
            )
        seconds = record.modelled_s if job.qpu_seconds is None else job.qpu_seconds
        charge = Metering().charge(qpu_seconds=seconds, shots=shots, num_qubits=len(atoms))
        usage = Usage(qpu_seconds=seconds, shots=shots, circuits=1, tasks=1, charges=(charge,))
        metadata = {
            "calibration_id": record.calibration_id,
            "vendor_job": record.job,
            "qpu_seconds": "modelled" if job.qpu_seconds is None else "stated by the server",
            **job.facts,
        }
        native = [AnalogCounts(atoms=atoms, counts=dict(sorted(job.counts.items())))]
        return Result(native=native, usage=usage, metadata=metadata)

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task."""
        record, job = self._look(task)
        if not job.state.is_final and record.job is not None:
            self._site.cancel(record.job)

    def close(self) -> None:
        """Close the connections; jobs go on at the server."""
        self._site.close()

    def _described_now(self, known: Target | None) -> Target:
        device = self._site.device()
        return known if known is not None and known.rydberg == device else self._described(device)

    def _described(self, device: RydbergDevice) -> Target:
        return analog_target(
            device,
            can_find=self._site.can_find,
            clock_scale=self._clock_scale,
            coupling_class=self._site.coupling_class,
        )

    def _started(self, payload: Payload, tag: str) -> QpuTaskId:
        can_find = self._site.can_find
        known = self._records.read(tag) if can_find else self._records.arrived(tag)
        found = None if known is None else self.find(tag)
        if found is not None:
            return found
        try:
            target = self.target()
        except QpuUnavailable as error:
            raise QpuBusy(
                f"nothing was started: {error}", retry_after_s=error.retry_after_s
            ) from error
        check(payload, target)
        assert isinstance(payload, AnalogPayload)  # as is all that its target takes
        (item,) = payload.items
        record = _record_of(item, tag, target)
        record = self._records.send(record, lambda: self._site.submit(item, tag))
        return self._task_id(str(record.job), tag)

    def _listed(self, task: QpuTaskId, job: str) -> TaskState | None:
        """Return a task's state by the list that all share; None if it is to be looked at alone."""
        state = self._shared.look(job, self._states.get(task, TaskState.QUEUED))
        if state is not None and not state.is_final:
            self._states[task] = state
        return state

    def _look(self, task: QpuTaskId) -> tuple[StartedJob, SiteJob]:
        record = self._record(task)
        found = self._ended.get(task)
        if found is not None:
            return record, found
        found = self._site.look(str(record.job))
        with self._lock:
            if found.state.is_final:
                self._ended.note(task, found)
                self._states.pop(task, None)
                self._looks.forget(task)
                self._shared.forget(str(record.job))
            else:
                self._states[task] = found.state
        return record, found

    def _record(self, task: QpuTaskId) -> StartedJob:
        return self._records.of_task(task, self._site.prefix)

    def _task_id(self, job: str, tag: str) -> QpuTaskId:
        return QpuTaskId(f"{self._site.prefix}:{job}:{tag}")


def _record_of(item: AnalogItem, tag: str, target: Target) -> StartedJob:
    lasting_s = SHOT_S + (item.sequence.duration_ns or 0) * 1e-9
    atoms = [atom.name for atom in item.sequence.atoms]
    return StartedJob(
        tag=tag,
        job=None,
        shots=item.shots,
        circuits=1,
        num_qubits=len(atoms),
        modelled_s=round(item.shots * lasting_s, 3),
        recipes=({"atoms": atoms},),
        started_at_s=time.time(),
        calibration_id=target.calibration.id,
    )
