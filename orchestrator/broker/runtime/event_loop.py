"""The asyncio shell around the state machine: writes events, then executes commands."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from backends.api import Backend, Result, Target, TaskCancelled
from backends.payloads import payload_kind
from backends.results import result_to_bytes
from backends.validate import check_usage
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.records import by_part
from orchestrator.broker.core.rules import QpuRules, Window
from orchestrator.broker.core.state import (
    BrokerState,
    Command,
    EndLease,
    FindTask,
    SettleJob,
    StartTask,
    StopTask,
)
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Entries, Ledger, LedgerError, LedgerUnwritable
from orchestrator.broker.runtime.blob_store import AT_HAND_BYTES, BlobStore
from orchestrator.broker.runtime.pacing import STANDARD_PACING, Pacing
from orchestrator.broker.runtime.qpu_driver import QpuDriver, Received
from orchestrator.broker.runtime.qpu_sessions import LeaseTime
from orchestrator.broker.runtime.site_rules import qpu_rules
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import JobId

__all__ = ["Commit", "EventLoop"]

_CALL_THREADS = 16
_WAIT_THREADS = 64
# How long the event of a task's start may wait for another event to share its commit.
_QUIET_S = 0.2
# A timer may fire a moment early by the wall clock.
_TICK_MARGIN_S = 0.001
_LONGEST_TICK_S = 3600.0
_JOBS_PER_CHECKPOINT = 2000
_RECALL_TRIES = 30
# Callers wait so long for a transaction that cannot be written.
_STALLED_CALL_S = 10.0
_log = logging.getLogger(__name__)

# Resolved when an event is durable: for a caller on the loop, or on another thread.
_Written = asyncio.Future[None] | Future[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Events that were written in one transaction, or could not be, and then ``error`` says why."""

    events: tuple[ev.Event, ...]
    at: datetime
    duration_s: float
    error: LedgerError | None = None


@dataclass(slots=True)
class _Item:
    """An event with its blobs; without one, time has passed or rules have changed."""

    event: ev.Event | None = None
    rules: tuple[str, QpuRules] | None = None  # new ones of a QPU, in force before the event
    at: datetime | None = None  # when it happened, if that is not when it is written
    payloads: Mapping[str, bytes] = field(default_factory=dict)
    results: Mapping[str, bytes] = field(default_factory=dict)
    written: _Written | None = None

    def fail(self, error: Exception) -> None:
        if self.written is not None and not self.written.done():
            self.written.set_exception(error)


