"""Makes worker processes by asking a zygote for them; starts the zygote when first needed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from typing import IO, Any

from backends.aer.launch import launch, take_preloaded
from backends.aer.wire import receive
from backends.frames import unpack

__all__ = ["SpawnFailed", "Spawner", "last_words"]

_END_S = 2.0


class SpawnFailed(Exception):
    """The zygote ended; the message says how."""


class Spawner:
    """One zygote and what it tells: pids of workers it forked, exit codes of those that ended.

    settings: given to every worker.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._told = threading.Condition()
        self._asking = threading.Lock()
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._up = False
        self._reason = ""
        self._forked: list[int] = []
        self._codes: dict[int, int] = {}
        self._closed = False

    def spawn(self, line: socket.socket, errors: IO[bytes]) -> int:
        """Return the process id of a new worker that speaks over ``line``.

        Blocks while the zygote starts, which takes seconds. Raises `SpawnFailed`.
        """
        with self._asking, self._told:
            if self._zygote is None:
                self._start()
            self._told.wait_for(lambda: self._up or self._zygote is None)
            if self._zygote is None or self._control is None:
                raise SpawnFailed(self._reason)
            request = json.dumps(self._settings).encode()
            socket.send_fds(self._control, [request], [line.fileno(), errors.fileno()])
            self._told.wait_for(lambda: self._forked or self._zygote is None)
            if not self._forked:
                raise SpawnFailed(self._reason)
            return self._forked.pop()

    def exit_code(self, pid: int, timeout_s: float) -> int | None:
        """Wait for a worker's end; return its exit code, -N for signal N, None if not known."""
        with self._told:
            self._told.wait_for(lambda: pid in self._codes or self._zygote is None, timeout_s)
            return self._codes.pop(pid, None)

    def close(self) -> None:
        """End the zygote; workers live on until they are killed or left alone."""
        with self._told:
            self._closed = True
            zygote, self._reason = self._zygote, "the backend was closed"
        if zygote is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(zygote.pid, signal.SIGKILL)
            zygote.wait(_END_S)

    def _start(self) -> None:
        if self._closed:
            raise SpawnFailed("the backend was closed")
        zygote = take_preloaded() or launch()
        self._zygote, self._control = zygote.process, zygote.control
        threading.Thread(
            target=self._listen,
            args=(zygote.control, zygote.process, zygote.errors),
            name="hpcqc-aer-zygote",
            daemon=True,
        ).start()

    def _listen(
        self, control: socket.socket, zygote: subprocess.Popen[bytes], errors: IO[bytes]
    ) -> None:
        while (message := receive(control)) is not None:
            header, _ = unpack(message)
            with self._told:
                match header["op"]:
                    case "up":
                        self._up = True
                    case "forked":
                        self._forked.append(header["pid"])
                    case "ended":
                        self._codes[header["pid"]] = header["code"]
                self._told.notify_all()
        with contextlib.suppress(subprocess.TimeoutExpired):
            zygote.wait(_END_S)
        zygote.kill()
        code = zygote.wait()
        with self._told:
            self._reason = f"it ended with exit code {code}{last_words(errors)}"
            self._zygote, self._control, self._up = None, None, False
            self._forked.clear()
            self._told.notify_all()
        control.close()


def last_words(errors: IO[bytes]) -> str:
    """Return the last line a process wrote to its error output, and close the file."""
    with errors:
        errors.seek(0)
        told = errors.read()[-4000:].decode(errors="replace").strip()
    return f"; it said: {told.splitlines()[-1]}" if told else ""
