"""A device as a backend: sessions, checks, circuits and results are made here."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from backends.api import (
    Backend,
    QpuTaskId,
    QpuUnavailable,
    Result,
    SessionId,
    Target,
    TaskFailed,
    TaskState,
    Usage,
)
from backends.devices.api import FlatDevice
from backends.devices.flatten import PubLayout, flat_job, layouts, native_result
from backends.devices.recent import RecentTarget
from backends.metering import Metering, metering_to_json
from backends.payloads import Payload, SamplerPayload
from backends.sessions import Sessions
from backends.validate import check, check_tag

__all__ = ["DeviceBackend", "WaitableDeviceBackend", "device_backend"]

_DEFAULTS: Mapping[str, Any] = {
    "payload_kinds": [SamplerPayload.kind],
    "metering": metering_to_json(Metering()),
    "native": None,
}


def device_backend(device: FlatDevice) -> Backend:
    """Return a device as a backend, which tells of a task's end if the device does."""
    return (WaitableDeviceBackend if hasattr(device, "wait") else DeviceBackend)(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """What of a task's payload is needed to read its result."""

    layouts: tuple[PubLayout, ...]
    circuits: int
    shots: int
    num_qubits: int


class DeviceBackend:
    """A backend that takes sampler payloads; see ``backends.api.Backend``."""

    def __init__(self, device: FlatDevice) -> None:
        self.device = device
        self._sessions = Sessions()
        self._sent: dict[str, _Sent] = {}  # by task
        self._lock = threading.Lock()
        self._target = RecentTarget(lambda: {**_DEFAULTS, **device.target()})

    def target(self) -> Target:
        """Return what the device stated within the last second."""
        return self._target.get()

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
        assert isinstance(payload, SamplerPayload)  # as is all that its target takes
        task = self.device.start(flat_job(payload), tag)
        self._sent[task] = _Sent(
            layouts=layouts(payload),
            circuits=payload.circuits,
            shots=payload.shots,
            num_qubits=payload.num_qubits,
        )
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
        found, sent = self.device.result(task), self._sent.get(task)
        if sent is None:
            raise QpuUnavailable(f"{task} was started by another process, which alone can read it")
        try:
            native = native_result(found, sent.layouts)
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


class _WaitableDevice(FlatDevice, Protocol):
    def wait(self, task: str, timeout_s: float) -> str: ...


class WaitableDeviceBackend(DeviceBackend):
    """A `DeviceBackend` that tells of a task's end."""

    device: _WaitableDevice

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or ``timeout_s`` passed; see ``Waitable``."""
        return TaskState(self.device.wait(task, timeout_s))
