"""Carries out the broker's commands on one QPU and reports what happened as events."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from backends.api import (
    AccessDenied,
    Backend,
    BackendError,
    CalibrationChanged,
    PayloadRejected,
    QpuBusy,
    QpuTaskId,
    Result,
    TaskFailed,
    TaskState,
    TokenExpired,
    UnknownSession,
    UnknownTask,
    Usage,
    Waitable,
    start_with_labels,
)
from backends.payloads import Payload
from orchestrator.broker.core import events as ev
from orchestrator.broker.runtime.pacing import STANDARD_PACING, Pacing
from orchestrator.broker.runtime.qpu_sessions import LeaseTime, QpuSessions

__all__ = ["QpuDriver", "Received", "Report"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Received:
    """A task's result, and its bytes as the ledger keeps them."""

    result: Result
    data: bytes


Report = Callable[[ev.Event, Received | None], Awaitable[None]]

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 1.0
_POLL_SHARE = 0.03
_LONGEST_POLL_S = 5.0
_LONGEST_ASKED_S = 3600.0
_WAIT_SLICE_S = 5.0
_START_TRIES = 8


# Errors of a start after which no task exists, whatever the backend can find.
_REFUSALS = (AccessDenied, CalibrationChanged, PayloadRejected)

# The QPU may know the task; it only has to be asked with other credentials.
_NO_ACCESS = (AccessDenied, TokenExpired)

# A task's state as it was last read, with its result once it is there.
_Reading = tuple[TaskState, Received | None]


@dataclass(slots=True)
class _Doubts:
    """Whether a task that is being followed is in doubt."""

    longest_task_s: float | None
    unread_looks: int
    since_s: float = field(default_factory=time.monotonic)
    faults: int = 0
    reported: bool = False  # as uncertain, which happens once; later news still counts

    @property
    def poll_pause_s(self) -> float:
        """Return a small share of the time passed: the end is noticed late by that at most."""
        passed_s = time.monotonic() - self.since_s
        return min(max(_FIRST_PAUSE_S, _POLL_SHARE * passed_s), _LONGEST_POLL_S)

    def after(self, error: Exception | None) -> str | None:
        """Return the reason why the task is in doubt after one more reading, once."""
        if isinstance(error, _NO_ACCESS):  # which says nothing about the task
            error = None
        self.faults = self.faults + 1 if error is not None else 0
        reason = None
        if isinstance(error, UnknownTask) or self.faults == self.unread_looks:
            reason = f"its state cannot be read: {type(error).__name__}: {error}"
        elif self.longest_task_s and time.monotonic() - self.since_s > self.longest_task_s:
            reason = f"it has not ended within {self.longest_task_s:g} s"
        if reason is None or self.reported:
            return None
        self.reported = True
        return reason


