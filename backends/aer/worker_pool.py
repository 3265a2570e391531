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

__all__ = ["PendingTask", "WorkerPool"]

_BOOT_ATTEMPTS = 3
_KILL_S = 2.0
# A smaller state is not worth asking the system about, which takes 50 µs.
_SMALL_BYTES = 1 << 26
_NOTHING = SamplerPayload(pubs=())


@dataclass(eq=False, slots=True, kw_only=True)
class PendingTask:
    """One task in this process, guarded by the pool's lock except for ``message``.

    unsent: parts without a worker, one until it is placed. sent_again: parts whose worker died
    before it began them, once per part. adopted: another process claimed the task first.
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
    """Runs tasks on worker processes, in order of arrival, wide ones alone."""

    def __init__(
        self,
        settings: dict[str, Any],
        spool: Spool,
        *,
        processes: int,
        cores: int,
        memory_left: Callable[[int], int],
    ) -> None:
        """Start nothing; ``memory_left`` gives a simulation's bytes when others take so many."""
        self._spawner = Spawner(settings)
        self._spool = spool
        self._processes, self._cores = processes, cores
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
            for _ in range(min(processes, self._processes) - len(self._workers)):
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
        worker = WorkerProcess(self._spawner, self._on_message)
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
            return  # the existing workers run the rest
        starting = sum(not w.ready for w in self._workers)
        room = self._processes - len(self._workers)
        for _ in range(min(room, sum(len(t.unsent) for t in self._queue) - starting)):
            self._launch()

    def _may_start(self, pending: PendingTask) -> bool:
        at_work = self._running_parts()
        if not at_work:
            return True
        threaded = any(t.placement and t.placement.is_wide for t in at_work)
        if pending.log2 >= WIDE_LOG2 and threaded:
            return False  # two teams of threads slow each other down
        return self._room_for(pending) >= 1

    def _room_for(self, pending: PendingTask) -> int:
        """Return how many states of this size fit into memory beside those that run."""
        if pending.memory_bytes < _SMALL_BYTES:
            return self._processes
        taken = sum(running.memory_bytes for running in self._running_parts())
        return self._memory_left(taken) // pending.memory_bytes

    def _running_parts(self) -> list[PendingTask]:
        """Return the task of each part that a worker runs now."""
        parts = [worker.part for worker in self._workers if worker.part is not None]
        return [self._running[tag] for tag, _ in parts if tag in self._running]

    def _place(self, pending: PendingTask) -> None:
        load = MachineLoad(
            cores=self._cores,
            workers=min(self._processes, max(1, self._room_for(pending))),
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

    def _on_message(
        self, worker: WorkerProcess, header: dict[str, Any] | None, data: bytes
    ) -> None:
        with self.lock:
            if header is None:
                self._on_end(worker)
            elif header["op"] == "ready":
                worker.ready = True
                self._failed_boots = 0
            else:
                self._on_report(worker, header, data)
            if not self._closed:
                self._dispatch()

    def _on_report(self, worker: WorkerProcess, header: dict[str, Any], data: bytes) -> None:
        worker.part = None
        pending = self._running.get(header["tag"])
        if pending is None:
            return
        match header["op"]:
            case "done":
                pending.parts[header["part"]] = data
                self._note_speed(pending, time.monotonic() - worker.began)
                if len(pending.parts) == len(pending.message.blocks):
                    self._end(pending, TaskState.COMPLETED)
            case "failed":
                self._end(pending, TaskState.FAILED, header["reason"])
            case "taken":
                pending.adopted = True
                self._forget(pending)
                pending.changed.notify_all()

    def _note_speed(self, pending: PendingTask, took_s: float) -> None:
        """Tell the heuristic how fast a wide task was that had all the cores."""
        placement = pending.placement
        if placement and 2 * max(placement.parts, placement.threads) > self._cores > 1:
            self._heuristic.note(pending.log2, placement, pending.seconds / placement.parts, took_s)

    def _on_end(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        if worker.part is not None:
            tag, part = worker.part
            pending = self._running.get(tag)
            # One that is being stopped is ended by `stop`, which knows why.
            if pending and not pending.stopping and not self._take_from_spool(pending):
                self._fail_or_resend(pending, part, worker.reason)
        if self._closed:
            return
        if not worker.ready:
            self._failed_boots += 1
            if self._failed_boots >= _BOOT_ATTEMPTS and not any(w.ready for w in self._workers):
                self._fail_all(worker.reason)
                return
        if not self._workers:
            self._launch()

    def _fail_or_resend(self, pending: PendingTask, part: int, reason: str) -> None:
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
        """Cancel a task whose workers are dead, unless one had stored its result before."""
        if not pending.state.is_final and not self._take_from_spool(pending):
            self._spool.cancel(pending.message.tag)
            self._end(pending, TaskState.CANCELLED)

    def _fail_all(self, reason: str) -> None:
        """Fail all queued tasks: workers do not start."""
        self._failed_boots = 0
        while self._queue:
            pending = self._queue[0]
            why = f"simulation processes do not start: {reason}"
            self._spool.fail(pending.message.tag, why)
            self._end(pending, TaskState.FAILED, why)

    def _take_from_spool(self, pending: PendingTask) -> bool:
        """Use the record of a worker that ended before it could report; False if there is none."""
        record = self._spool.read(pending.message.tag)
        if record is None or not record.state.is_final:
            return False
        if record.state is TaskState.COMPLETED:
            pending.parts = {i: path.read_bytes() for i, path in enumerate(record.results)}
        self._end(pending, record.state, record.reason)
        return True

    def _end(self, pending: PendingTask, state: TaskState, reason: str = "") -> None:
        pending.state, pending.reason = state, reason
        # It may have megabytes, and many ended tasks stay in memory.
        pending.message = replace(pending.message, payload=_NOTHING)
        self._forget(pending)
        pending.changed.notify_all()

    def _forget(self, pending: PendingTask) -> None:
        """Let nothing more of a task start."""
        self._running.pop(pending.message.tag, None)
        if pending in self._queue:
            self._queue.remove(pending)
