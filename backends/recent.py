"""What a server states of a device: asked for often, and needed while the server does not answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from backends.api import Heard
from backends.errors import QpuUnavailable

__all__ = ["Recent"]

_ValueT = TypeVar("_ValueT")


class Recent(Generic[_ValueT]):
    """A value that is read again once it is older than a time; any thread may call.

    One thread reads, and those that call meanwhile take its answer.
    """

    def __init__(self, read: Callable[[_ValueT | None], _ValueT], fresh_s: float) -> None:
        """Store the arguments.

        Args:
            read: Asks for the value; takes the one known so far. Raises `QpuUnavailable`.
            fresh_s: For how long a value is not asked for again.
        """
        self._read, self._fresh_s = read, fresh_s
        self._lock = threading.Lock()
        self._known: tuple[float, _ValueT] | None = None
        self._failed_at: float | None = None
        self._heard = Heard()

    @property
    def heard(self) -> Heard:
        """When it was last read."""
        return self._heard

    @property
    def last(self) -> _ValueT | None:
        """The value as last known."""
        known = self._known
        return None if known is None else known[1]

    def get(self) -> _ValueT:
        """Return the value. Raises `QpuUnavailable` if it cannot be read and is not fresh."""
        with self._lock:
            if self._known is None or not self._is_fresh(self._known[0]):
                self._known = (time.monotonic(), self._asked())
            return self._known[1]

    def get_or_last(self) -> _ValueT:
        """Return the value as last known while it cannot be read.

        Raises `QpuUnavailable` if it was never read.
        """
        last = self.last
        if last is not None and self._failed_at is not None and self._is_fresh(self._failed_at):
            return last
        try:
            return self.get()
        except QpuUnavailable:
            if last is None:
                raise
            return last

    def suppose(self, value: _ValueT) -> None:
        """Take this for the value as last known; the next call asks."""
        self._known = (-math.inf, value)

    def forget(self) -> None:
        """Take the value for wrong, so that the next call reads another one."""
        self._known = None

    def _asked(self) -> _ValueT:
        try:
            value = self._read(self.last)
        except QpuUnavailable:
            self._failed_at = time.monotonic()
            if self._heard.silent_since_s is None:
                self._heard = replace(self._heard, silent_since_s=time.time())
            raise
        self._failed_at, self._heard = None, Heard(at_s=time.time())
        return value

    def _is_fresh(self, at_s: float) -> bool:
        return time.monotonic() - at_s < self._fresh_s