@dataclass(eq=False)
class QpuDriver:
    """Starts, follows and stops tasks on one QPU; each method ends by reporting an event."""

    qpu: str
    backend: Backend
    can_find: bool
    report: Report
    receive: Callable[[str, Result], Received]  # encodes a task's result, on a thread
    calls: Executor  # threads for short calls
    waits: Executor  # threads for long calls
    longest_task_s: float | None = None  # a longer one is stuck, or its end was missed: in doubt
    pacing: Pacing = STANDARD_PACING
    _sessions: QpuSessions = field(init=False)
    _tasks: dict[str, QpuTaskId] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    _unwanted: set[str] = field(default_factory=set)
    _denied: set[str] = field(default_factory=set)  # tasks whose last call had no access
    _spawned: asyncio.Future[None] | None = None
    _stopping: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        """Open nothing yet: a session is opened by the first task that needs it."""
        self._sessions = QpuSessions(self.backend, self._call)

    async def start(
        self,
        tag: str,
        read: Callable[[], Payload],
        labels: tuple[str, ...] = (),
        lease: LeaseTime | None = None,
    ) -> None:
        """Start the task, whatever it takes, and follow it to its end; `read` runs on a thread.

        labels: of the data of all jobs that it is for. lease: under which it runs.
        """
        self._sessions.begin(lease)
        payload = lru_cache(read)
        pause, lost_answers = _FIRST_PAUSE_S, 0
        while tag not in self._unwanted:
            try:
                task, reading = await self._start_once(tag, payload, labels, lease)
            except QpuBusy as error:
                await self._note_access(tag, error)
                pause = await _rest(pause, error)
            except UnknownSession as error:
                lost_answers += 1
                if lost_answers > _START_TRIES:
                    await self._fail(tag, error)
                    return
                pause = await _rest(pause)
            except Exception as error:  # noqa: BLE001  # a foreign backend may raise anything
                lost_answers += 1
                # Only these have surely started nothing: there are sites that answer with an error
                # and run the task all the same.
                rejected = isinstance(error, _REFUSALS)
                if not rejected and await self._adopt(tag):
                    return
                # What was prepared for an earlier calibration is prepared anew by its client.
                final = isinstance(error, CalibrationChanged) or (
                    isinstance(error, BackendError) and not error.retryable
                )
                if final or lost_answers > _START_TRIES:
                    await self._fail(tag, error)
                    return
                pause = await _rest(max(pause, 0.05), error)
            else:
                payload.cache_clear()  # it may be large, and the QPU has it
                await self._note_access(tag, None)
                owner = self._owner(task)
                if owner in (None, tag):
                    await self.follow(tag, task, reading)
                else:
                    reason = f"the QPU called it {task!r}, which is task {owner}"
                    await self.report(ev.TaskUncertain(tag=tag, reason=reason), None)
                return
        await self._settle(tag, ev.TaskStopped(tag=tag), None)

    async def recover(self, tag: str) -> None:
        """After a restart: adopt the task if the backend has it, else give its parts back."""
        if not await self._adopt(tag):
            await self.report(ev.TaskStopped(tag=tag), None)

    async def stop(self, tag: str) -> None:
        """Stop a running task; one whose start is under way is stopped when that is known."""
        self._unwanted.add(tag)
        if tag not in self._tasks:
            return
        for _ in range(_START_TRIES):
            try:
                await self._call(self.backend.stop, self._tasks[tag])
                return
            except UnknownTask:
                return
            except Exception:  # noqa: BLE001  # the follower reports how the task ended
                await _rest(0.1)

    async def follow(self, tag: str, task: QpuTaskId, reading: _Reading | None = None) -> None:
        """Wait for the task's end and report it; a failed poll never starts anything.

        A task that cannot be read for long is reported uncertain, and still polled. One that is not
        shown for want of valid credentials is in no doubt: that is reported of the QPU.
        """
        self._note_task(tag, task)
        doubts, pause = _Doubts(self.longest_task_s, self.pacing.unread_looks), _FIRST_PAUSE_S
        while True:
            error: Exception | None = None
            try:
                state, received = reading or await self._await_end(tag, task)
                reading = None
                await self._note_access(tag, None)
                if await self._settle_if_ended(tag, state, received):
                    return
            except (TaskFailed, PayloadRejected, CalibrationChanged) as failure:
                await self._fail(tag, failure)
                return
            except Exception as fault:  # noqa: BLE001  # the task may well still run
                error = fault
                await self._note_access(tag, fault)
            reason = doubts.after(error)
            if reason is not None:
                await self.report(ev.TaskUncertain(tag=tag, reason=reason), None)
            if isinstance(error, UnknownTask):
                return  # the QPU does not know the task any more
            if doubts.reported:
                await _rest(self.pacing.doubtful_s, error)
            elif error:
                pause = await _rest(pause, error)
            elif not isinstance(self.backend, Waitable):
                await asyncio.sleep(doubts.poll_pause_s)

    async def _settle_if_ended(self, tag: str, state: TaskState, received: Received | None) -> bool:
        if state is TaskState.CANCELLED:
            await self._settle(tag, ev.TaskStopped(tag=tag, usage=self._occupied(tag)), None)
        elif received is not None:
            usage, metadata = received.result.usage, dict(received.result.metadata)
            event = ev.TaskCompleted(tag=tag, usage=usage, metadata=metadata)
            await self._settle(tag, event, received)
        else:
            if state is TaskState.QUEUED:  # it occupies nothing yet
                self._since[tag] = time.monotonic()
            return False
        return True

    async def end_lease(self, lease: str) -> None:
        """Give back what the backend keeps for a lease; its tasks go on."""
        await self._sessions.end(lease)

    async def close(self) -> None:
        """Release the sessions and close the backend."""
        try:
            await self._sessions.close()
        finally:
            await self._call(self.backend.close)

    async def _start_once(
        self,
        tag: str,
        payload: Callable[[], Payload],
        labels: tuple[str, ...],
        lease: LeaseTime | None,
    ) -> tuple[QpuTaskId, _Reading | None]:
        """Start the task and, if the backend can wait, read it from the same thread."""
        session, loop = await self._sessions.get(lease), asyncio.get_running_loop()

        def started(task: QpuTaskId) -> None:
            if self._owner(task) not in (None, tag):
                return
            self._note_task(tag, task)
            self._spawned = asyncio.ensure_future(
                self.report(ev.TaskStarted(tag=tag, qpu_task=task), None)
            )

        def run() -> tuple[QpuTaskId, _Reading | None]:
            task = start_with_labels(self.backend, session, payload(), tag, labels)
            loop.call_soon_threadsafe(started, task)
            if isinstance(self.backend, Waitable):
                # A fault is left to the follower, which reads again and counts.
                with contextlib.suppress(Exception):
                    return task, self._read(tag, task)
            return task, None

        try:
            return await loop.run_in_executor(self.waits, run)
        except UnknownSession:
            self._sessions.forget(session)
            raise

    async def _note_access(self, tag: str, error: Exception | None) -> None:
        """Report when the QPU begins, and ends, to refuse the credentials for any task."""
        before = bool(self._denied)
        if isinstance(error, _NO_ACCESS):
            self._denied.add(tag)
        elif error is None:
            self._denied.discard(tag)
        if self._denied and not before:
            await self.report(ev.QpuAccessLost(qpu=self.qpu, reason=str(error)), None)
        elif before and not self._denied:
            await self.report(ev.QpuAccessRegained(qpu=self.qpu), None)

    def _owner(self, task: QpuTaskId) -> str | None:
        """Return the open task that goes by this id on the QPU."""
        return next((tag for tag, known in self._tasks.items() if known == task), None)

    def _occupied(self, tag: str) -> Usage:
        """Return the time for which a task is known to have been on the QPU."""
        since = self._since.get(tag)
        return Usage() if since is None else Usage(qpu_seconds=time.monotonic() - since)

    def _note_task(self, tag: str, task: QpuTaskId) -> None:
        self._tasks[tag] = task
        self._since.setdefault(tag, time.monotonic())
        if tag in self._unwanted:
            self._stopping = asyncio.ensure_future(self.stop(tag))

    async def _adopt(self, tag: str) -> bool:
        """Find the task; return False only if it was certainly never started."""
        pause = 0.05
        while True:
            try:
                task = await self._call(self.backend.find, tag)
                break
            except Exception as error:  # noqa: BLE001  # without an answer nothing may be concluded
                await self._note_access(tag, error)
                pause = await _rest(pause)
        if task is not None:
            await self.report(ev.TaskAdopted(tag=tag, qpu_task=task), None)
            await self.follow(tag, task)
            return True
        if self.can_find:
            return False
        reason = "an answer was lost and this backend cannot look a task up by its tag"
        await self.report(ev.TaskUncertain(tag=tag, reason=reason), None)
        return True

    async def _await_end(self, tag: str, task: QpuTaskId) -> _Reading:
        """Read the task, waiting a while if the backend can, and fetch its result."""
        loop = asyncio.get_running_loop()
        threads = self.waits if isinstance(self.backend, Waitable) else self.calls
        return await loop.run_in_executor(threads, self._read, tag, task)

    def _read(self, tag: str, task: QpuTaskId) -> _Reading:
        """Run on a thread: waiting, fetching and encoding in one go saves changes of threads."""
        if isinstance(self.backend, Waitable):
            state = self.backend.wait(task, _WAIT_SLICE_S)
        else:
            state = self.backend.status(task)
        if not state.is_final or state is TaskState.CANCELLED:
            return state, None
        result = self.backend.result(task)
        try:
            return state, self.receive(tag, result)
        except Exception as error:  # a result that cannot be read now never can
            raise TaskFailed(
                f"the QPU returned a result that cannot be used: {type(error).__name__}: {error}"
            ) from error

    async def _fail(self, tag: str, error: Exception) -> None:
        event = ev.TaskErred(
            tag=tag,
            error=str(error),
            error_type=type(error).__name__,
            usage=self._occupied(tag),
        )
        await self._settle(tag, event, None)

    async def _settle(self, tag: str, event: ev.Event, received: Received | None) -> None:
        self._tasks.pop(tag, None)
        self._since.pop(tag, None)
        self._unwanted.discard(tag)
        await self._note_access(tag, None)
        await self.report(event, received)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.calls, function, *arguments)


async def _rest(pause_s: float, error: Exception | None = None) -> float:
    """Sleep, as long as the device asks for if it does, and return the next, longer pause."""
    asked = getattr(error, "retry_after_s", None)
    await asyncio.sleep(pause_s if asked is None else min(max(asked, pause_s), _LONGEST_ASKED_S))
    return max(pause_s, min(pause_s * 2, _LONGEST_PAUSE_S))
