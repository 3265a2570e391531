"""What a QPU is to hpcqc: the backend protocol, its target, states, usage and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NewType, Protocol, runtime_checkable

from backends.analog.device import RydbergDevice
from backends.coupling_class import CouplingClass
from backends.errors import (
    AccessDenied,
    BackendError,
    CalibrationChanged,
    InsufficientMemory,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    TokenExpired,
    UnknownSession,
    UnknownTask,
)
from backends.metering import Charge, Metering
from backends.timing import TimingModel

if TYPE_CHECKING:
    from qiskit.primitives import PrimitiveResult

    from backends.payloads import Payload

__all__ = [
    "AccessDenied",
    "Backend",
    "BackendError",
    "Calibration",
    "CalibrationChanged",
    "Dated",
    "Forwarding",
    "Heard",
    "InsufficientMemory",
    "Leasing",
    "PayloadRejected",
    "QpuBusy",
    "QpuTaskId",
    "QpuUnavailable",
    "QualityWindow",
    "Result",
    "SessionId",
    "Target",
    "TaskCancelled",
    "TaskFailed",
    "TaskNotFinished",
    "TaskState",
    "TokenExpired",
    "UnknownSession",
    "UnknownTask",
    "Usage",
    "Waitable",
    "start_with_labels",
]

SessionId = NewType("SessionId", str)
QpuTaskId = NewType("QpuTaskId", str)


class TaskState(StrEnum):
    """Where a qpu_task is in its life; it only ever moves down this list.

    QUEUED and RUNNING are open; COMPLETED, FAILED and CANCELLED are final.
    """

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no further change of state can happen."""
        return self in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What qpu_tasks consumed. Usages add; an empty one is the neutral element.

    qpu_seconds: time on the device in seconds, measured or, for a profile, modelled.
    shots: shots executed, summed over circuits and parameter points.
    circuits: bound circuits executed. tasks: qpu_tasks counted in.
    charges: what the site bills for it, one amount per unit.
    """

    qpu_seconds: float = 0.0
    shots: int = 0
    circuits: int = 0
    tasks: int = 0
    charges: tuple[Charge, ...] = ()

    def __add__(self, other: Usage) -> Usage:
        """Sum two usages; charges add per unit, sorted by unit."""
        amounts: dict[str, float] = {}
        for charge in self.charges + other.charges:
            amounts[charge.unit] = amounts.get(charge.unit, 0.0) + charge.amount
        return Usage(
            qpu_seconds=self.qpu_seconds + other.qpu_seconds,
            shots=self.shots + other.shots,
            circuits=self.circuits + other.circuits,
            tasks=self.tasks + other.tasks,
            charges=tuple(Charge(amount=a, unit=u) for u, a in sorted(amounts.items())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a completed qpu_task returns: the native result, its usage, and how it was made.

    native: qiskit's ``PrimitiveResult`` with one entry per PUB of the payload, in order.
    metadata: JSON-compatible facts: simulation ``method`` per PUB, ``calibration_id``, …
    """

    native: PrimitiveResult[Any]
    usage: Usage
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A dated snapshot of device properties. ``valid_until`` None means: until replaced."""

    id: str
    taken_at: datetime
    valid_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityWindow:
    """Daily time, in UTC, within which the site vouches for results. Hours as ``HH:MM``."""

    start: str
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a QPU accepts and how it charges, as its backend publishes it.

    num_qubits: physical qubits, the resonator not counted; None where only memory limits.
    native_gates: gate names in Qiskit's spelling; None accepts every gate Qiskit can define.
    coupling: undirected pairs that two-qubit gates may use; None means all to all.
    resonator: index of the central resonator of a star, one past the last qubit, or None.
    max_shots: shots per PUB and qpu_task; max_circuits: bound circuits per qpu_task.
    coalesces: whether the broker should pack PUBs of several calls into one qpu_task.
    uniform_shots: whether all PUBs of a qpu_task must have the same shots.
    can_find: ``find`` is authoritative; None from it means the tag was never started.
    durable: a new backend instance with the same options still knows all its task ids.
    clock_scale: seconds that pass for each QPU-second of ``timing``: 1 for a device, other values
    for a simulated one, 0 for one whose tasks end at once.
    coupling_class: how soon a program has an answer and may ask again. ``batch``: each task waits in a
    queue that others fill, for minutes to days; ``interactive``: a run can hold the QPU, and tasks
    follow each other within seconds; ``realtime``: answers come within microseconds, while qubits
    live. None if it is not known; a site file may state it.
    rydberg: limits of a device of neutral atoms, which takes analog sequences; else None.
    native: the vendor's or Qiskit's own description, for its transpiler.
    sources: where values are from, by dotted name (``"timing.init_s"``), for people.
    """

    name: str
    num_qubits: int | None
    payload_kinds: frozenset[str]
    native_gates: tuple[str, ...] | None = None
    coupling: tuple[tuple[int, int], ...] | None = None
    resonator: int | None = None
    unusable_qubits: tuple[int, ...] = ()
    site_transpiles: bool = False
    mid_circuit_measurement: bool = True
    max_shots: int | None = None
    max_circuits: int | None = None
    max_concurrent_tasks: int | None = 1
    coalesces: bool = False
    uniform_shots: bool = False
    can_find: bool = True
    durable: bool = False
    calibration: Calibration
    metering: Metering
    timing: TimingModel | None = None
    quality_windows: tuple[QualityWindow, ...] = ()
    credential_lifetime_s: float | None = None
    clock_scale: float = 1.0
    coupling_class: CouplingClass | None = None
    rydberg: RydbergDevice | None = None
    native: Any = field(default=None, compare=False, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


class Backend(Protocol):
    """A QPU, or something that behaves like one.

    Every call is synchronous and prompt (well under a second), may come from any thread,
    and raises only ``BackendError``. Ids are strings that carry all the state a caller
    needs. The life cycle is QRMI's (acquire, start, status, result, stop, release, target),
    with payloads typed by paradigm and a tag on every start.
    """

    def target(self) -> Target:
        """Describe the QPU as it is now; the calibration in it may differ between calls."""
        ...

    def acquire(self) -> SessionId:
        """Open a session. Never queues: raises ``QpuBusy`` when none can be granted."""
        ...

    def release(self, session: SessionId) -> None:
        """Close a session; releasing twice, or an unknown id, does nothing."""
        ...

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Start a qpu_task and return its id without waiting for it.

        Starting the same tag twice returns the first task's id and starts nothing.
        Raises ``PayloadRejected`` if the target can never run it, ``QpuBusy`` if not now,
        ``UnknownSession`` for a session that is not open. After ``QpuUnavailable`` the
        caller must ``find(tag)`` before trying again.
        """
        ...

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task that was started with this tag, or None if there is none."""
        ...

    def status(self, task: QpuTaskId) -> TaskState:
        """Return the state of a task; states only move forward. Raises ``UnknownTask``."""
        ...

    def result(self, task: QpuTaskId) -> Result:
        """Return the result of a completed task, as often as asked.

        Raises ``TaskFailed`` with the reason, ``TaskCancelled``, ``TaskNotFinished``
        or ``UnknownTask``. A task that failed since the QPU was calibrated, or since it cannot run
        the payload, may raise ``CalibrationChanged`` or ``PayloadRejected`` in place of the first.
        """
        ...

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task; a final one is left as it is. Raises ``UnknownTask``."""
        ...

    def close(self) -> None:
        """Free local processes and connections; running tasks are stopped if they are local.

        The instance is not used afterwards. Closing twice does nothing.
        """
        ...


@runtime_checkable
class Waitable(Protocol):
    """A backend that can tell of a task's end without being polled (optional)."""

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or ``timeout_s`` passed; return its state then."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """When a device last answered, in seconds since the epoch; None if it never did.

    silent_since_s: when it was first asked in vain since then; None if its last answer came.
    """

    at_s: float | None = None
    silent_since_s: float | None = None


@runtime_checkable
class Dated(Protocol):
    """A backend whose target may be what was last known, and which says so (optional)."""

    @property
    def heard(self) -> Heard:
        """When the device itself last answered."""
        ...


@runtime_checkable
class Leasing(Protocol):
    """A backend that has sessions in which the device is kept for one loop (optional)."""

    def acquire_lease(self, lease: str, longest_s: float) -> SessionId:
        """Open a session as ``acquire`` does, for the tasks of one lease alone.

        lease: by which a later instance finds what this one opened at the device, to use it on, or
        to close it with ``release``. longest_s: the lease is over then, whether released or not.
        """
        ...


@runtime_checkable
class Forwarding(Protocol):
    """A backend that hands tasks on to another broker, which has to know of the data (optional)."""

    def start_labelled(
        self, session: SessionId, payload: Payload, tag: str, labels: tuple[str, ...]
    ) -> QpuTaskId:
        """Start a qpu_task as ``start`` does, with the labels of its data.

        Raises ``AccessDenied``, with nothing sent, where the labels would not be heeded.
        """
        ...


def start_with_labels(
    backend: Backend, session: SessionId, payload: Payload, tag: str, labels: tuple[str, ...]
) -> QpuTaskId:
    """Start a qpu_task; a backend that hands it on gets the labels of its data, too."""
    if labels and isinstance(backend, Forwarding):
        return backend.start_labelled(session, payload, tag, labels)
    return backend.start(session, payload, tag)
