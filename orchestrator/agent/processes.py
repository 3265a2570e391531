"""Processes by identity, and by the folder of the agent that they belong to."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["MARKER", "ProcessIdentity", "end_marked", "marked"]

# Every process of an agent has its folder under this name in its environment.
MARKER = "HPCQC_AGENT_FOLDER"
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process, unlike its number, which the system may give to a later one."""

    pid: int
    started: int  # clock ticks since the machine's boot
    host: str
    boot: str

    @staticmethod
    def own() -> ProcessIdentity:
        """Return the identity of this process."""
        return ProcessIdentity.of(os.getpid())

    @staticmethod
    def of(pid: int) -> ProcessIdentity:
        """Return a process's identity. Raises ``ProcessLookupError`` if there is none."""
        started = _start_ticks(pid)
        if started is None:
            raise ProcessLookupError(pid)
        return ProcessIdentity(pid=pid, started=started, host=os.uname().nodename, boot=_boot())

    @staticmethod
    def read(path: Path) -> ProcessIdentity | None:
        """Return the identity in a file, as JSON; None if the file holds none."""
        try:
            return ProcessIdentity(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == os.uname().nodename

    def is_alive(self) -> bool:
        """Whether the process is still there; False for another machine's."""
        return self.is_here and self.boot == _boot() and _start_ticks(self.pid) == self.started

    def signal(self, number: int) -> bool:
        """Send a signal to this process and no other; return whether it was there."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True


def marked(folder: Path) -> list[psutil.Process]:
    """Return the processes of the agent on this folder, except this one and its ancestors."""
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    found = []
    # Information of other users' processes, and of those that have ended meanwhile, is None.
    for process in psutil.process_iter(["status", "environ"]):
        if process.pid in spared or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if (process.info["environ"] or {}).get(MARKER) == str(folder):
            found.append(process)
    return found


def end_marked(folder: Path, patience_s: float, *, spare_backends: bool = False) -> int:
    """End the agent's processes: wait, SIGTERM, SIGKILL; return how many there were.

    spare_backends: they finish their tasks, which the next broker finds (decision 0005).
    """

    def left(wait_s: float) -> list[psutil.Process]:
        deadline = time.monotonic() + wait_s
        while True:
            found = [p for p in marked(folder) if not (spare_backends and _is_backend(p))]
            if not found or time.monotonic() >= deadline:
                return found
            time.sleep(_LOOK_EVERY_S)

    found = left(patience_s)
    count = len(found)
    for process in found:
        _signal(process, signal.SIGTERM)
    while found:
        found = left(2.0)
        for process in found:
            _signal(process, signal.SIGKILL)
    return count


def _is_backend(process: psutil.Process) -> bool:
    try:
        return any("backends" in part for part in process.cmdline()[1:])
    except (psutil.Error, OSError):
        return False


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)  # psutil compares start times before it does
    except (psutil.Error, OSError):
        return


def _start_ticks(pid: int) -> int | None:
    """Return field 22 of proc_pid_stat(5), None if the process is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
