"""A worker process as the backend sees it: made, spoken to, killed, its end explained."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import IO, Any

from backends.aer.spawner import Spawner, SpawnFailed, last_words
from backends.aer.wire import CircuitMemory, receive, send
from backends.frames import FrameError, unpack

__all__ = ["WorkerProcess"]

_Listener = Callable[["WorkerProcess", dict[str, Any] | None, bytes], None]
# How long a process whose end of the line is closed may take to write its last words.
_LAST_WORDS_S = 2.0


class WorkerProcess:
    """One simulation process. ``listener`` hears each message, and None once it has ended.

    ready: it waits for work. part: the (tag, part) it runs, or None; began: since when, on the
    monotonic clock. reason: how it ended.
    The listener is called from this worker's own thread.
    """

    def __init__(self, spawner: Spawner, listener: _Listener) -> None:
        self._spawner = spawner
        self._listener = listener
        self._line: socket.socket | None = None
        self._killed = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.pid: int | None = None
        self.circuits = CircuitMemory()
        self.ready = False
        self.part: tuple[str, int] | None = None
        self.began = 0.0
        self.reason = ""

    def launch(self) -> None:
        """Begin to start the process; returns at once."""
        threading.Thread(target=self._live, name="hpcqc-aer", daemon=True).start()

    def send(self, message: bytes) -> None:
        """Give it a message; if it is dead, the listener hears of that instead."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                send(self._line, message)

    def kill(self) -> None:
        """End it, now; the listener then hears None."""
        with self._lock:
            self._killed = True
            if self.pid is not None and not self._ended.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> None:
        """Block until it has ended, at most ``timeout_s``."""
        if self.pid is not None:
            self._ended.wait(timeout_s)

    def _live(self) -> None:
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by last_words
        try:
            self._begin(errors)
        except (SpawnFailed, OSError) as error:
            self.reason = f"no simulation process could be started: {error}"
            errors.close()
        else:
            self._serve()
            self.reason = self._explain_end(errors)
        self._listener(self, None, b"")

    def _begin(self, errors: IO[bytes]) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid = self._spawner.spawn(theirs, errors)
        except (SpawnFailed, OSError):
            ours.close()
            raise
        with self._lock:
            self._line, self.pid = ours, pid
        if self._killed:
            self.kill()

    def _serve(self) -> None:
        line = self._line
        while line is not None and (message := receive(line)) is not None:
            try:
                header, (data,) = unpack(message)
            except (FrameError, ValueError):
                break
            self._listener(self, header, data)

    def _explain_end(self, errors: IO[bytes]) -> str:
        pid = self.pid or 0
        code = self._spawner.exit_code(pid, _LAST_WORDS_S)
        if code is None:
            self.kill()
            code = self._spawner.exit_code(pid, _LAST_WORDS_S)
        self._ended.set()
        if self._line is not None:
            self._line.close()
        tail = last_words(errors)
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"simulation process killed by signal {-code} {name}{hint}{tail}"
        ending = "without a trace" if code is None else f"with exit code {code}"
        return f"simulation process ended {ending}{tail}"