@dataclass(eq=False)
class EventLoop:
    """Writes the events of one ledger scope, then executes the commands that follow from them.

    Lives on one asyncio loop. Events that arrive during a commit share the next one. If it keeps
    trying, it repeats a transaction until it is written, as on a full disk that is cleared;
    meanwhile nothing starts, and calls are refused. Else the broker stops.
    """

    scope: str
    ledger: Ledger
    clock: Callable[[], datetime]
    writer: Executor | None = None  # thread for commits; None: on the loop, quicker for one client
    checkpoint_every: int | None = None  # events until jobs are moved out of memory; needs a writer
    keeps_trying: bool = False
    observe: Callable[[Commit], None] | None = None  # after the commands; quick, raises nothing
    pacing: Pacing = STANDARD_PACING
    state: BrokerState = field(init=False)
    blobs: BlobStore = field(init=False)
    _drivers: dict[str, QpuDriver] = field(default_factory=dict)
    # For tasks of an earlier broker on QPUs that are not attached yet, by QPU.
    _deferred: dict[str, list[FindTask | StopTask]] = field(default_factory=dict)
    _leases_over: dict[str, set[str]] = field(default_factory=dict)  # the same for leases
    # Plans and payload kinds of tasks with a driver: a checkpoint may take them out of the state.
    _driven: dict[str, tuple[ev.TaskPlanned, str]] = field(default_factory=dict)
    _queue: list[_Item] = field(default_factory=list)
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    _waiters: dict[JobId, list[Future[JobState]]] = field(default_factory=dict)
    _quiet_timer: asyncio.TimerHandle | None = None
    _tick: asyncio.TimerHandle | None = None
    _final: dict[JobId, JobState] = field(default_factory=dict)
    _final_lock: threading.Lock = field(default_factory=threading.Lock)
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _broken: LedgerError | TaskCancelled | None = None
    _stalled: LedgerError | None = None
    _since_checkpoint: int = 0
    _calls: ThreadPoolExecutor = field(init=False)
    _waits: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        """Restore the state from the ledger; threads start when they are first used."""
        self.state = self.ledger.restore(self.scope)
        self.state.asleep = bool(self.state.jobs)
        self.blobs = BlobStore(self.state, self.ledger)
        self._final |= {j: r.state for j, r in self.state.jobs.items() if r.state.is_final}
        self._calls = ThreadPoolExecutor(_CALL_THREADS, thread_name_prefix="hpcqc-qpu-call")
        self._waits = ThreadPoolExecutor(_WAIT_THREADS, thread_name_prefix="hpcqc-qpu-wait")

    def attach(
        self,
        settings: QpuSettings,
        backend: Backend,
        target: Target,
        closures: Iterable[Window] = (),
    ) -> None:
        """Drive a QPU from now on, also its open tasks; its limits bound what is planned.

        closures: besides those of its settings and its target.
        """
        qpu = settings.name
        if qpu in self._drivers:
            return
        rules = qpu_rules(settings, target, self.clock(), closures)
        limits = rules.limits
        most = min(limits.max_concurrent_tasks or _WAIT_THREADS, _WAIT_THREADS)
        # Where any number of tasks may run there is nothing to keep for anybody.
        leases = None if limits.max_concurrent_tasks is None else rules.leases
        limits = replace(limits, max_concurrent_tasks=most)
        self.state.configure(qpu, replace(rules, limits=limits, leases=leases))
        self._drivers[qpu] = QpuDriver(
            qpu=qpu,
            backend=backend,
            can_find=limits.can_find,
            report=self._report,
            receive=self._receive,
            calls=self._calls,
            waits=self._waits,
            longest_task_s=settings.longest_task_s,
            pacing=self.pacing,
        )
        for command in self._deferred.pop(qpu, ()):
            if command.tag in self.state.open_tasks(qpu):
                self._execute(command)
        for lease in self._leases_over.pop(qpu, ()):
            self._execute(EndLease(qpu, lease))
        self._put(_Item())  # waiting jobs can start

    async def post(self, event: ev.Event) -> None:
        """Queue an event; return once it is durable. Raises `LedgerError`."""
        await self._put_and_wait(event=event)

    async def reconfigure(self, qpu: str, rules: QpuRules) -> None:
        """Queue other rules of a QPU; return once they are in force. Raises `LedgerError`."""
        await self._put_and_wait(rules=(qpu, rules))

    def put(self, event: ev.Event, payloads: Mapping[str, bytes], written: _Written) -> None:
        """Queue an event, on the loop; ``written`` is resolved when it is durable, or cannot be."""
        self._put(_Item(event, payloads=payloads, written=written))

    async def _put_and_wait(self, **item: Any) -> None:
        written = asyncio.get_running_loop().create_future()
        self._put(_Item(**item, written=written))
        await written

    async def serve(self) -> None:
        """Write and execute until cancelled."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            if self._quiet_timer is not None:
                self._quiet_timer.cancel()
                self._quiet_timer = None
            while self._queue:
                items, self._queue = self._queue, []
                try:
                    await self._write_then_execute(items)
                    if self._checkpoint_is_due:
                        await self.checkpoint()
                except asyncio.CancelledError:
                    self._queue = items + self._queue  # `close` fails what is not written
                    raise
                except Exception as error:  # a fault of ours: no event would be written
                    reason = f"the broker has stopped: {type(error).__name__}: {error}"
                    self._break(LedgerError(reason), items)
                    raise

    async def checkpoint(self, most: int = _JOBS_PER_CHECKPOINT) -> None:
        """Move jobs that ended a while ago into the ledger, if it takes them; not beside `serve`."""
        loop = asyncio.get_running_loop()
        before = self.clock() - timedelta(seconds=self.pacing.ended_s)
        self._since_checkpoint = 0
        try:
            gone = await loop.run_in_executor(
                self.writer,
                lambda: self.ledger.checkpoint(self.scope, self.state, before=before, most=most),
            )
        except LedgerError as error:
            _log.warning("no checkpoint was made: %s", error)
            return
        tags = [tag for job in gone for tag in self.state.jobs[job].tasks]
        self.state.forget(gone)
        for job in gone:
            self.blobs.payloads.pop(job, None)
        for tag in tags:
            if tag not in self.state.tasks:
                self.blobs.results.pop(tag, None)
        with self._final_lock:
            for job in gone:
                self._final.pop(job, None)

    @property
    def _checkpoint_is_due(self) -> bool:
        # After a failed commit the state is ahead of the ledger, and must not be stored.
        due = self.checkpoint_every and self._since_checkpoint >= self.checkpoint_every
        return bool(due) and self._broken is None

    @property
    def failure(self) -> str | None:
        """Why the broker accepts nothing now, None while it works."""
        error = self._broken or self._stalled
        return None if error is None else str(error)

    def wait_for(self, job: JobId) -> Future[JobState]:
        """Return a future of the job's next final, or uncertain, state; from any thread."""
        waiter: Future[JobState] = Future()
        with self._final_lock:
            if self._broken is not None:
                waiter.set_exception(self._broken)
            elif job in self._final:
                waiter.set_result(self._final[job])
            else:
                self._waiters.setdefault(job, []).append(waiter)
        return waiter

    async def close(self) -> None:
        """End the work on every QPU; what still runs there is left to be found again."""
        if self._tick is not None:
            self._tick.cancel()
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(
            *(driver.close() for driver in self._drivers.values()),
            return_exceptions=True,
        )
        for pool in (self._calls, self._waits):
            pool.shutdown(wait=False, cancel_futures=True)
        self._break(TaskCancelled("the broker was closed before the job had ended"), [])

    def _receive(self, tag: str, result: Result) -> Received:
        """Return a task's result and its bytes; on a thread."""
        planned, kind = self._driven[tag]
        items = len(payload_kind(kind).items(result.native))
        expected = sum(len(part.by_block()) for part in planned.parts)
        if items != expected:
            raise ValueError(f"it has {items} results for {expected} items")
        check_usage(result.usage)
        data = result_to_bytes(result, kind)
        return Received(replace(result, metadata=by_part(result.metadata, planned.parts)), data)

    async def _report(self, event: ev.Event, received: Received | None) -> None:
        results = {}
        if isinstance(event, ev.TaskCompleted) and received is not None:
            results[event.tag] = received.data
            if len(received.data) <= AT_HAND_BYTES:
                self.blobs.results[event.tag] = received.result
        quiet = isinstance(event, ev.TaskStarted)
        self._put(_Item(event, at=self.clock() if quiet else None, results=results), quiet=quiet)

    def _set_tick(self, now: datetime) -> None:
        """Ask the state machine again when time alone lets something start."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        at = self.state.next_look(now)
        if at is not None:
            delay_s = min((at - now).total_seconds(), _LONGEST_TICK_S)
            loop = asyncio.get_running_loop()
            self._tick = loop.call_later(delay_s + _TICK_MARGIN_S, self._put, _Item())

    def _put(self, item: _Item, *, quiet: bool = False) -> None:
        """Queue an item. A quiet one waits for others, since `find` can replace it."""
        if self._broken is not None:
            item.fail(self._broken)
            return
        if self._stalled is not None and item.written is not None:
            item.fail(self._stalled)
            return
        self._queue.append(item)
        if not quiet:
            self._wakeup.set()
        elif self._quiet_timer is None:
            loop = asyncio.get_running_loop()
            self._quiet_timer = loop.call_later(_QUIET_S, self._wakeup.set)

    async def _write_then_execute(self, items: list[_Item]) -> None:
        try:
            await self._retried(lambda: self._recall(items), items, LedgerError, _RECALL_TRIES)
        except LedgerError as error:
            self._break(error, items)
            return
        now = self.clock()
        items, events, commands = self._handle(items, now)
        self._set_tick(now)
        if not events:
            self._follow(items, commands)
            return
        self._since_checkpoint += len(events)
        entries = Entries(
            events=events,
            payloads={k: v for item in items for k, v in item.payloads.items()},
            results={k: v for item in items for k, v in item.results.items()}
            | await self._reusable(commands),
        )
        began, failed = time.perf_counter(), None
        try:
            # The same transaction again: one that was written without an answer is found.
            await self._retried(
                lambda: self._commit(entries), items, LedgerUnwritable, 1, _STALLED_CALL_S
            )
        except LedgerError as error:
            failed = error
        lasted_s = time.perf_counter() - began
        if failed is None:
            self._follow(items, commands)
        else:
            self._break(failed, items)
        if self.observe is not None:
            recorded = tuple(event for event, _ in events)
            self.observe(Commit(events=recorded, at=now, duration_s=lasted_s, error=failed))

    async def _recall(self, items: list[_Item]) -> None:
        """Read the jobs back that events are about and that are in the ledger alone."""
        for item in items:
            if item.event is not None:
                self.ledger.recall_for(self.scope, self.state, item.event)

    async def _commit(self, entries: Entries) -> None:
        if self.writer is None:
            self.ledger.append(self.scope, entries)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self.writer, self.ledger.append, self.scope, entries)

    async def _retried(
        self,
        action: Callable[[], Awaitable[None]],
        items: list[_Item],
        kind: type[LedgerError],
        tries: int,
        patience_s: float = 0.0,
    ) -> None:
        """Try until the ledger answers, or so often if this broker does not keep trying.

        kind: errors that pass. patience_s: after so long the callers of the items get an error.
        """
        began = time.monotonic()
        while True:
            try:
                await action()
            except kind as error:
                tries -= 1
                if self.keeps_trying:
                    late = time.monotonic() - began >= patience_s
                    self._stall(error, items if late else [])
                elif tries <= 0:
                    raise
                await asyncio.sleep(self.pacing.stalled_s)
            else:
                if self._stalled is not None:
                    _log.warning("the ledger answers again; the broker goes on")
                    self._stalled = None
                return

    async def _reusable(self, commands: list[Command]) -> dict[str, bytes]:
        ending = [command.job for command in commands if isinstance(command, SettleJob)]
        jobs = [job for job in ending if self.blobs.is_reusable(job)]
        return await asyncio.to_thread(self.blobs.reusable, jobs) if jobs else {}

    def _handle(
        self, items: list[_Item], now: datetime
    ) -> tuple[list[_Item], list[tuple[ev.Event, datetime]], list[Command]]:
        """Let the state machine decide; return what it accepted, and what follows from it."""
        accepted: list[_Item] = []
        events: list[tuple[ev.Event, datetime]] = []
        commands: list[Command] = []
        for item in items:
            at = now if item.at is None else min(item.at, now)
            if item.rules is not None:
                self.state.configure(*item.rules)
            outcome = self.state.handle(item.event, at) if item.event else self.state.tick(at)
            if outcome.refused is not None:
                item.fail(outcome.refused)
                continue
            accepted.append(item)
            events += [(event, at) for event in outcome.events]
            commands += outcome.commands
        return accepted, events, commands

    def _follow(self, items: list[_Item], commands: list[Command]) -> None:
        """Execute what follows from events that are on disk now."""
        for item in items:
            self._reopen(item.event)
        # Starts come before the answers to callers.
        for command in commands:
            self._execute(command)
        for item in items:
            if item.written is not None and not item.written.done():
                item.written.set_result(None)

    def _reopen(self, event: ev.Event | None) -> None:
        """Let clients wait again for jobs that go on with an event."""
        match event:
            case ev.JobResumed(job=job):
                jobs: tuple[JobId, ...] = (job,)
            case ev.TaskResolved(tag=tag) | ev.TaskAdopted(tag=tag):
                jobs = self.state.tasks[tag].jobs
            case _:
                return
        with self._final_lock:
            for job in jobs:
                state = self.state.jobs[job].state
                if not state.is_final and state is not JobState.UNCERTAIN:
                    self._final.pop(job, None)

    def _stall(self, error: LedgerError, items: list[_Item]) -> None:
        """Accept nothing until the ledger answers, and fail the calls of these items."""
        if self._stalled is None:
            _log.error("the broker accepts nothing until the ledger can be written: %s", error)
        self._stalled = LedgerUnwritable(
            "the broker's ledger takes no commits now, so it accepts nothing; whether this call was "
            "accepted shows when it is made again, for equal calls are one job. Operators see the "
            "reason in the broker's log, and it goes on by itself once that is mended"
        )
        for item in [*items, *self._queue]:
            item.fail(self._stalled)
        self._queue = [item for item in self._queue if item.written is None]

    def _break(self, error: LedgerError | TaskCancelled, items: list[_Item]) -> None:
        """Stop accepting: what is not on disk must have no effect."""
        for item in items + self._queue:
            item.fail(error)
        self._queue.clear()
        self._end_waits(error)

    def _end_waits(self, error: LedgerError | TaskCancelled) -> None:
        """Raise an error to all callers that wait, now or later."""
        with self._final_lock:
            self._broken = error
            waiting = [waiter for waiters in self._waiters.values() for waiter in waiters]
            self._waiters.clear()
        for waiter in waiting:
            waiter.set_exception(error)

    def _execute(self, command: Command) -> None:
        match command:
            case SettleJob(job):
                state = self.state.jobs[job].state
                with self._final_lock:
                    self._final[job] = state
                    waiting = self._waiters.pop(job, [])
                for waiter in waiting:
                    waiter.set_result(state)
            case StartTask(tag) | FindTask(tag) | StopTask(tag):
                planned = self.state.tasks[tag].planned
                driver = self._drivers.get(planned.qpu)
                if driver is not None:
                    self._spawn(self._drive(driver, command, planned))
                elif not isinstance(command, StartTask):  # its QPU cannot be opened, or is removed
                    deferred = self._deferred.setdefault(planned.qpu, [])
                    if command not in deferred:
                        deferred.append(command)
            case EndLease(qpu, lease):
                if qpu in self._drivers:
                    self._spawn(self._drivers[qpu].end_lease(lease))
                else:
                    self._leases_over.setdefault(qpu, set()).add(lease)
            case _:
                assert_never(command)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _drive(
        self, driver: QpuDriver, command: StartTask | FindTask | StopTask, planned: ev.TaskPlanned
    ) -> None:
        if isinstance(command, StopTask):
            await driver.stop(planned.tag)
            return
        kind = self.state.jobs[planned.parts[0].job].submitted.payload_kind
        self._driven[planned.tag] = planned, kind
        try:
            if isinstance(command, FindTask):
                await driver.recover(planned.tag)
            else:
                await driver.start(
                    planned.tag,
                    lambda: self.blobs.task_payload(planned.parts),
                    self.state.task_labels(planned.tag),
                    self._lease_time(planned.tag),
                )
        finally:
            del self._driven[planned.tag]

    def _lease_time(self, tag: str) -> LeaseTime | None:
        """Return the lease that a task runs under, with the time that is left of it."""
        opened = self.state.lease_of(tag)
        if opened is None:
            return None
        longest_s = max(0.0, (opened.until - self.clock()).total_seconds())
        return LeaseTime(lease=opened.lease, longest_s=longest_s)
