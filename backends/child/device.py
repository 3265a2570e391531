"""A device whose work is done by a child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.child.calls import ChildCalls
from backends.devices.api import FlatDevice, PayloadDevice
from backends.devices.coding import (
    job_to_frames,
    payload_to_frames,
    plain_result_from_frames,
    result_from_json,
)
from backends.errors import QpuUnavailable

__all__ = ["ChildDevice", "WaitableChildDevice", "child_device", "child_payload_device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coding:
    """How a device's jobs are written, and its results read."""

    job: Callable[[Any], tuple[dict[str, Any], list[bytes]]]
    result: Callable[[Mapping[str, Any], Sequence[bytes]], Any]


_CIRCUITS = _Coding(job=job_to_frames, result=lambda stated, _frames: result_from_json(stated))
_PAYLOADS = _Coding(job=payload_to_frames, result=plain_result_from_frames)


def child_device(calls: ChildCalls, *, waitable: bool) -> FlatDevice:
    """Return the device for circuits that a child serves."""
    return (WaitableChildDevice if waitable else ChildDevice)(calls, _CIRCUITS)


def child_payload_device(calls: ChildCalls, *, waitable: bool) -> PayloadDevice:
    """Return the device for other payloads that a child serves."""
    return (WaitableChildDevice if waitable else ChildDevice)(calls, _PAYLOADS)


class ChildDevice:
    """A device in a child; see ``FlatDevice`` and ``PayloadDevice`` of ``backends.devices.api``."""

    def __init__(self, calls: ChildCalls, coding: _Coding) -> None:
        self.calls, self._coding = calls, coding

    def target(self) -> Mapping[str, Any]:
        """Return the target as JSON."""
        return self.calls.target()

    def start(self, job: Any, tag: str) -> str:
        """Start a task."""
        header, frames = self._coding.job(job)
        return self.calls.start({**header, "tag": tag}, frames)

    def find(self, tag: str) -> str | None:
        """Return the task of a tag."""
        return self.calls.find(tag)

    def status(self, task: str) -> str:
        """Return a task's state."""
        return self.calls.status(task)

    def result(self, task: str) -> Any:
        """Return a completed task's result."""
        answer, frames = self.calls.result(task)
        try:
            return self._coding.result(answer, frames)
        except (KeyError, TypeError) as error:
            raise QpuUnavailable(f"the result of {task} came damaged: {error}") from error

    def stop(self, task: str) -> None:
        """Cancel a task."""
        self.calls.stop(task)

    def close(self) -> None:
        """End the child."""
        self.calls.close()


class WaitableChildDevice(ChildDevice):
    """A `ChildDevice` that tells of a task's end."""

    def wait(self, task: str, timeout_s: float) -> str:
        """Block until a task is final or the time is up; return its state."""
        return self.calls.wait(task, timeout_s)
