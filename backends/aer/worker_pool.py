"""The worker processes and the tasks that wait for them, run or have ended."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backends.aer.blocks import PubLoad, divide
from backends.aer.placement import (
    WIDE_LOG2,
    MachineLoad,
    Placement,
    ThreadingHeuristic,
    place,
    runnable_elsewhere,
)
from backends.aer.process import Spawner, WorkerProcess
from backends.aer.spool import Spool
from backends.aer.wire import TaskMessage, encode_task
from backends.api import TaskState
from backends.payloads import SamplerPayload

__all__ = ["PendingTask", "WorkerPool", "WorkerPoolPlan"]

_BOOT_ATTEMPTS = 3
_KILL_S = 2.0
# A smaller state is not worth asking the system about, which takes 50 µs.
_SMALL_BYTES = 1 << 26
_NOTHING = SamplerPayload(pubs=())


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPoolPlan:
    """What a pool may use. settings: given to every worker."""

    processes: int
    cores: int
    settings: dict[str, Any]


@dataclass(eq=False, slots=True, kw_only=True)
class PendingTask:
    """One task in this process. All but ``message`` is guarded by the pool's lock.

    loads: of the PUBs, in order. log2: of the largest state. memory_bytes: of it.
    unsent: parts that no worker has yet; one until it is placed. sent_again: those whose worker
    died before it began them, which happens to a part once.
    adopted: another process claimed the task first; the spool knows its state.
    """

    message: TaskMessage
    loads: Sequence[PubLoad]
    log2: int
    memory_bytes: int
    changed: threading.Condition
    state: TaskState = TaskState.QUEUED
    placement: Placement | None = None
    unsent: list[int] = field(default_factory=lambda: [0])
    sent_again: set[int] = field(default_factory=set)
    parts: dict[int, bytes] = field(default_factory=dict)
    reason: str = ""
    stopping: bool = False
    adopted: bool = False

    @property
    def seconds(self) -> float:
        """Estimated time of the whole task on one core."""
        return sum(load.seconds for load in self.loads)


class WorkerPool:
    """Runs tasks on worker processes, first come first served, wide ones alone."""

    def __init__(
        self, plan: WorkerPoolPlan, spool: Spool, *, memory_left: Callable[[int], int]
    ) -> None:
        """memory_left: bytes a simulation may take while others hold so many."""
        self._plan = plan
        self._spool = spool
        self._spawner = Spawner(plan.settings)
        self._memory_left = memory_left
        self._heuristic = ThreadingHeuristic()
        self.lock = threading.RLock()
        self._workers: list[WorkerProcess] = []
        self._queue: deque[PendingTask] = deque()
        self._running: dict[str, PendingTask] = {}
        self._failed_boots = 0
        self._closed = False

    def submit(self, pending: PendingTask) -> None:
        """Queue a task and start it at once if a worker is free."""
        with self.lock:
            self._queue.append(pending)
            self._failed_boots = 0
            self._dispatch()

    def prewarm(self, processes: int) -> None:
        """See that this many workers exist or are starting, up to the plan's number."""
        with self.lock:
            for _ in range(min(processes, self._plan.processes) - len(self._workers)):
                self._launch()

    def stop(self, pending: PendingTask) -> None:
        """Cancel a task, killing its simulation; one that has ended stays as it is."""
        with self.lock:
            if pending.state.is_final or pending.adopted:
                return
            pending.stopping = True
            if pending in self._queue:
                self._queue.remove(pending)
            mine = [w for w in self._workers if w.part and w.part[0] == pending.message.tag]
            for worker in mine:
                worker.kill()
        for worker in mine:
            worker.wait(_KILL_S)
        with self.lock:
            self._end_stopped(pending)

    def close(self) -> None:
        """End all workers; what was open is cancelled."""
        with self.lock:
            self._closed = True
            open_tasks = [*self._queue, *self._running.values()]
        for pending in open_tasks:
            self.stop(pending)
        with self.lock:
            workers = tuple(self._workers)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait(_KILL_S)
        self._spawner.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers there are now."""
        with self.lock:
            return [w.pid for w in self._workers if w.pid is not None]

    def _launch(self) -> None:
        worker = WorkerProcess(self._spawner, self._hear)
        self._workers.append(worker)
        worker.launch()

    def _dispatch(self) -> None:
        """Start what can start. The lock is held."""
        idle = deque(w for w in self._workers if w.ready and w.part is None)
        for pending in tuple(self._queue) if idle else ():
            while idle and pending.unsent and self._may_start(pending):
                if pending.placement is None:
                    self._place(pending)
                self._send_part(pending, idle.popleft())
            if not pending.unsent:
                self._queue.remove(pending)
        if self._failed_boots >= _BOOT_ATTEMPTS:
            return  # those that are there must do until the next task
        starting = sum(not w.ready for w in self._workers)
        room = self._plan.processes - len(self._workers)
        for _ in range(min(room, sum(len(t.unsent) for t in self._queue) - starting)):
            self._launch()

    def _may_start(self, pending: PendingTask) -> bool:
        at_work = self._at_work()
        if not at_work:
            return True
        threaded = any(t.placement and t.placement.is_wide for t in at_work)
        if pending.log2 >= WIDE_LOG2 and threaded:
            return False  # two teams of threads would stand in each other's way
        return self._room_for(pending) >= 1

    def _room_for(self, pending: PendingTask) -> int:
        """Return how many states of this size fit into memory beside those that run."""
        if pending.memory_bytes < _SMALL_BYTES:
            return self._plan.processes
        taken = sum(running.memory_bytes for running in self._at_work())
        return self._memory_left(taken) // pending.memory_bytes

    def _at_work(self) -> list[PendingTask]:
        """Return the task of each part that a worker runs now."""
        parts = [worker.part for worker in self._workers if worker.part is not None]
        return [self._running[tag] for tag, _ in parts if tag in self._running]

    def _place(self, pending: PendingTask) -> None:
        load = MachineLoad(
            cores=self._plan.cores,
            workers=min(self._plan.processes, max(1, self._room_for(pending))),
            busy=self._busy() if pending.log2 >= WIDE_LOG2 else 0,
        )
        pieces = sum(one.pieces for one in pending.loads)
        placement = place(pending.log2, pieces, pending.seconds, load, self._heuristic)
        blocks = tuple(divide(pending.loads, placement.parts))
        placement = replace(placement, parts=len(blocks))
        pending.placement, pending.unsent = placement, list(range(placement.parts))
        pending.message = replace(pending.message, blocks=blocks, threads=placement.threads)
        pending.state = TaskState.RUNNING
        self._running[pending.message.tag] = pending

    def _send_part(self, pending: PendingTask, worker: WorkerProcess) -> None:
        part = pending.unsent.pop(0)
        worker.part, worker.began = (pending.message.tag, part), time.monotonic()
        worker.send(encode_task(pending.message, part))

    def _busy(self) -> int:
        """Return the cores that others want: what the kernel sees, or our own that just began."""
        own = sum(worker.part is not None for worker in self._workers)
        return max(own, runnable_elsewhere())

    def _hear(self, worker: WorkerProcess, header: dict[str, Any] | None, data: bytes) -> None:
        with self.lock:
            if header is None:
                self._bury(worker)
            elif header["op"] == "ready":
                worker.ready = True
                self._failed_boots = 0
            else:
                self._note(worker, header, data)
            if not self._closed:
                self._dispatch()

    def _note(self, worker: WorkerProcess, header: dict[str, Any], data: bytes) -> None:
        worker.part = None
        pending = self._running.get(header["tag"])
        if pending is None:
            return
        match header["op"]:
            case "done":
                pending.parts[header["part"]] = data
                self._learn(pending, time.monotonic() - worker.began)
                if len(pending.parts) == len(pending.message.blocks):
                    self._end(pending, TaskState.COMPLETED)
            case "failed":
                self._end(pending, TaskState.FAILED, header["reason"])
            case "taken":
                pending.adopted = True
                self._forget(pending)
                pending.changed.notify_all()

    def _learn(self, pending: PendingTask, took_s: float) -> None:
        """Keep in mind how fast a wide task was that had all the cores."""
        placement = pending.placement
        if placement and 2 * max(placement.parts, placement.threads) > self._plan.cores > 1:
            self._heuristic.note(pending.log2, placement, pending.seconds / placement.parts, took_s)

    def _bury(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        if worker.part is not None:
            tag, part = worker.part
            pending = self._running.get(tag)
            # One that is being stopped is ended by `stop`, which knows why.
            if pending and not pending.stopping and not self._take_from_spool(pending):
                self._lose(pending, part, worker.reason)
        if self._closed:
            return
        if not worker.ready:
            self._failed_boots += 1
            if self._failed_boots >= _BOOT_ATTEMPTS and not any(w.ready for w in self._workers):
                self._give_up(worker.reason)
                return
        if not self._workers:
            self._launch()

    def _lose(self, pending: PendingTask, part: int, reason: str) -> None:
        """Fail a task whose part died with its worker, or send a part that never began again."""
        record = self._spool.read(pending.message.tag)
        began = record is not None and any(claim.part == part for claim in record.claims)
        if began or part in pending.sent_again:
            self._spool.fail(pending.message.tag, reason)
            self._end(pending, TaskState.FAILED, reason)
            return
        pending.sent_again.add(part)
        pending.unsent.append(part)
        if pending not in self._queue:
            self._queue.appendleft(pending)

    def _end_stopped(self, pending: PendingTask) -> None:
        """Settle a task whose workers are dead; one may have had its result just before."""
        if not pending.state.is_final and not self._take_from_spool(pending):
            self._spool.cancel(pending.message.tag)
            self._end(pending, TaskState.CANCELLED)

    def _give_up(self, reason: str) -> None:
        """Fail what waits: workers do not even start."""
        self._failed_boots = 0
        while self._queue:
            pending = self._queue[0]
            why = f"simulation processes do not start: {reason}"
            self._spool.fail(pending.message.tag, why)
            self._end(pending, TaskState.FAILED, why)

    def _take_from_spool(self, pending: PendingTask) -> bool:
        """Use the record of a worker that finished but could not tell; False if there is none."""
        record = self._spool.read(pending.message.tag)
        if record is None or not record.state.is_final:
            return False
        if record.state is TaskState.COMPLETED:
            pending.parts = {i: path.read_bytes() for i, path in enumerate(record.results)}
        self._end(pending, record.state, record.reason)
        return True

    def _end(self, pending: PendingTask, state: TaskState, reason: str = "") -> None:
        pending.state, pending.reason = state, reason
        # Megabytes, perhaps, and many tasks are kept that have ended.
        pending.message = replace(pending.message, payload=_NOTHING)
        self._forget(pending)
        pending.changed.notify_all()

    def _forget(self, pending: PendingTask) -> None:
        """Let nothing more of a task start."""
        self._running.pop(pending.message.tag, None)
        if pending in self._queue:
            self._queue.remove(pending)
