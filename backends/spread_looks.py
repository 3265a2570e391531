"""When to look at the tasks of a site whose protocol has no list of them: one after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from backends.api import QpuTaskId

__all__ = ["SpreadLooks", "pause_s"]

_SHORTEST_PAUSE_S, _PAUSE_SHARE, _LONGEST_PAUSE_S = 0.02, 0.03, 2.0
# The most looks at a site in the pause between two looks at the same task.
_LOOKS_IN_A_PAUSE = 8


def pause_s(age_s: float) -> float:
    """Return when to look again at a task of this age: later, the longer it takes.

    >>> pause_s(0), pause_s(10), pause_s(3600)
    (0.02, 0.3, 2.0)
    """
    return min(max(_SHORTEST_PAUSE_S, _PAUSE_SHARE * age_s), _LONGEST_PAUSE_S)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A time for a look at a task. is_fixed: whether no other task may be looked at then."""

    at_s: float
    gap_s: float = _SHORTEST_PAUSE_S
    is_fixed: bool = False


class SpreadLooks:
    """Gives each look at a task a time of its own; any thread may call.

    A single task is looked at after each pause. However many tasks there are, a site is asked at
    most eight times in the pause of one of them, and never more often than a single new task is.
    The first look at a task follows its start at once, and does not count.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin without tasks. clock, sleep: in seconds, monotonic."""
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._turns: dict[QpuTaskId, _Turn] = {}
        self._free_s = clock()  # from when on no look is fixed

    def await_turn(self, task: QpuTaskId, deadline_s: float) -> bool:
        """Block until a task may be looked at; False if that is after the deadline.

        A task keeps its turn for the next call then.
        """
        while True:
            turn, now_s = self._turn(task)
            if turn.at_s <= now_s:
                with self._lock:
                    self._turns.pop(task, None)
                return True
            if turn.at_s > deadline_s:
                self._sleep(max(0.0, deadline_s - now_s))
                return False
            self._sleep(turn.at_s - now_s)

    def put_off(self, task: QpuTaskId, pause_s: float) -> None:
        """Look at a task again after a pause at the earliest."""
        gap_s = max(_SHORTEST_PAUSE_S, pause_s / _LOOKS_IN_A_PAUSE)
        with self._lock:
            self._turns[task] = _Turn(self._clock() + pause_s, gap_s)

    def forget(self, task: QpuTaskId) -> None:
        """Drop a task that has ended."""
        with self._lock:
            self._turns.pop(task, None)

    def _turn(self, task: QpuTaskId) -> tuple[_Turn, float]:
        """Return when to look at a task, as far as that is known yet, and the time."""
        with self._lock:
            now_s = self._clock()
            turn = self._turns.get(task)
            if turn is None:
                return _Turn(now_s), now_s
            if not turn.is_fixed and turn.at_s <= now_s:
                turn = _Turn(max(now_s, self._free_s), turn.gap_s, is_fixed=True)
                self._free_s = turn.at_s + turn.gap_s
                self._turns[task] = turn
            return turn, now_s
