"""Keeps one child alive: restarts a dead one at the next call, and not too often."""

from __future__ import annotations

import threading
import time

from backends.child.environment import Environment
from backends.child.process import ChildProcess, Opening
from backends.errors import QpuUnavailable
from backends.plugins import PluginUnusable

__all__ = ["ChildSupervisor"]

# After that many ends in a row without an answer in between, restarts wait.
_QUICK_RESTARTS = 2
_LONGEST_PAUSE_S = 60.0


class ChildSupervisor:
    """A child and its successors.

    generation: how many children there were. last_end: how the last one ended.
    """

    def __init__(self, opening: Opening, environment: Environment) -> None:
        self._opening, self.environment = opening, environment
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._failures = 0
        self._not_before = 0.0
        self._closed = False
        self.generation = 0
        self.last_end = ""

    @property
    def name(self) -> str:
        """Name of the backend."""
        return self._opening.backend

    @property
    def living(self) -> ChildProcess | None:
        """The child, if there is one now; starts none and does not wait."""
        child = self._child
        return None if child is None or child.dead else child

    def child(self) -> ChildProcess:
        """Return the living child, a new one if there is none.

        Raises `PluginUnusable` if the first cannot be opened, `QpuUnavailable` if a later one.
        """
        with self._lock:
            if self._closed:
                raise QpuUnavailable(f"backend {self.name!r} was closed")
            if self._child is not None and not self._child.dead:
                return self._child
            if self._child is not None:
                self.last_end = self._child.dead
                self._child = None
                self._count_failure()
            self._refuse_too_early()
            self._child = self._started()
            self.generation += 1
            return self._child

    def answered(self) -> None:
        """Note that a child does its work."""
        self._failures = 0

    def close(self) -> None:
        """End the child; no other follows."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.close()

    def _started(self) -> ChildProcess:
        try:
            return ChildProcess(self._opening, self.environment)
        except PluginUnusable as error:
            if self.generation == 0:
                raise
            self._count_failure()
            raise QpuUnavailable(f"{error} (it worked before)") from error

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures > _QUICK_RESTARTS:
            pause_s = min(2.0 ** (self._failures - _QUICK_RESTARTS), _LONGEST_PAUSE_S)
            self._not_before = time.monotonic() + pause_s

    def _refuse_too_early(self) -> None:
        left = self._not_before - time.monotonic()
        if left > 0:
            raise QpuUnavailable(
                f"the process of backend {self.name!r} ended {self._failures} times in a row; the "
                f"last time {self.last_end}. It is started again in {left:.0f} s",
                retry_after_s=left,
            )
