"""Devices whose SDK does its work in this process: tasks on a thread."""

from __future__ import annotations

import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from backends.devices.api import FlatJob, FlatPub, FlatResult, PlainPayload, PlainResult
from backends.errors import (
    BackendError,
    PayloadRejected,
    QpuBusy,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    UnknownTask,
)

__all__ = [
    "LocalDevice",
    "LocalPayloadDevice",
    "LocalTasks",
    "PayloadRunner",
    "PointSampler",
    "Stopped",
    "Stopping",
]

_ENDED_TASKS = 1000
# Nobody else works in this process.
_OURS = {"coupling_class": "interactive"}

_JobT = TypeVar("_JobT")
_ResultT = TypeVar("_ResultT")


class Stopped(Exception):
    """Raised by `Stopping.check` in a task that was stopped."""


class Stopping:
    """Whether a running task was stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._cancel: Callable[[], object] | None = None

    def check(self) -> None:
        """Raise `Stopped` if the task was stopped; call it between parts of the work."""
        if self._stopped:
            raise Stopped

    def cancel_with(self, cancel: Callable[[], object] | None) -> None:
        """Have ``cancel`` called when the task is stopped; at once if it is already."""
        with self._lock:
            self._cancel = cancel
            stopped = self._stopped
        if stopped and cancel is not None:
            cancel()

    def stop(self) -> None:
        """Stop the task."""
        with self._lock:
            self._stopped = True
            cancel = self._cancel
        if cancel is not None:
            cancel()


class PointSampler(Protocol):
    """An SDK's device that runs one circuit at a time.

    name: of the device. refusal: why it runs nothing, None if it runs circuits.
    """

    name: str
    refusal: str | None

    def target(self) -> Mapping[str, Any]:
        """Return the target, as ``FlatDevice.target`` does."""
        ...

    def sample(self, pub: FlatPub, point: int, stopping: Stopping) -> Mapping[str, int]:
        """Run a PUB at one point to its end and return its counts, as in `FlatResult`.

        Called in a thread; whatever it raises is the reason of the task's failure.
        """
        ...


class PayloadRunner(Protocol):
    """An SDK's device that takes payloads of another kind than circuits.

    name: of the device. refusal: why it runs nothing, None if it runs payloads.
    """

    name: str
    refusal: str | None

    def target(self) -> Mapping[str, Any]:
        """Return the target, as ``PayloadDevice.target`` does."""
        ...

    def run(self, payload: PlainPayload, stopping: Stopping) -> PlainResult:
        """Run a payload to its end.

        Called in a thread; whatever it raises is the reason of the task's failure.
        """
        ...


@dataclass(slots=True, kw_only=True)
class _Task(Generic[_ResultT]):
    state: str = "queued"
    stopping: Stopping = field(default_factory=Stopping)
    result: _ResultT | None = None
    reason: str = ""


class LocalTasks(Generic[_JobT, _ResultT]):
    """The tasks of a device, which run one after the other in a thread.

    work: runs a job to its end. refusal: why none runs, or None. most: tasks that may be open at a
    time.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[_JobT, Stopping], _ResultT],
        *,
        refusal: str | None = None,
        most: int = 1,
    ) -> None:
        self._name, self._do, self._refusal, self._most = name, work, refusal, most
        self._tasks: OrderedDict[str, _Task[_ResultT]] = OrderedDict()
        self._changed = threading.Condition()
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="hpcqc-device")

    def start(self, job: _JobT, tag: str) -> str:
        """See ``FlatDevice.start``."""
        if self._refusal is not None:
            raise PayloadRejected(self._refusal)
        with self._changed:
            if self._task_id(tag) not in self._tasks:
                still_open = sum(_is_open(task) for task in self._tasks.values())
                if still_open >= self._most:
                    raise QpuBusy(
                        f"{self._name} runs {still_open} tasks and takes at most {self._most}; "
                        "start again when one has ended"
                    )
                self._forget_old()
                task: _Task[_ResultT] = _Task()
                self._tasks[self._task_id(tag)] = task
                self._threads.submit(self._work, task, job)
        return self._task_id(tag)

    def find(self, tag: str) -> str | None:
        """See ``FlatDevice.find``."""
        return self._task_id(tag) if self._task_id(tag) in self._tasks else None

    def status(self, task: str) -> str:
        """See ``FlatDevice.status``."""
        return self._known(task).state

    def wait(self, task: str, timeout_s: float) -> str:
        """Return a task's state when it has ended, or when the time is up."""
        known = self._known(task)
        with self._changed:
            self._changed.wait_for(lambda: not _is_open(known), timeout_s)
        return known.state

    def result(self, task: str) -> _ResultT:
        """See ``FlatDevice.result``."""
        known = self._known(task)
        if _is_open(known):
            raise TaskNotFinished(f"{task} is {known.state}; wait until it has ended")
        if known.state == "cancelled":
            raise TaskCancelled(f"{task} was cancelled")
        if known.result is None:
            raise TaskFailed(f"{task} failed: {known.reason}")
        return known.result

    def stop(self, task: str) -> None:
        """See ``FlatDevice.stop``."""
        known = self._known(task)
        with self._changed:
            if not _is_open(known):
                return
            known.state = "cancelled"
            self._changed.notify_all()
        known.stopping.stop()

    def close(self) -> None:
        """Stop all tasks."""
        for task in list(self._tasks):
            self.stop(task)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _work(self, task: _Task[_ResultT], job: _JobT) -> None:
        with self._changed:
            if not _is_open(task):
                return
            task.state = "running"
        result, reason = None, ""
        try:
            result = self._do(job, task.stopping)
        except Stopped:
            return
        except BackendError as error:
            reason = str(error)
        except MemoryError:
            reason = "it needs more memory than its process may use"
        except BaseException as error:  # noqa: BLE001 - an SDK may raise anything
            reason = f"{type(error).__name__}: {error}"
        with self._changed:
            if _is_open(task):
                task.result, task.reason = result, reason
                task.state = "failed" if result is None else "completed"
                self._changed.notify_all()

    def _known(self, task: str) -> _Task[_ResultT]:
        known = self._tasks.get(task)
        if known is None:
            raise UnknownTask(f"no task {task!r} was ever started here")
        return known

    def _task_id(self, tag: str) -> str:
        return f"{self._name}-{tag}"

    def _forget_old(self) -> None:
        ended = [name for name, task in self._tasks.items() if not _is_open(task)]
        for name in ended[: max(0, len(ended) - _ENDED_TASKS)]:
            del self._tasks[name]


