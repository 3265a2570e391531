"""What is known of the newest tasks, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["LatestTasks"]

# More than any QPU takes at a time, so that what is forgotten has long ended.
_MOST = 10_000

_ValueT = TypeVar("_ValueT")


class LatestTasks(Generic[_ValueT]):
    """A value for each task; those that were noted first are forgotten."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._values: OrderedDict[str, _ValueT] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, task: str, value: _ValueT) -> None:
        """Add or replace the value of a task."""
        with self._lock:
            self._values[task] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def forget(self, task: str) -> None:
        """Remove the value of a task, if there is one."""
        with self._lock:
            self._values.pop(task, None)

    def get(self, task: str) -> _ValueT | None:
        """Return the value of a task, None if there is none or it was forgotten."""
        with self._lock:
            return self._values.get(task)
