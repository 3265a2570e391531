"""Worker processes: made by a zygote, spoken to, killed, their ends explained."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import IO, Any

from backends.aer.launch import Zygote, launch, take_preloaded
from backends.aer.wire import receive, send
from backends.frames import FrameError, unpack

__all__ = ["SpawnFailed", "Spawner", "WorkerProcess"]

_END_S = 2.0


class SpawnFailed(Exception):
    """The zygote ended; the message says how."""


class Spawner:
    """Forks worker processes with these settings from a zygote, and knows their exit codes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._spawning = threading.Lock()
        self._zygote: Zygote | None = None
        self._up = False
        self._reason = ""
        self._forked: list[int] = []
        self._codes: dict[int, int] = {}
        self._closed = False

    def spawn(self, line: socket.socket, errors: IO[bytes]) -> int:
        """Fork a worker; blocks for seconds while the zygote starts. Raises `SpawnFailed`."""
        with self._spawning, self._changed:
            if self._zygote is None:
                self._start()
            self._changed.wait_for(lambda: self._up or self._zygote is None)
            if self._zygote is None:
                raise SpawnFailed(self._reason)
            request = json.dumps(self._settings).encode()
            socket.send_fds(self._zygote.control, [request], [line.fileno(), errors.fileno()])
            self._changed.wait_for(lambda: self._forked or self._zygote is None)
            if not self._forked:
                raise SpawnFailed(self._reason)
            return self._forked.pop()

    def exit_code(self, pid: int, timeout_s: float) -> int | None:
        """Wait for a worker's end; return its exit code, -N for signal N, None if not known."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._codes or self._zygote is None, timeout_s)
            return self._codes.pop(pid, None)

    def close(self) -> None:
        """End the zygote; workers run on until they are killed or their lines are closed."""
        with self._changed:
            self._closed = True
            zygote, self._reason = self._zygote, "the backend was closed"
        if zygote is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(zygote.process.pid, signal.SIGKILL)
            zygote.process.wait(_END_S)

    def _start(self) -> None:
        if self._closed:
            raise SpawnFailed("the backend was closed")
        zygote = self._zygote = take_preloaded() or launch()
        name = "hpcqc-aer-zygote"
        threading.Thread(target=self._listen, args=(zygote,), name=name, daemon=True).start()

    def _listen(self, zygote: Zygote) -> None:
        while (message := receive(zygote.control)) is not None:
            header, _ = unpack(message)
            with self._changed:
                match header["op"]:
                    case "up":
                        self._up = True
                    case "forked":
                        self._forked.append(header["pid"])
                    case "ended":
                        self._codes[header["pid"]] = header["code"]
                self._changed.notify_all()
        with contextlib.suppress(subprocess.TimeoutExpired):
            zygote.process.wait(_END_S)
        zygote.process.kill()
        code = zygote.process.wait()
        with self._changed:
            self._reason = f"it ended with exit code {code}{_last_line(zygote.errors)}"
            self._zygote, self._up = None, False
            self._forked.clear()
            self._changed.notify_all()
        zygote.control.close()


def _last_line(errors: IO[bytes]) -> str:
    """Return the last line a process wrote to its error output, and close the file."""
    with errors:
        errors.seek(0)
        text = errors.read()[-4000:].decode(errors="replace").strip()
    return f"; its last error: {text.splitlines()[-1]}" if text else ""


_Listener = Callable[["WorkerProcess", dict[str, Any] | None, bytes], None]
# How long a process whose end of the line is closed may take to end.
_EXIT_S = 2.0


class WorkerProcess:
    """One simulation process; its thread calls ``listener`` with each message, and None at its end.

    part: the running (tag, part) or None, since ``began`` on the monotonic clock.
    """

    def __init__(self, spawner: Spawner, listener: _Listener) -> None:
        self._spawner = spawner
        self._listener = listener
        self._line: socket.socket | None = None
        self._killed = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.pid: int | None = None
        self.ready = False
        self.part: tuple[str, int] | None = None
        self.began = 0.0
        self.reason = ""

    def launch(self) -> None:
        """Begin to start the process; returns at once."""
        threading.Thread(target=self._live, name="hpcqc-aer", daemon=True).start()

    def send(self, message: bytes) -> None:
        """Send a message; if the process is dead, the listener gets None instead."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                send(self._line, message)

    def kill(self) -> None:
        """Kill the process; the listener then gets None."""
        with self._lock:
            self._killed = True
            if self.pid is not None and not self._ended.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> None:
        """Block until the process has ended, at most ``timeout_s``."""
        if self.pid is not None:
            self._ended.wait(timeout_s)

    def _live(self) -> None:
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _last_line
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
        code = self._spawner.exit_code(pid, _EXIT_S)
        if code is None:
            self.kill()
            code = self._spawner.exit_code(pid, _EXIT_S)
        self._ended.set()
        if self._line is not None:
            self._line.close()
        tail = _last_line(errors)
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"simulation process killed by signal {-code} {name}{hint}{tail}"
        ending = "without a trace" if code is None else f"with exit code {code}"
        return f"simulation process ended {ending}{tail}"
