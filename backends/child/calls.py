"""Calls to a child as Python calls: errors rebuilt, tasks of dead children remembered."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from backends import errors
from backends.api import TaskState
from backends.child.process import ChildDied, ChildProcess, ChildSilent
from backends.child.supervisor import ChildSupervisor
from backends.child.wire import Message
from backends.errors import BackendError, QpuBusy, QpuUnavailable, TaskFailed, UnknownTask

__all__ = ["ChildCalls"]

_TASKS = 10_000
_TARGET_S = 5.0
_ERRORS: Mapping[str, type[BackendError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, BackendError)
}


class ChildCalls:
    """What can be asked of a child, whatever it serves.

    A task of a dead child that the next one does not know has failed.
    """

    def __init__(self, supervisor: ChildSupervisor) -> None:
        self.supervisor = supervisor
        self._generations: OrderedDict[str, int] = OrderedDict()
        self._by_tag: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def target(self) -> Mapping[str, Any]:
        """Return the target as JSON; never waits long, for the broker asks on its event loop.

        Raises `QpuUnavailable` if there is no child now; the next other call starts one.
        """
        child = self.supervisor.living
        if child is None:
            raise QpuUnavailable(f"the process of backend {self.supervisor.name!r} has ended")
        try:
            answer, _ = child.ask("target", {}, timeout_s=_TARGET_S, patient=False)
        except (ChildDied, ChildSilent) as error:
            raise QpuUnavailable(f"backend {self.supervisor.name!r}: {error}") from None
        if "error" in answer:
            self._raise("target", answer)
        if not isinstance(answer.get("target"), dict):
            raise self._strange("target", answer)
        target: Mapping[str, Any] = answer["target"]
        return target

    def start(self, header: Mapping[str, Any], frames: Sequence[bytes]) -> str:
        """Start a task and return its id; that of the first one if the tag was started before."""
        known = self._by_tag.get(header["tag"])
        if known is not None:
            return known
        task: str = self._field("start", "task", header, str, frames)
        with self._lock:
            self._generations.setdefault(task, self.supervisor.generation)
            self._by_tag[header["tag"]] = task
            for noted in (self._generations, self._by_tag):
                while len(noted) > _TASKS:
                    noted.popitem(last=False)
        return task

    def find(self, tag: str) -> str | None:
        """Return the task of a tag, also one that was lost with its process: it has failed."""
        known = self._by_tag.get(tag)
        if known is not None:
            return known
        task: str | None = self._field("find", "task", {"tag": tag}, str | None)
        return task

    def status(self, task: str) -> TaskState:
        """Return a task's state; FAILED for one that was lost with its process."""
        return self._state("status", {"task": task}, 0.0)

    def wait(self, task: str, timeout_s: float) -> TaskState:
        """Block until a task is final or the time is up; return its state."""
        return self._state("wait", {"task": task, "timeout_s": timeout_s}, timeout_s)

    def result(self, task: str, **more: Any) -> Message:
        """Return the result of a completed task as it came."""
        try:
            return self.ask("result", {"task": task, **more})
        except UnknownTask:
            self._check_lost(task)
            name, end = self.supervisor.name, self.supervisor.last_end
            raise TaskFailed(f"{task} was lost with the process of {name!r}: {end}") from None

    def stop(self, task: str) -> None:
        """Cancel a task."""
        try:
            self.ask("stop", {"task": task})
        except UnknownTask:
            self._check_lost(task)

    def close(self) -> None:
        """End the child."""
        self.supervisor.close()

    def memory(self) -> dict[str, int]:
        """Return ``memory_bytes`` and ``peak_memory_bytes`` of the child."""
        return self.supervisor.child().memory()

    def ask(
        self,
        call: str,
        header: Mapping[str, Any],
        frames: Sequence[bytes] = (),
        *,
        longer_s: float = 0.0,
        child: ChildProcess | None = None,
    ) -> Message:
        """Make a call. Raises what the backend raised, or `QpuUnavailable`."""
        child = child or self.supervisor.child()
        name, limit_s = self.supervisor.name, self.supervisor.environment.call_s + longer_s
        try:
            answer, attached = child.ask(call, header, frames, timeout_s=limit_s)
        except ChildDied as error:
            raise QpuUnavailable(
                f"the process of backend {name!r} ended during {call}: {error}"
            ) from None
        except ChildSilent as error:
            raise QpuUnavailable(f"backend {name!r}: {error}") from None
        self.supervisor.answered()
        if "error" in answer:
            self._raise(call, answer)
        return answer, attached

    def _state(self, call: str, header: Mapping[str, Any], longer_s: float) -> TaskState:
        try:
            answer, _ = self.ask(call, header, longer_s=longer_s)
        except UnknownTask:
            self._check_lost(header["task"])
            return TaskState.FAILED
        try:
            return TaskState(answer["state"])
        except (KeyError, ValueError):
            raise self._strange(call, answer) from None

    def _field(
        self,
        call: str,
        field: str,
        header: Mapping[str, Any],
        kind: Any,
        frames: Sequence[bytes] = (),
    ) -> Any:
        answer, _ = self.ask(call, header, frames)
        if not isinstance(answer.get(field, ...), kind):
            raise self._strange(call, answer)
        return answer[field]

    def _strange(self, call: str, answer: Mapping[str, Any]) -> QpuUnavailable:
        return QpuUnavailable(
            f"backend {self.supervisor.name!r} answered {call} with {dict(answer)!r:.200}"
        )

    def _check_lost(self, task: str) -> None:
        """Raise `UnknownTask` unless an earlier child started this task."""
        generation = self._generations.get(task)
        if generation is None or generation == self.supervisor.generation:
            raise UnknownTask(f"no task {task!r} was ever started here")

    def _raise(self, call: str, answer: Mapping[str, Any]) -> NoReturn:
        message, name = str(answer.get("message", "")), str(answer["error"])
        retry_after_s = answer.get("retry_after_s")
        kind = _ERRORS.get(name)
        if kind in (QpuBusy, QpuUnavailable) and isinstance(retry_after_s, int | float):
            after_s = float(retry_after_s) if 0 <= retry_after_s < math.inf else None
            raise kind(message, retry_after_s=after_s)
        if kind is not None:
            raise kind(message)
        if name == "MemoryError":
            bound = self.supervisor.environment.memory_bytes
            message = f"more memory is needed than the {bound} bytes of environment_memory"
        raise QpuUnavailable(f"backend {self.supervisor.name!r} failed in {call}: {message}")
