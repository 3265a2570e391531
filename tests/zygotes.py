"""One process that imports Aer for many short-lived backends."""

from __future__ import annotations

import socket
import threading
from typing import IO, Any

from backends.aer.process import Spawner

__all__ = ["SharedZygote"]


class SharedZygote:
    """A zygote that outlives the backends whose workers it forks."""

    def __init__(self) -> None:
        self._spawner = Spawner({})
        self._asking = threading.Lock()

    def spawner(self, settings: dict[str, Any]) -> _Borrower:
        """Return what a backend takes for a spawner of its own."""
        return _Borrower(self, settings)

    def spawn(self, settings: dict[str, Any], line: socket.socket, errors: IO[bytes]) -> int:
        with self._asking:
            self._spawner._settings = settings
            return self._spawner.spawn(line, errors)

    def exit_code(self, pid: int, timeout_s: float) -> int | None:
        return self._spawner.exit_code(pid, timeout_s)

    def close(self) -> None:
        self._spawner.close()


class _Borrower:
    def __init__(self, zygote: SharedZygote, settings: dict[str, Any]) -> None:
        self._zygote = zygote
        self._settings = settings

    def spawn(self, line: socket.socket, errors: IO[bytes]) -> int:
        return self._zygote.spawn(self._settings, line, errors)

    def exit_code(self, pid: int, timeout_s: float) -> int | None:
        return self._zygote.exit_code(pid, timeout_s)

    def close(self) -> None:
        """Leave the zygote to the next backend."""
