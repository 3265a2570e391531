"""What a device is: a backend without sessions that takes flat circuits, or other payloads.

Nothing here needs more than Python's standard library, so that a device runs in any environment of
an SDK. `backends.devices.backend.DeviceBackend` makes a ``Backend`` of it, on this or the other
side of a process border.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from backends.errors import PayloadRejected

__all__ = [
    "BoundStep",
    "FlatDevice",
    "FlatJob",
    "FlatPub",
    "FlatResult",
    "PayloadDevice",
    "PlainPayload",
    "PlainResult",
    "Step",
    "bound_steps",
    "point_seed",
]

# As `backends.payloads.sampler.SEED_STRIDE`, which cannot be imported without Qiskit.
_SEED_STRIDE = 2113

# Name, qubits, classical bits, number of angles. "measure" has one of each, "barrier" any qubits,
# "delay" its length in seconds in place of an angle.
Step = tuple[str, tuple[int, ...], tuple[int, ...], int]
# Name, qubits, classical bits, angles in radians.
BoundStep = tuple[str, tuple[int, ...], tuple[int, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatPub:
    """A circuit in native gates, at some parameter points.

    angles: for each point those of all steps, in order. shots: per point. seed: of the first
    point, None for a fresh one.
    """

    num_qubits: int
    num_clbits: int
    steps: tuple[Step, ...]
    angles: tuple[array[float], ...]
    shots: int
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatJob:
    """What one start carries.

    layouts: for each PUB, as JSON types, how the caller reads its counts. A device whose tasks
    outlive the caller's process stores them, and returns them with the result.
    """

    pubs: tuple[FlatPub, ...]
    layouts: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatResult:
    """What a completed task returns.

    counts: for each PUB, for each point, how often each outcome came. An outcome is a text of 0 and
    1 over all classical bits, bit 0 last, as Qiskit prints it.
    qpu_seconds: time on the device. metadata: JSON-compatible facts. layouts: those of the job, for
    a process other than the one that started the task; empty where only that one reads it.
    """

    counts: tuple[tuple[Mapping[str, int], ...], ...]
    qpu_seconds: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    layouts: tuple[Mapping[str, Any], ...] = ()


class FlatDevice(Protocol):
    """An SDK's device. Calls are prompt, come from any thread, and raise only ``BackendError``.

    Tags and states are those of ``backends.api.Backend``. A device that learns of a task's end by
    itself may also have ``wait(task, timeout_s)``.
    """

    def target(self) -> Mapping[str, Any]:
        """Return a target as ``backends.targets.target_to_json`` does; what is left out is default."""
        ...

    def start(self, job: FlatJob, tag: str) -> str:
        """Start a task and return its id."""
        ...

    def find(self, tag: str) -> str | None:
        """Return the task of a tag."""
        ...

    def status(self, task: str) -> str:
        """Return a value of ``TaskState``."""
        ...

    def result(self, task: str) -> FlatResult:
        """Return the result of a completed task."""
        ...

    def stop(self, task: str) -> None:
        """Cancel a task."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainPayload:
    """A payload of any kind as its bytes state it: what `backends.frames.unpack` returns of them."""

    header: Mapping[str, Any]
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainResult:
    """What a completed task returns: header and frames as the payload kind's ``pack_result``.

    qpu_seconds: time on the device. metadata: JSON-compatible facts. kind, circuits, shots,
    num_qubits: of the payload, where another process than the one that started the task reads it.
    """

    header: Any
    frames: tuple[bytes, ...] = ()
    qpu_seconds: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    circuits: int = 0
    shots: int = 0
    num_qubits: int = 0


class PayloadDevice(Protocol):
    """An SDK's device for payloads that are not circuits; see `FlatDevice`.

    Its target states its ``payload_kinds``.
    """

    def target(self) -> Mapping[str, Any]:
        """Return a target as ``backends.targets.target_to_json`` does; what is left out is default."""
        ...

    def start(self, job: PlainPayload, tag: str) -> str:
        """Start a task and return its id."""
        ...

    def find(self, tag: str) -> str | None:
        """Return the task of a tag."""
        ...

    def status(self, task: str) -> str:
        """Return a value of ``TaskState``."""
        ...

    def result(self, task: str) -> PlainResult:
        """Return the result of a completed task."""
        ...

    def stop(self, task: str) -> None:
        """Cancel a task."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def bound_steps(pub: FlatPub, point: int) -> Iterator[BoundStep]:
    """Yield the steps of one point with their angles."""
    angles, used = pub.angles[point], 0
    for name, qubits, clbits, count in pub.steps:
        yield name, qubits, clbits, tuple(angles[used : used + count])
        used += count
    if used != len(angles):
        raise PayloadRejected(f"{len(angles)} angles for steps that take {used}")


def point_seed(pub: FlatPub, point: int) -> int | None:
    """Return the seed of one point, so that equal circuits get different samples."""
    return None if pub.seed is None else pub.seed + _SEED_STRIDE * point
