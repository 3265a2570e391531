"""Makes worker processes by asking a zygote for them; starts the zygote when first needed."""

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
from pathlib import Path
from typing import IO, Any

from backends.aer.wire import receive
from backends.frames import unpack

__all__ = ["SpawnFailed", "Spawner", "last_words"]

# Our package is found by its place, before anything of the same name beside a user's script;
# afterwards the path is as it was, so that nothing of Python's own is shadowed. The thread
# counts must be set before NumPy and Aer are loaded; a Dask worker has set OpenMP's to 1.
_BOOT = (
    "import json, os, sys; "
    "[os.putenv(k, v) for k, v in json.loads(sys.argv[3]).items()]; "
    "sys.path.insert(0, sys.argv[1]); import backends; del sys.path[0]; "
    "from backends.aer.zygote import main; main()"
)
_ROOT = Path(__file__).resolve().parents[2]
_END_S = 2.0


class SpawnFailed(Exception):
    """The zygote ended; the message says how."""


class Spawner:
    """One zygote and what it tells: pids of workers it forked, exit codes of those that ended.

    settings: given to every worker; ``cores`` of them are what OpenMP may use.
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
            socket.send_fds(self._control, [b"w"], [line.fileno(), errors.fileno()])
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
        self._control, theirs = socket.socketpair()
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by last_words
        cores = str(self._settings["cores"])
        threads = {"OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._zygote = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-c", _BOOT, str(_ROOT)),
                    json.dumps(self._settings),
                    json.dumps(threads),
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        threading.Thread(
            target=self._listen,
            args=(self._control, self._zygote, errors),
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
