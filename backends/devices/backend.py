"""A device as a backend: sessions, checks, circuits and results are made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from backends.api import (
    Backend,
    Heard,
    QpuTaskId,
    QpuUnavailable,
    Result,
    SessionId,
    Target,
    TaskFailed,
    TaskState,
    Usage,
)
from backends.devices.api import FlatDevice, FlatResult, PayloadDevice, PlainPayload, PlainResult
from backends.devices.flatten import PubLayout, flat_job, layouts, native_result
from backends.frames import unpack
from backends.latest import LatestTasks
from backends.metering import Metering, metering_to_json
from backends.payloads import Payload, SamplerPayload, payload_kind
from backends.sessions import Sessions
from backends.targets import recent_target, target_from_json
from backends.validate import check, check_tag

__all__ = [
    "DeviceBackend",
    "WaitableDeviceBackend",
    "device_backend",
    "payload_device_backend",
    "stated_target",
]

_DEFAULTS: Mapping[str, Any] = {
    "payload_kinds": [SamplerPayload.kind],
    "metering": metering_to_json(Metering()),
    "native": None,
}


class _Device(Protocol):
    """What circuits' devices and payloads' devices have in common."""

    def target(self) -> Mapping[str, Any]: ...

    def start(self, job: Any, tag: str) -> str: ...

    def find(self, tag: str) -> str | None: ...

    def status(self, task: str) -> str: ...

    def result(self, task: str) -> Any: ...

    def stop(self, task: str) -> None: ...

    def close(self) -> None: ...


class _Translation(Protocol):
    """How payloads become a device's jobs, and its results native ones."""

    def job(self, payload: Any) -> Any:
        """Return what the device starts."""
        ...

    def recipe(self, payload: Any) -> Any:
        """Return what of a payload is needed to read its result."""
        ...

    def native(self, found: Any, recipe: Any) -> Any:
        """Return a device's result as the payload's kind has it. Raises ``ValueError``."""
        ...


class _Circuits:
    """Sampler payloads as flat circuits."""

    def job(self, payload: Any) -> Any:
        return flat_job(payload)

    def recipe(self, payload: Any) -> Any:
        return layouts(payload)

    def native(self, found: Any, recipe: Any) -> Any:
        return native_result(found, recipe)


class _Payloads:
    """Payloads of any kind as their bytes state them."""

    def job(self, payload: Payload) -> PlainPayload:
        header, frames = unpack(payload.to_bytes())
        return PlainPayload(header=header, frames=tuple(frames))

    def recipe(self, payload: Payload) -> str:
        return payload.kind

    def native(self, found: PlainResult, recipe: str) -> Any:
        try:
            return payload_kind(recipe).unpack_result(found.header, list(found.frames))
        except Exception as error:  # a kind may raise anything on damage
            raise ValueError(f"{type(error).__name__}: {error}") from error


def device_backend(device: FlatDevice) -> Backend:
    """Return a device as a backend, which tells of a task's end if the device does."""
    return _backend(device, _Circuits())


def payload_device_backend(device: PayloadDevice) -> Backend:
    """Return a device for payloads of other kinds as a backend, as `device_backend` does."""
    return _backend(device, _Payloads())


def stated_target(stated: Mapping[str, Any]) -> Target:
    """Return the target that a device states. Raises ``ValueError``."""
    return target_from_json({**_DEFAULTS, **stated})


def _backend(device: _Device, translation: _Translation) -> Backend:
    made = WaitableDeviceBackend if hasattr(device, "wait") else DeviceBackend
    return made(device, translation)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """What of a task's payload is needed to read its result and to charge it."""

    recipe: Any
    circuits: int
    shots: int
    num_qubits: int


def _stated(found: Any) -> _Sent | None:
    """Return what a result states of its payload; None if it states nothing.

    Raises ``ValueError`` for what cannot be read.
    """
    if isinstance(found, FlatResult) and found.layouts:
        stated = tuple(map(PubLayout.from_json, found.layouts))
        return _Sent(
            recipe=stated,
            circuits=sum(layout.points for layout in stated),
            shots=sum(layout.points * layout.shots for layout in stated),
            num_qubits=max(layout.num_qubits for layout in stated),
        )
    if not isinstance(found, PlainResult) or not found.kind:
        return None
    return _Sent(
        recipe=found.kind, circuits=found.circuits, shots=found.shots, num_qubits=found.num_qubits
    )


class DeviceBackend:
    """A backend whose device takes payloads in another form; see ``backends.api.Backend``."""

    def __init__(self, device: _Device, translation: _Translation | None = None) -> None:
        self.device = device
        self._translation = translation or _Circuits()
        self._sessions = Sessions()
        self._sent: LatestTasks[_Sent] = LatestTasks()
        self._target = recent_target(lambda: {**_DEFAULTS, **device.target()})

    def target(self) -> Target:
        """Return what the device stated within the last second."""
        return self._target.get_or_last()

    @property
    def heard(self) -> Heard:
        """When the device last answered."""
        return self._target.heard

    def acquire(self) -> SessionId:
        """Open a session; as many as are asked for."""
        return self._sessions.open()

    def release(self, session: SessionId) -> None:
        """Close a session."""
        self._sessions.close(session)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Start a task; see ``Backend.start``."""
        self._sessions.check(session)
        check_tag(tag)
        check(payload, self.target())
        task = self.device.start(self._translation.job(payload), tag)
        shapes = payload.shapes
        sent = _Sent(
            recipe=self._translation.recipe(payload),
            circuits=sum(shape.points for shape in shapes),
            shots=sum(shape.points * shape.shots for shape in shapes),
            num_qubits=payload.num_qubits,
        )
        self._sent.note(task, sent)
        return QpuTaskId(task)

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag."""
        check_tag(tag)
        task = self.device.find(tag)
        return None if task is None else QpuTaskId(task)

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state."""
        return TaskState(self.device.status(task))

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``."""
        found = self.device.result(task)
        try:
            sent = self._sent.get(task) or _stated(found)
            if sent is None:
                raise QpuUnavailable(
                    f"{task} was started by another process, which alone can read it"
                )
            native = self._translation.native(found, sent.recipe)
        except ValueError as error:
            raise TaskFailed(f"{task} returned what was not asked for: {error}") from error
        metering = self.target().metering
        charge = metering.charge(
            qpu_seconds=found.qpu_seconds, shots=sent.shots, num_qubits=sent.num_qubits
        )
        usage = Usage(
            qpu_seconds=found.qpu_seconds,
            shots=sent.shots,
            circuits=sent.circuits,
            tasks=1,
            charges=(charge,),
        )
        return Result(native=native, usage=usage, metadata=found.metadata)

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task."""
        self.device.stop(task)

    def close(self) -> None:
        """Close the device."""
        self.device.close()


class _WaitableDevice(_Device, Protocol):
    def wait(self, task: str, timeout_s: float) -> str: ...


class WaitableDeviceBackend(DeviceBackend):
    """A `DeviceBackend` that tells of a task's end."""

    device: _WaitableDevice

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or ``timeout_s`` passed; see ``Waitable``."""
        return TaskState(self.device.wait(task, timeout_s))
