"""The device behind a rehearsed site: a queue of jobs, simulated one after another."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends import registry
from backends.api import (
    Backend,
    BackendError,
    Calibration,
    QpuTaskId,
    Result,
    Target,
    TaskState,
    Usage,
    Waitable,
)
from backends.payloads import Payload
from backends.profiles import Profile, load_profile, profile_text
from backends.simulator import simulated_device
from backends.validate import check

__all__ = ["RehearsedDevice", "RehearsedJob", "Simulator"]

_LOOK_S = 0.2
_MOST_JOBS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """A backend that simulates a device without a profile. title: of the device, in words."""

    title: str
    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class RehearsedJob:
    """A job of the server. Times in seconds since the epoch; label: the client's reference."""

    id: str
    label: str
    payload: Payload
    details: Any  # what the dialect stores with it
    calibration: Calibration
    received_at: float
    state: TaskState = TaskState.QUEUED
    started_at: float | None = None
    ended_at: float | None = None
    result: Result | None = None
    error: str = ""
    fate: str = ""  # "stuck", "failed", or nothing
    stopped: threading.Event = field(default_factory=threading.Event)


class RehearsedDevice:
    """A site's device with its profile's noise, clock and limits. Any thread may call.

    Circuits arrive on physical qubits in native gates, also where the site's usual door transpiles.
    """

    def __init__(
        self,
        profile: str | Simulator,
        *,
        folder: Path,
        clock_scale: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare the device; `open` starts its thread.

        Args:
            profile: Name of a shipped profile, or a path; or a simulator that needs none.
            folder: Private and existing, for the simulator's files.
            clock_scale: Seconds that pass for each second of the device; 0 never waits.
            clock: The time in seconds since the epoch.
        """
        self._profile = None if isinstance(profile, Simulator) else load_profile(profile)
        self.clock_scale = clock_scale
        if isinstance(profile, Simulator):
            backend, options = profile.backend, dict(profile.options)
            self.title = profile.title
        else:
            native = _native_profile(profile, self.profile, folder)
            backend, options = simulated_device(str(native))
            self.title = self.profile.title
        options["time_scale"] = clock_scale
        self._backend: Backend = registry.create(backend, options, state_dir=folder / "device")
        self.target = self._backend.target()
        self._clock = clock
        self.calibrations: list[Calibration] = []
        self._jobs: dict[str, RehearsedJob] = {}
        self._queue: list[RehearsedJob] = []
        self._starts: Counter[str] = Counter()
        self._usage = Usage()
        self._provisional = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self.recalibrate()

    @property
    def profile(self) -> Profile:
        """The profile that is simulated. Raises ``ValueError`` for a device without one."""
        if self._profile is None:
            raise ValueError(f"{self.title} is simulated without a profile")
        return self._profile

    @property
    def credential_lifetime_s(self) -> float | None:
        """How long the site's tokens are valid; None for those that last."""
        return None if self._profile is None else self._profile.credential_lifetime_s

    def open(self) -> None:
        """Begin to run jobs."""
        prewarm = getattr(self._backend, "prewarm", None)
        if prewarm is not None:
            prewarm()
        self._thread = threading.Thread(target=self._run_all, name="rehearsed-device", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the running job and all processes."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._backend.close()

    @property
    def calibration(self) -> Calibration:
        """The newest calibration."""
        return self.calibrations[-1]

    def recalibrate(self, *, forget: bool = False) -> Calibration:
        """Calibrate anew. forget: earlier calibrations are not known any more."""
        taken_at = datetime.fromtimestamp(self._clock(), UTC)
        made = Calibration(id=str(uuid.uuid4()), taken_at=taken_at)
        with self._changed:
            if forget:
                self.calibrations.clear()
            self.calibrations.append(made)
        return made

    def known_calibration(self, name: str | None) -> Calibration | None:
        """Return the calibration of an id, the newest for None, or None if it is not known."""
        if name is None:
            return self.calibration
        return next((one for one in self.calibrations if one.id == name), None)

    def submit(
        self,
        payload: Payload,
        *,
        label: str = "",
        calibration: Calibration | None = None,
        details: Any = None,
        fate: str = "",
    ) -> RehearsedJob:
        """Queue a job. Raises ``PayloadRejected`` for one that the device can never run."""
        check(payload, self.target)
        job = RehearsedJob(
            id=str(uuid.uuid4()),
            label=label,
            payload=payload,
            details=details,
            calibration=calibration or self.calibration,
            received_at=self._clock(),
            fate=fate,
        )
        with self._changed:
            if len(self._jobs) >= _MOST_JOBS:
                self._jobs.pop(next(iter(self._jobs)))
            self._jobs[job.id] = job
            self._queue.append(job)
            self._starts[label] += 1
            self._changed.notify_all()
        return job

    def job(self, name: str) -> RehearsedJob | None:
        """Return a job by its id."""
        return self._jobs.get(name)

    def position(self, job: RehearsedJob) -> int | None:
        """Return how many jobs are before a waiting one; None if it does not wait."""
        with self._changed:
            return self._queue.index(job) if job in self._queue else None

    def queue_length(self) -> int:
        """Return how many jobs have not ended."""
        with self._changed:
            return sum(not job.state.is_final for job in self._jobs.values())

    def wait(self, job: RehearsedJob, timeout_s: float) -> TaskState:
        """Block until a job has ended or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: job.state.is_final, timeout_s)
        return job.state

    def cancel(self, job: RehearsedJob) -> TaskState:
        """Cancel a job that has not ended; one that is running is interrupted."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, TaskState.CANCELLED)
        job.stopped.set()
        return self.wait(job, 10.0)

    def free(self) -> None:
        """End the jobs that are stuck, which not every site's clients can cancel."""
        with self._changed:
            for job in self._jobs.values():
                if job.fate == "stuck" and not job.state.is_final:
                    job.stopped.set()

    def meter(self) -> dict[str, Any]:
        """Return what the site's own books say: jobs by state and label, and what they used.

        ``provisional`` counts jobs that completed outside the site's quality windows.
        """
        with self._changed:
            states = Counter(job.state.value for job in self._jobs.values())
            return {
                "jobs": len(self._jobs),
                "states": dict(states),
                "starts": dict(self._starts),
                "qpu_seconds": self._usage.qpu_seconds,
                "shots": self._usage.shots,
                "circuits": self._usage.circuits,
                "charges": {charge.unit: charge.amount for charge in self._usage.charges},
                "calibration": self.calibration.id,
                "provisional": self._provisional,
            }

    def _run_all(self) -> None:
        session = self._backend.acquire()
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing.is_set())
                if self._closing.is_set():
                    return
                job = self._queue.pop(0)
                job.state, job.started_at = TaskState.RUNNING, self._clock()
                self._changed.notify_all()
            state, result, error = self._run(session, job)
            with self._changed:
                job.result, job.error = result, error
                self._end(job, state)

    def _run(self, session: Any, job: RehearsedJob) -> tuple[TaskState, Result | None, str]:
        """Run a job to its end; one that is stuck ends when it is cancelled or freed."""
        if job.fate == "stuck":
            while not job.stopped.wait(_LOOK_S) and not self._closing.is_set():
                pass
            return TaskState.CANCELLED, None, ""
        if job.fate == "failed":
            return TaskState.FAILED, None, "the control electronics stopped in the middle of it"
        try:
            task = self._backend.start(session, job.payload, job.id)
            state = self._follow(task, job)
            if state is not TaskState.COMPLETED:
                return state, None, ""
            found = self._backend.result(task)
            return state, _in_whole_milliseconds(found, job.payload, self.target), ""
        except BackendError as error:
            return TaskState.FAILED, None, str(error)

    def _follow(self, task: QpuTaskId, job: RehearsedJob) -> TaskState:
        assert isinstance(self._backend, Waitable)  # as the simulator is
        while True:
            state = self._backend.wait(task, _LOOK_S)
            if state.is_final:
                return state
            if job.stopped.is_set() or self._closing.is_set():
                self._backend.stop(task)

    def _end(self, job: RehearsedJob, state: TaskState) -> None:
        job.state, job.ended_at = state, self._clock()
        if job.result is not None:
            self._usage += job.result.usage
            self._provisional += bool(job.result.metadata.get("provisional"))
        self._changed.notify_all()


def _native_profile(name: str, profile: Profile, folder: Path) -> Path | str:
    """Return a profile that takes native circuits as they are, which some sites transpile."""
    if not profile.site_transpiles:
        return name
    text = profile_text(name)
    path = folder / f"{profile.name}.toml"
    path.write_text(text.replace("site_transpiles = true", "site_transpiles = false"), "utf-8")
    return path


def _in_whole_milliseconds(result: Result, payload: Payload, target: Target) -> Result:
    """Return a result whose usage is in the unit in which servers state times."""
    seconds = round(result.usage.qpu_seconds, 3)
    charge = target.metering.charge(
        qpu_seconds=seconds, shots=result.usage.shots, num_qubits=payload.num_qubits
    )
    return replace(result, usage=replace(result.usage, qpu_seconds=seconds, charges=(charge,)))
