"""Starts the process that imports Aer, before this process has loaded any library of its own."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Zygote", "launch", "preload", "take_preloaded"]

# Our package is found by its place, before anything of the same name beside a user's script;
# afterwards the path is as it was, so that nothing of Python's own is shadowed. The thread
# counts must be set before NumPy and Aer are loaded; a Dask worker has set OpenMP's to 1.
_BOOT = (
    "import json, os, sys; "
    "[os.putenv(k, v) for k, v in json.loads(sys.argv[2]).items()]; "
    "sys.path.insert(0, sys.argv[1]); import backends; del sys.path[0]; "
    "from backends.aer.worker import main; main()"
)
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Zygote:
    """A zygote process. control: the line to it. errors: what it writes to its error output."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    errors: IO[bytes]


# At most one, for the first backend of this process that needs a zygote.
_preloaded: list[Zygote] = []


def launch() -> Zygote:
    """Start a zygote and return at once; it takes seconds until it answers."""
    control, theirs = socket.socketpair()
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by whoever reads its last words
    cores = str(len(os.sched_getaffinity(0)))
    threads = {"OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": "1"}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, str(_ROOT), json.dumps(threads)],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    return Zygote(process=process, control=control, errors=errors)


def preload() -> None:
    """Start a zygote for the first backend; kill it at exit if no backend has used it."""
    if not _preloaded:
        _preloaded.append(launch())
        atexit.register(_end_unused)


def _end_unused() -> None:
    zygote = take_preloaded()
    if zygote is not None:
        zygote.process.kill()
        zygote.process.wait()
        zygote.control.close()
        zygote.errors.close()


def take_preloaded() -> Zygote | None:
    """Return the zygote that `preload` started, once."""
    return _preloaded.pop() if _preloaded else None
