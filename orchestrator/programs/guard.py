"""The parent of a program, which leaves none of its processes behind; standard library only.

Run as ``python -I -S guard.py REPORT PROGRAM ARGUMENT...``. It adopts every process that the
program leaves, also those that changed their session, ends them, and writes what it measured as
JSON: to a file descriptor if REPORT is a number, else to a new file in that folder. It ends the
program when it is told to by SIGTERM, and when its own parent dies. It ends as the program did.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

__all__ = ["main"]

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_GRACE_S = 5.0
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main() -> None:
    """Run the program in ``argv[2:]`` to its end."""
    parent = os.getppid()
    _adopt_orphans()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        program = subprocess.Popen(
            sys.argv[2:],
            # What is blocked here would be blocked there, too.
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),  # noqa: PLW1509 - one thread
        )
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        code = _NOT_FOUND if missing else _NOT_EXECUTABLE
        _report({"exit": code, "error": str(error.strerror)})
    else:
        code, stopped = _wait(program, parent)
        ended_s = time.time()
        left = _end_all(0.0 if stopped else _GRACE_S)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        measured = {
            "exit": code,
            "left": 0 if stopped else left,
            "cpu_s": used.ru_utime + used.ru_stime,
            "max_rss_bytes": used.ru_maxrss * 1024,
            "stopped": stopped,
            "ended_s": ended_s,
            "task": os.environ.get("SLURM_PROCID"),
            "node": os.environ.get("SLURMD_NODENAME"),
        }
        _report(measured)
    _end_as(code)


def _report(measured: Mapping[str, object]) -> None:
    place, text = sys.argv[1], json.dumps(measured).encode()
    with suppress(OSError):
        if place.isdecimal():
            os.write(int(place), text)
        else:
            name = f"{os.uname().nodename}-{os.getpid()}.json"
            Path(place, f".{name}").write_bytes(text)
            Path(place, f".{name}").rename(Path(place, name))


def _end_as(code: int) -> NoReturn:
    """End with a program's exit code, or by the signal that ended it."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _adopt_orphans() -> None:
    """Become the parent of orphans below this process, and end with the own parent (Linux)."""
    with suppress(OSError, AttributeError):
        prctl = ctypes.CDLL(None).prctl
        prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        prctl(_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _wait(program: subprocess.Popen[bytes], parent: int) -> tuple[int, bool]:
    """Return the program's exit code, and whether it was told to stop."""
    stop_s: float | None = None
    while True:
        code = _reap(program)
        if code is not None:
            return code, stop_s is not None
        if stop_s is None and (os.getppid() != parent or _is_unread()):
            program.terminate()
            stop_s = time.monotonic() + _GRACE_S
        came = signal.sigtimedwait(_SIGNALS, 1.0)
        if came is not None and came.si_signo != signal.SIGCHLD and stop_s is None:
            program.terminate()
            stop_s = time.monotonic() + _GRACE_S
        if stop_s is not None and time.monotonic() > stop_s:
            program.kill()


def _is_unread() -> bool:
    """Whether nobody reads the report: the parent may have died before this process looked."""
    if not sys.argv[1].isdecimal():
        return False
    poll = select.poll()
    poll.register(int(sys.argv[1]), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _reap(program: subprocess.Popen[bytes]) -> int | None:
    """Collect orphans that ended; return the program's exit code once it has ended."""
    code: int | None = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not ended:
            return code
        if ended == program.pid:
            code = program.returncode = os.waitstatus_to_exitcode(status)


def _end_all(grace_s: float) -> int:
    """End every process that is left below this one; return how many there were at first."""
    left = _children()
    first = len(left)
    deadline = time.monotonic() + grace_s
    while left:
        last = time.monotonic() >= deadline
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if last else signal.SIGTERM)
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = _children()
    return first


def _children() -> list[int]:
    """Return the children of this process that run; orphans of its children are among them."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                # After the name in parentheses, which may hold anything: state, parent, ….
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == os.getpid() and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
