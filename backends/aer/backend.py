"""The Aer backend: qpu_tasks on worker processes, found again by tag after a restart."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from backends.aer.device import device_target, join_parts
from backends.aer.factory import AerOptions, usable_cores
from backends.aer.planning import Planner
from backends.aer.spool import Record, Spool
from backends.aer.worker_pool import PendingTask, WorkerPool
from backends.api import (
    BackendError,
    PayloadRejected,
    QpuBusy,
    QpuTaskId,
    Result,
    SessionId,
    Target,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    TaskState,
    UnknownTask,
)
from backends.payloads import Payload, PubPayload, payload_from_bytes
from backends.results import result_from_bytes
from backends.sessions import Sessions
from backends.tags import is_tag
from backends.validate import check, check_tag

__all__ = ["AerBackend"]

_PREFIX = "aer-"
_MOST_PROCESSES = 8
_ORPHAN_POLL_S = 0.02
# Ended tasks whose results stay in memory; older ones are read from the spool.
_TASKS_IN_MEMORY = 256
# Larger results are read from the spool if they are asked for again.
_LARGEST_IN_MEMORY = 1 << 16
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\"():]+/)+")


class AerBackend:
    """A QPU that Qiskit Aer simulates; no process starts before `start` or `prewarm`."""

    def __init__(self, options: AerOptions, *, state_dir: Path) -> None:
        self._target, profile = device_target(options)
        self._planner = Planner(options, self._target, profile)
        self._spool = Spool(state_dir / "tasks")
        cores = usable_cores()
        self._pool = WorkerPool(
            {
                "spool": str((state_dir / "tasks").absolute()),
                "profile": options.profile,
                "noiseless": options.noiseless,
            },
            self._spool,
            processes=options.processes or min(cores, _MOST_PROCESSES),
            cores=cores,
            memory_left=self._planner.memory_left,
        )
        self._lock = threading.RLock()
        self._sessions = Sessions()
        self._pending: dict[str, PendingTask] = {}
        self._purged = False

    def target(self) -> Target:
        """Describe the simulated QPU; its calibration never changes while it lives."""
        return self._target

    def acquire(self) -> SessionId:
        """Open a session; a simulator grants as many as are asked for."""
        return self._sessions.open()

    def release(self, session: SessionId) -> None:
        """Close a session; tasks started in it go on."""
        self._sessions.close(session)

    def prewarm(self) -> None:
        """Begin to start a worker process, which takes seconds; returns at once."""
        self._pool.prewarm(1)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Queue a simulation; see ``Backend.start``. Also raises ``InsufficientMemory``."""
        self._sessions.check(session)
        check_tag(tag)
        check(payload, self._target)
        assert isinstance(payload, PubPayload)  # as is all that its target takes
        with self._lock:
            if self._known(tag):
                return QpuTaskId(_PREFIX + tag)
            self._refuse_when_full()
            pending = self._enqueue(payload, tag)
            self._purge_once()
        if pending.state is TaskState.QUEUED:
            # Accepted means it will run, though this process die before a worker is free.
            self._spool.keep_payload(tag, payload.to_bytes())
        return QpuTaskId(_PREFIX + tag)

    def find(self, tag: str) -> QpuTaskId | None:
        """Return the task of a tag, also one that an earlier process on this folder started."""
        check_tag(tag)
        return QpuTaskId(_PREFIX + tag) if self._known(tag) else None

    def status(self, task: QpuTaskId) -> TaskState:
        """Return a task's state; on a scaled clock it runs until its modelled end."""
        pending = self._pending_task(task)
        if pending is not None:
            state, end = pending.state, pending.message.facts["ends_at"]
        else:
            record = self._record_of(task)
            state, end = record.state, record.ends_at
        if state is TaskState.COMPLETED and end is not None and time.time() < end:
            return TaskState.RUNNING
        return state

    def wait(self, task: QpuTaskId, timeout_s: float) -> TaskState:
        """Block until the task is final or the time is up; see ``Waitable``."""
        deadline = time.monotonic() + timeout_s
        pending = self._pending_task(task)
        if pending is not None:
            with pending.changed:
                pending.changed.wait_for(
                    lambda: pending.state.is_final or pending.adopted, timeout_s
                )
        while not (state := self.status(task)).is_final:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, _ORPHAN_POLL_S))
        return state

    def result(self, task: QpuTaskId) -> Result:
        """Return a completed task's result; see ``Backend.result``."""
        state = self.status(task)
        if not state.is_final:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        pending = self._pending_task(task)
        if pending is not None:
            reason, parts = pending.reason, [pending.parts[part] for part in sorted(pending.parts)]
            if sum(map(len, parts)) > _LARGEST_IN_MEMORY:
                with self._lock:
                    self._pending.pop(pending.message.tag, None)  # the spool still knows it
        else:
            record = self._record_of(task)
            reason, parts = record.reason, [path.read_bytes() for path in record.results]
        if state is TaskState.FAILED:
            raise TaskFailed(f"{task} failed: {_without_folders(reason)}")
        return join_parts([result_from_bytes(part) for part in parts], self._target.metering)

    def stop(self, task: QpuTaskId) -> None:
        """Cancel a task; its simulation is killed, not asked."""
        pending = self._pending_task(task)
        if pending is not None:
            self._pool.stop(pending)
        elif not self._record_of(task).state.is_final:
            self._spool.stop_orphan(_tag_of(task))
        if not self.status(task).is_final:  # simulated already, but not done by the device's clock
            with self._lock:
                self._spool.cancel(_tag_of(task))
                self._pending.pop(_tag_of(task), None)  # the spool decides

    @property
    def pids(self) -> list[int]:
        """Process ids of the simulation processes there are now."""
        return self._pool.pids

    def close(self) -> None:
        """End all worker processes; tasks still open are cancelled."""
        self._pool.close()

    def _known(self, tag: str) -> bool:
        self._take_up(tag)
        return tag in self._pending or self._spool.read(tag) is not None

    def _enqueue(self, payload: PubPayload, tag: str) -> PendingTask:
        try:
            pending = self._planner.pending_task(
                payload, tag, now=time.time(), lock=self._pool.lock
            )
        except BackendError:
            raise
        except Exception as error:
            # Planning depends on the payload alone: it would fail as often as it is tried.
            raise PayloadRejected(
                f"this cannot be simulated: {type(error).__name__}: {error}"
            ) from error
        self._forget_old()
        self._pending[tag] = pending
        self._pool.submit(pending)
        return pending

    def _take_up(self, tag: str) -> None:
        """Queue a task again whose process died before a worker took it."""
        if tag in self._pending:
            return
        with self._lock:
            waiting = None if tag in self._pending else self._spool.waiting_payload(tag)
            if waiting is not None:
                payload = payload_from_bytes(waiting)
                assert isinstance(payload, PubPayload)
                self._enqueue(payload, tag)

    def _pending_task(self, task: QpuTaskId) -> PendingTask | None:
        """Return a task of this process unless another process has claimed it."""
        self._take_up(_tag_of(task))
        pending = self._pending.get(_tag_of(task))
        return None if pending is None or pending.adopted else pending

    def _record_of(self, task: QpuTaskId) -> Record:
        record = self._spool.judge(_tag_of(task))
        if record is None:
            raise UnknownTask(f"no task {task!r} was ever started here")
        return record

    def _refuse_when_full(self) -> None:
        most = self._target.max_concurrent_tasks
        if most is None:
            return
        tasks = [QpuTaskId(_PREFIX + tag) for tag in self._pending]
        open_tasks = sum(not self.status(task).is_final for task in tasks)
        if open_tasks >= most:
            raise QpuBusy(
                f"{self._target.name} runs {open_tasks} tasks and takes at most {most}; "
                "start again when one has ended"
            )

    def _forget_old(self) -> None:
        """Drop the oldest ended tasks; the spool still knows them."""
        if len(self._pending) < 2 * _TASKS_IN_MEMORY:  # seldom, for it looks at all of them
            return
        ended = [tag for tag, pending in self._pending.items() if pending.state.is_final]
        for tag in ended[: len(self._pending) - _TASKS_IN_MEMORY]:
            del self._pending[tag]

    def _purge_once(self) -> None:
        if not self._purged:
            self._purged = True
            threading.Thread(target=self._spool.purge, name="hpcqc-purge", daemon=True).start()


def _without_folders(reason: str) -> str:
    """Return a reason without folders, which users must not see.

    >>> _without_folders("no room: '/srv/state/tasks/a.json' (/opt/hpcqc/backends/aer/spool.py:31)")
    "no room: 'a.json' (spool.py:31)"
    """
    return _FOLDERS.sub("", reason)


def _tag_of(task: QpuTaskId) -> str:
    tag = task.removeprefix(_PREFIX)
    if tag == task or not is_tag(tag):
        raise UnknownTask(f"no task {task!r} was ever started here")
    return tag
