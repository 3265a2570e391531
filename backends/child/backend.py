"""A backend whose work is done by a child process."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from backends.api import (
    AccessDenied,
    Backend,
    Heard,
    QpuTaskId,
    QpuUnavailable,
    Result,
    SessionId,
    Target,
    TaskState,
    UnknownSession,
)
from backends.child.calls import ChildCalls
from backends.child.device import child_device, child_payload_device
from backends.child.environment import Environment
from backends.child.process import Opening
from backends.child.supervisor import ChildSupervisor
from backends.devices.backend import device_backend, payload_device_backend
from backends.frames import FrameError
from backends.latest import LatestTasks
from backends.payloads import Payload
from backends.results import result_from_bytes
from backends.targets import recent_target
from backends.validate import check_fits, check_tag

__all__ = ["ChildBackend", "WaitableChildBackend", "open_child"]


def open_child(opening: Opening, environment: Environment) -> Backend:
    """Start a child and return its backend. Raises `PluginUnusable` with the reason."""
    supervisor = ChildSupervisor(opening, environment)
    about = supervisor.child().about
    calls, waitable = ChildCalls(supervisor), bool(about.get("waitable"))
    if about.get("flat"):
        return device_backend(child_device(calls, waitable=waitable))
    if about.get("plain"):
        return payload_device_backend(child_payload_device(calls, waitable=waitable))
    return (WaitableChildBackend if waitable else ChildBackend)(calls)


class ChildBackend:
    """A backend in a child; see ``backends.api.Backend``.

    calls: how the child is asked. Sessions are this process's own, so that they outlive a child.
    """

    def __init__(self, calls: ChildCalls) -> None:
        self.calls = calls
        self._target = recent_target(calls.target)
        self._sessions: dict[SessionId, tuple[int, str]] = {}
        self._leases: dict[SessionId, tuple[str, float]] = {}  # with their ends
        self._kinds: LatestTasks[str] = LatestTasks()  # of the payloads of tasks
        self._lock = threading.Lock()

    def target(self) -> Target:
        """Return the target that the child's backend stated within the last second.

        While there is no child, that is the last known one: this never waits for a new child.
        """
        return self._target.get_or_last()

    @property
    def heard(self) -> Heard:
        """When the device last answered."""
        return self._target.heard

    def acquire(self) -> SessionId:
        """Open a session of the child's backend."""
        session = SessionId(uuid.uuid4().hex)
        self._acquire(session)
        return session

    def acquire_lease(self, lease: str, longest_s: float) -> SessionId:
        """Open a session of the child's backend, for a lease if it has such; see `Leasing`."""
        session = SessionId(uuid.uuid4().hex)
        with self._lock:
            self._leases[session] = (lease, time.monotonic() + longest_s)
        self._acquire(session)
        return session

    def release(self, session: SessionId) -> None:
        """Close a session."""
        with self._lock:
            generation, inner = self._sessions.pop(session, (0, ""))
            self._leases.pop(session, None)
        if inner and generation == self.calls.supervisor.generation:
            self.calls.ask("release", {"session": inner})

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Start a task in the child; after `QpuUnavailable` ask `find`."""
        return self._start(session, payload, tag, {})

    def start_labelled(
        self, session: SessionId, payload: Payload, tag: str, labels: tuple[str, ...]
    ) -> QpuTaskId:
        """Start a task in the child, whose backend gets the labels if it hands tasks on."""
        if not self.calls.supervisor.child().about.get("labels"):
            raise AccessDenied(
                f"the environment of backend {self.calls.supervisor.name!r} has an hpcqc that knows no "
                f"labels of data, and this is labelled {', '.join(labels)}; install this version there"
            )
        return self._start(session, payload, tag, {"labels": list(labels)})

    def _start(
        self, session: SessionId, payload: Payload, tag: str, more: Mapping[str, Any]
    ) -> QpuTaskId:
        if session not in self._sessions:
            raise UnknownSession(f"session {session!r} is not open; call acquire() first")
        check_tag(tag)
        if not isinstance(getattr(payload, "kind", None), str):
            check_fits(payload, self.target())
        header = {"session": self._inner_session(session), "tag": tag, **more}
        task = self.calls.start(header, [payload.to_bytes()])
        self._kinds.note(task, payload.kind)
        return QpuTaskId(task)

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag."""
        check_tag(tag)
        task = self.calls.find(tag)
        return None if task is None else QpuTaskId(task)

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state; FAILED for one that was lost with its process."""
        return self.calls.status(task)

    def result(self, task: QpuTaskId) -> Result:
        """Return a task's result; see ``Backend.result``."""
        _, frames = self.calls.result(task, kind=self._kinds.get(task))
        try:
            return result_from_bytes(frames[0])
        except (FrameError, IndexError) as error:
            raise QpuUnavailable(f"the result of {task} came damaged: {error}") from error

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task."""
        self.calls.stop(task)

    def close(self) -> None:
        """Close the child's backend and end the child."""
        self.calls.close()

    def _acquire(self, session: SessionId) -> str:
        child = self.calls.supervisor.child()
        generation = self.calls.supervisor.generation
        if child.about.get("leasing") and session in self._leases:
            lease, ends_s = self._leases[session]
            longest_s = max(0.0, ends_s - time.monotonic())
            asked = {"lease": lease, "longest_s": longest_s}
            answer, _ = self.calls.ask("acquire_lease", asked, child=child)
        else:
            answer, _ = self.calls.ask("acquire", {}, child=child)
        inner = str(answer["session"])
        with self._lock:
            self._sessions[session] = (generation, inner)
        return inner

    def _inner_session(self, session: SessionId) -> str:
        """Return the child's session for ours; a new child gives a new one."""
        self.calls.supervisor.child()
        with self._lock:
            generation, inner = self._sessions.get(session, (0, ""))
        return inner if generation == self.calls.supervisor.generation else self._acquire(session)


class WaitableChildBackend(ChildBackend):
    """A `ChildBackend` whose backend tells of a task's end."""

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or ``timeout_s`` passed; see ``Waitable``."""
        return self.calls.wait(task, timeout_s)
