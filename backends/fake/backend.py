"""The fake QPU: exact physics on few qubits, time and faults by script."""

from __future__ import annotations

import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from qiskit.primitives import PrimitiveResult, StatevectorEstimator, StatevectorSampler
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray

from backends.api import (
    AccessDenied,
    BackendError,
    Calibration,
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
from backends.fake.records import FileRecords, MemoryRecords, StartedTask
from backends.fake.script import Script, read_script
from backends.paulis import expanded
from backends.payloads import (
    FrozenEstimatorPub,
    FrozenSamplerPub,
    Payload,
    PubPayload,
    SamplerPayload,
    payload_from_bytes,
)
from backends.sessions import Sessions
from backends.validate import check, check_tag

__all__ = ["FakeBackend", "FakeFactory", "create"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_PREFIX = "fake-"
_RETRY_AFTER_S = 0.1


def _scripted(
    method: Callable[Concatenate[FakeBackend, _P], _T],
) -> Callable[Concatenate[FakeBackend, _P], _T]:
    """Count the calls of a method, and let them fail before or after as the script says."""

    @wraps(method)
    def call(self: FakeBackend, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self._lock:
            lost = self._strike(method.__name__)
            answer = method(self, *args, **kwargs)
            if lost is not None:
                raise lost
            return answer

    return call


class FakeBackend:
    """A QPU for tests; see ``backends.api.Backend`` for the contract, `Script` for the rest.

    calls: how often each method was called. starts: how often each tag really began, which is
    what a test of exactly-once asks.

    >>> from pathlib import Path
    >>> from qiskit import QuantumCircuit
    >>> from backends.fake import create
    >>> from backends.payloads import SamplerPayload
    >>> qpu = create(
    ...     {"faults": [{"call": "start", "kind": "lost", "on": [1]}]}, state_dir=Path()
    ... )
    >>> bell = QuantumCircuit(2)
    >>> _ = bell.h(0), bell.cx(0, 1), bell.measure_all()
    >>> session = qpu.acquire()
    >>> payload = SamplerPayload.coerce([bell], shots=100, seed=1)
    >>> qpu.start(session, payload, "tag-1")
    Traceback (most recent call last):
    backends.errors.QpuUnavailable: the answer to start number 1 was lost
    >>> task = qpu.find("tag-1")
    >>> sorted(qpu.result(task).native[0].data.meas.get_counts())
    ['00', '11']
    >>> dict(qpu.starts)
    {'tag-1': 1}
    """

    def __init__(self, script: Script, *, state_dir: Path) -> None:
        self._script = script
        self._records: FileRecords | MemoryRecords = (
            FileRecords(state_dir / "fake") if script.durable else MemoryRecords()
        )
        self._sessions = Sessions()
        self._results: dict[str, Result] = {}
        self._lock = threading.RLock()
        self.calls: Counter[str] = Counter()

    @property
    def starts(self) -> Mapping[str, int]:
        """How often each tag really began."""
        with self._lock:
            return self._records.starts()

    @_scripted
    def target(self) -> Target:
        """Describe the QPU; the calibration id changes as the script drifts."""
        return replace(self._script.target, calibration=self._calibration())

    @_scripted
    def acquire(self) -> SessionId:
        """Open a session."""
        return self._sessions.open()

    @_scripted
    def release(self, session: SessionId) -> None:
        """Close a session; its tasks go on."""
        self._sessions.close(session)

    @_scripted
    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Start a task; see ``Backend.start``."""
        self._sessions.check(session)
        check_tag(tag)
        check(payload, self._script.target)
        if self._records.read(tag) is None:
            self._refuse_when_full()
            self._begin(payload, tag)
        return QpuTaskId(_PREFIX + tag)

    @_scripted
    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag; always None where the target cannot find."""
        check_tag(tag)
        known = self._script.target.can_find and self._records.read(tag) is not None
        return QpuTaskId(_PREFIX + tag) if known else None

    @_scripted
    def status(self, task: QpuTaskId) -> TaskState:
        """Return where the script says the task is by now."""
        return self._state(self._read(task)[0])

    @_scripted
    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``."""
        record, payload = self._read(task)
        state = self._state(record)
        if not state.is_final:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        if state is TaskState.FAILED:
            raise TaskFailed(f"{task} failed: task {record.number} fails by script")
        if record.tag not in self._results:
            self._results[record.tag] = self._run(record, payload)
        return self._results[record.tag]

    @_scripted
    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task that has not ended."""
        record, payload = self._read(task)
        if not self._state(record).is_final:
            self._records.write(replace(record, stopped_at=time.time()), payload)

    def close(self) -> None:
        """Do nothing: there is no process or connection to free."""

    def _begin(self, payload: Payload, tag: str) -> None:
        record = StartedTask(
            tag=tag,
            number=len(self._records.tags()) + 1,
            started_at=time.time(),
            calibration_id=self._calibration().id,
            seed=uuid.uuid4().int >> 97,
        )
        self._records.write(record, payload.to_bytes())
        self._records.count_start(tag)

    def _calibration(self) -> Calibration:
        every = self._script.drift_every
        number = len(self._records.tags()) // every if every else 0
        return replace(self._script.target.calibration, id=f"fake-{number}")

    def _refuse_when_full(self) -> None:
        most = self._script.target.max_concurrent_tasks
        records = [self._records.read(tag) for tag in self._records.tags()]
        running = sum(not self._state(found[0]).is_final for found in records if found)
        if most is not None and running >= most:
            raise QpuBusy(f"{running} tasks run, at most {most} may; start again later")

    def _state(self, record: StartedTask) -> TaskState:
        if record.stopped_at is not None:
            return TaskState.CANCELLED
        age_s = time.time() - record.started_at
        if age_s < self._script.queue_s:
            return TaskState.QUEUED
        if record.number in self._script.stuck or age_s < self._script.queue_s + self._script.run_s:
            return TaskState.RUNNING
        return TaskState.FAILED if record.number in self._script.fail else TaskState.COMPLETED

    def _read(self, task: QpuTaskId) -> tuple[StartedTask, bytes]:
        found = self._records.read(task.removeprefix(_PREFIX)) if "/" not in task else None
        if found is None or not task.startswith(_PREFIX):
            raise UnknownTask(f"no task {task!r} was ever started here")
        return found

    def _run(self, record: StartedTask, data: bytes) -> Result:
        payload = payload_from_bytes(data)
        assert isinstance(payload, PubPayload)  # as is all that its target takes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            native = _simulate(payload, record.seed)
        seconds = self._script.run_s
        metering = self._script.target.metering
        charge = metering.charge(
            qpu_seconds=seconds, shots=payload.shots, num_qubits=payload.num_qubits
        )
        usage = Usage(
            qpu_seconds=seconds,
            shots=payload.shots,
            circuits=payload.circuits,
            tasks=1,
            charges=(charge,),
        )
        methods = ["statevector"] * len(payload.pubs)
        metadata = {"method": methods, "calibration_id": record.calibration_id}
        return Result(native=native, usage=usage, metadata=metadata)

    def _strike(self, call: str) -> BackendError | None:
        """Count a call; raise if a fault stops it, or return what to raise after it."""
        self.calls[call] += 1
        number = self.calls[call]
        for fault in self._script.faults:
            if not fault.strikes(call, number):
                continue
            match fault.kind:
                case "busy":
                    raise QpuBusy(f"{call} number {number} meets a busy QPU, by script")
                case "throttled":
                    message = f"{call} number {number} is one too many, by script"
                    raise QpuBusy(message, retry_after_s=_RETRY_AFTER_S)
                case "denied":
                    raise AccessDenied(f"{call} number {number} has no valid token, by script")
                case "refused":
                    message = f"{call} number {number} does not reach the QPU, by script"
                    raise QpuUnavailable(message)
                case "error":
                    return TaskFailed(f"{call} number {number} failed, it says, by script")
                case "lost":
                    return QpuUnavailable(f"the answer to {call} number {number} was lost")
        return None


class FakeFactory:
    """Makes fake QPUs, and describes them, from options as in `read_script`."""

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> FakeBackend:
        """Return a fake QPU."""
        return FakeBackend(read_script(options), state_dir=state_dir)

    def describe(self, options: Mapping[str, Any]) -> Target:
        """Return the scripted target before any start."""
        return read_script(options).target


create = FakeFactory()


def _simulate(payload: PubPayload, seed: int) -> PrimitiveResult[Any]:
    """Run every PUB with its own seed, as Qiskit's reference primitives do."""
    results = []
    pubs: Sequence[FrozenSamplerPub | FrozenEstimatorPub] = payload.pubs
    try:
        for index, pub in enumerate(pubs):
            own = seed + index if pub.seed is None else pub.seed
            if isinstance(payload, SamplerPayload):
                job = StatevectorSampler(seed=own).run([pub.to_qiskit()])
            else:
                job = StatevectorEstimator(seed=own).run([_in_paulis(pub.to_qiskit())])
            results.append(job.result()[0])
    except Exception as error:  # whatever the simulator refuses, the task fails and says why
        raise TaskFailed(f"the fake QPU cannot simulate this: {error}") from error
    return PrimitiveResult(results, metadata={"version": 2})


def _in_paulis(pub: EstimatorPub) -> EstimatorPub:
    """Return the PUB without projectors, which Qiskit's reference estimator does not take."""
    observables = np.empty(pub.observables.shape, dtype=object)
    for place in np.ndindex(*observables.shape):
        width = pub.circuit.num_qubits
        observables[place] = expanded(pub.observables[place]) or {"I" * width: 0.0}
    return EstimatorPub(
        pub.circuit, ObservablesArray(observables), pub.parameter_values, pub.precision
    )
