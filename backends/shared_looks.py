"""One request for the states of all open tasks of a site, where its protocol has a list of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from backends.errors import BackendError

__all__ = ["SharedLooks"]

_T = TypeVar("_T")
_SHORTEST_PAUSE_S, _PAUSE_SHARE, _LONGEST_PAUSE_S = 0.1, 0.03, 2.0
# After a list that could not be read, tasks are looked at one by one for so long.
_WITHOUT_LIST_S = 60.0


class SharedLooks(Generic[_T]):
    """What a list said of each open task within the last pause; any thread may call.

    The pause is a small share of the age of the youngest task, so that an end is noticed late by that
    at most. A single task is not worth a list.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], Mapping[str, _T]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without tasks.

        Args:
            read: Asks the site for these jobs, and returns what it says of those that it lists.
            clock: In seconds, monotonic.
        """
        self._read, self._clock = read, clock
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._since: dict[str, float] = {}
        self._asked: frozenset[str] = frozenset()
        self._found: Mapping[str, _T] = {}
        self._next_s = clock()
        self._listed_from_s = clock()

    def look(self, job: str, before: _T) -> _T | None:
        """Return what a job is as far as lists say; None if it is to be asked for alone.

        Args:
            job: Id at the site; an open one from now on.
            before: What it is taken for until the next list.
        """
        with self._lock:
            self._since.setdefault(job, self._clock())
            if len(self._since) < 2 or self._clock() < self._listed_from_s:
                return None
        with self._reading:  # one thread asks, and all take its answer
            if self._clock() >= self._next_s and not self._renew():
                return None
            if job not in self._asked:
                return before  # it was started after the last list was read
            return self._found.get(job)

    def forget(self, job: str) -> None:
        """Drop a job that has ended."""
        with self._lock:
            self._since.pop(job, None)

    @property
    def pause_s(self) -> float:
        """How long a list is as good as new."""
        with self._lock:
            youngest_s = max(self._since.values(), default=0.0)
        share_s = _PAUSE_SHARE * (self._clock() - youngest_s)
        return min(max(_SHORTEST_PAUSE_S, share_s), _LONGEST_PAUSE_S)

    def _renew(self) -> bool:
        """Read the list; return whether that was possible."""
        with self._lock:
            jobs = list(self._since)
        try:
            found = self._read(jobs)
        except BackendError:  # a look at each task says what is wrong
            with self._lock:
                self._listed_from_s = self._clock() + _WITHOUT_LIST_S
            return False
        self._asked, self._found = frozenset(jobs), found
        self._next_s = self._clock() + self.pause_s
        return True