def _is_open(task: _Task[Any]) -> bool:
    return task.state in ("queued", "running")


class LocalDevice(LocalTasks[FlatJob, FlatResult]):
    """A ``FlatDevice`` that runs circuits one after the other, point by point."""

    def __init__(self, sampler: PointSampler, *, most: int = 1) -> None:
        super().__init__(sampler.name, self._run, refusal=sampler.refusal, most=most)
        self._sampler = sampler

    def target(self) -> Mapping[str, Any]:
        """See ``FlatDevice.target``."""
        return {**_OURS, **self._sampler.target(), "max_concurrent_tasks": self._most}

    def _run(self, job: FlatJob, stopping: Stopping) -> FlatResult:
        started = time.monotonic()
        counts = tuple(
            tuple(self._sampled(pub, point, stopping) for point in range(len(pub.angles)))
            for pub in job.pubs
        )
        return FlatResult(
            counts=counts,
            qpu_seconds=time.monotonic() - started,
            metadata=_facts(self._name, self._sampler.target()),
        )

    def _sampled(self, pub: FlatPub, point: int, stopping: Stopping) -> Mapping[str, int]:
        stopping.check()
        counts = self._sampler.sample(pub, point, stopping)
        stopping.check()
        return counts


class LocalPayloadDevice(LocalTasks[PlainPayload, PlainResult]):
    """A ``PayloadDevice`` that runs payloads one after the other."""

    def __init__(self, runner: PayloadRunner, *, most: int = 1) -> None:
        super().__init__(runner.name, self._run, refusal=runner.refusal, most=most)
        self._runner = runner

    def target(self) -> Mapping[str, Any]:
        """See ``PayloadDevice.target``."""
        return {**_OURS, **self._runner.target(), "max_concurrent_tasks": self._most}

    def _run(self, payload: PlainPayload, stopping: Stopping) -> PlainResult:
        stopping.check()
        started = time.monotonic()
        found = self._runner.run(payload, stopping)
        stopping.check()
        return replace(
            found,
            qpu_seconds=found.qpu_seconds or time.monotonic() - started,
            metadata={**_facts(self._name, self._runner.target()), **found.metadata},
        )


def _facts(name: str, target: Mapping[str, Any]) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "device": name,
        "calibration_id": target["calibration"]["id"],
        "peak_memory_bytes": peak,
    }
