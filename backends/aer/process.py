"""A worker process as the backend sees it: started, spoken to, killed, its end explained."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from backends.aer.wire import CircuitMemory, receive, send
from backends.frames import FrameError, unpack

__all__ = ["WorkerProcess"]

# Our package is found by its place, before anything of the same name beside a user's script;
# afterwards the path is as it was, so that nothing of Python's own is shadowed.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); import backends; del sys.path[0]; "
    "from backends.aer.worker import main; main()"
)
_ROOT = Path(__file__).resolve().parents[2]

# How long a process whose end of the line is closed may take to write its last words.
_LAST_WORDS_S = 2.0

Listener = Callable[["WorkerProcess", dict[str, Any] | None, bytes], None]


class WorkerProcess:
    """One simulation process. ``listener`` hears each message, and None once it has ended.

    ready: it has imported Aer and waits for work. part: the (tag, part) it runs, or None.
    The listener is called from this worker's own thread.
    """

    def __init__(self, settings: dict[str, Any], listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self._socket, self._child_end = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._killed = False
        self._lock = threading.Lock()
        self.circuits = CircuitMemory()
        self.ready = False
        self.part: tuple[str, int] | None = None
        self.reason = ""

    def launch(self) -> None:
        """Start the process and the thread that listens to it; returns at once."""
        threading.Thread(target=self._listen, name="hpcqc-aer", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """Its process id, None before it has one."""
        return self._process.pid if self._process else None

    def send(self, message: bytes) -> None:
        """Give it a message; if it is dead, the listener hears of that instead."""
        with contextlib.suppress(OSError):
            send(self._socket, message)

    def kill(self) -> None:
        """End it and whatever it started, now; the listener then hears None."""
        with self._lock:
            self._killed = True
            if self._process is not None and self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> None:
        """Block until it has ended, at most ``timeout_s``."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)

    def _listen(self) -> None:
        if self._spawn():
            while (message := receive(self._socket)) is not None:
                try:
                    header, (data,) = unpack(message)
                except (FrameError, ValueError):
                    break
                self._listener(self, header, data)
        self.wait(_LAST_WORDS_S)
        self.kill()
        self.reason = self._explain_end()
        self._socket.close()
        self._listener(self, None, b"")

    def hang_up(self) -> None:
        """Let it end by itself: it sees that nobody speaks to it any more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _spawn(self) -> bool:
        with self._lock:
            if not self._killed:
                self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by _explain_end
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOT, str(_ROOT), json.dumps(self._settings)],
                    stdin=self._child_end.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    start_new_session=True,
                )
            self._child_end.close()
            return not self._killed

    def _explain_end(self) -> str:
        if self._process is None or self._errors is None:
            return "simulation process was stopped before it began"
        code = self._process.wait()
        with self._errors as errors:
            errors.seek(0)
            told = errors.read()[-2000:].decode(errors="replace").strip()
        tail = f"; it said: {told.splitlines()[-1]}" if told else ""
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"simulation process killed by signal {-code} {name}{hint}{tail}"
        return f"simulation process ended with exit code {code}{tail}"
