"""A device whose work is done by a child process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.child.calls import ChildCalls
from backends.devices.api import FlatDevice, FlatJob, FlatResult
from backends.devices.coding import job_to_frames, result_from_json
from backends.errors import QpuUnavailable

__all__ = ["ChildDevice", "WaitableChildDevice", "child_device"]


def child_device(calls: ChildCalls, *, waitable: bool) -> FlatDevice:
    """Return the device that a child serves."""
    return (WaitableChildDevice if waitable else ChildDevice)(calls)


class ChildDevice:
    """A device in a child; see ``backends.devices.api.FlatDevice``."""

    def __init__(self, calls: ChildCalls) -> None:
        self.calls = calls

    def target(self) -> Mapping[str, Any]:
        """Return the target as JSON."""
        return self.calls.target()

    def start(self, job: FlatJob, tag: str) -> str:
        """Start a task."""
        header, frames = job_to_frames(job)
        return self.calls.start({**header, "tag": tag}, frames)

    def find(self, tag: str) -> str | None:
        """Return the task of a tag."""
        return self.calls.find(tag)

    def status(self, task: str) -> str:
        """Return a task's state."""
        return self.calls.status(task)

    def result(self, task: str) -> FlatResult:
        """Return a completed task's result."""
        answer, _ = self.calls.result(task)
        try:
            return result_from_json(answer)
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
