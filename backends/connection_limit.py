"""A site's limit on connections, and whether it can be behind the refusal of a start."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

__all__ = ["ConnectionLimit"]

# A server may count a connection that its client has left until the job has ended.
_COUNTED_S = 900.0


class ConnectionLimit:
    """Most connections that a site allows at a time; beyond them errors of starts mean nothing.

    Such a site answers one request too many with an error and carries it out. An error is a refusal
    only while nobody can have made that request.
    """

    def __init__(
        self,
        most: int,
        place: Path,
        *,
        shared_key: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments.

        Args:
            most: Connections that the site allows, and that a process opens.
            place: A file whose lock tells processes with the same state folder of each other.
            shared_key: Whether clients elsewhere, of which nothing is known, use the same key.
            clock: A time in seconds that only grows.
        """
        self.most = most
        self._place, self._shared_key, self._clock = place, shared_key, clock
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._left_at: float | None = None

    def join(self) -> None:
        """Let other processes know that this one connects from now on."""
        with self._lock:
            if self._file is None:
                self._place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = self._place.open("ab")
                fcntl.flock(self._file, fcntl.LOCK_SH)

    def note_left(self) -> None:
        """Note that a connection was left before its answer was complete."""
        self._left_at = self._clock()

    def is_kept(self) -> bool:
        """Whether no more connections can be open than the site allows, as far as is known here."""
        if self._shared_key:
            return False
        self.join()
        left_at = self._left_at
        if left_at is not None and self._clock() - left_at < _COUNTED_S:
            return False
        with self._lock:
            return self._file is not None and _is_alone(self._file)

    def close(self) -> None:
        """Let other processes know that this one has no connections any more."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def _is_alone(file: IO[bytes]) -> bool:
    """Whether nobody else holds the lock of a file of which this process shares it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        # An attempt that fails gives the shared lock up, too. Others hold theirs for an instant.
        fcntl.flock(file, fcntl.LOCK_SH)
