"""Task records as files, so that a task is run once even when its parent process dies.

Each task has a folder named by its tag. A worker claims a part by a symbolic link with its
identity, which only one process can make. Results appear by rename. Nothing is synced to disk: a
record must survive the death of a process, not of the machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from backends.api import TaskState
from backends.results import result_from_bytes

__all__ = ["Claim", "Record", "Spool", "identity", "is_alive"]

_KEEP_S = 14 * 24 * 3600.0
_DEATH_S = 2.0
_LOST = "the simulation process died together with its parent before it had a result"


def identity(pid: int) -> str:
    """Return ``host:pid:start``, which no later process with the same number shares."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        started = "gone" if stat[0] in (b"Z", b"X") else stat[19].decode()
    except (OSError, IndexError):
        started = "gone"
    return f"{socket.gethostname()}:{pid}:{started}"


@lru_cache(maxsize=2)
def _own_identity(pid: int) -> str:
    return identity(pid)


def is_alive(claimer: str) -> bool:
    """Whether the process of an identity still runs; one on another host is believed to."""
    host, pid, started = claimer.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    return started != "gone" and identity(int(pid)) == claimer


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who runs a part of a task. parts: into how many the task was split."""

    part: int
    parts: int
    claimer: str

    @property
    def pid(self) -> int:
        """The claiming process."""
        return int(self.claimer.rsplit(":", 2)[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the files say of a task. reason: why it failed. results: one file per part."""

    state: TaskState
    claims: tuple[Claim, ...] = ()
    results: tuple[Path, ...] = ()
    reason: str = ""

    @property
    def unfinished(self) -> list[Claim]:
        """The claims of parts that have no result."""
        done = {path.name.partition("of")[0] for path in self.results}
        return [claim for claim in self.claims if str(claim.part) not in done]

    @property
    def has_worker(self) -> bool:
        """Whether all its parts are done or claimed by a live process.

        A part that no process has claimed is run by a process that has claimed another part.
        """
        unfinished = self.unfinished
        if any(not is_alive(claim.claimer) for claim in unfinished):
            return False
        return bool(unfinished) or any(is_alive(claim.claimer) for claim in self.claims)

    @property
    def ends_at(self) -> float | None:
        """When the modelled device ends a completed task; None without a clock."""
        if self.state is not TaskState.COMPLETED:
            return None
        end = result_from_bytes(self.results[0].read_bytes()).metadata["ends_at"]
        return None if end is None else float(end)


class Spool:
    """The task folders under one root. Safe to use from several processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._text = str(root)

    def claim(self, tag: str, part: int, parts: int) -> bool:
        """Take a part for this process; False if any process ever took it."""
        folder = self._root / tag
        folder.mkdir(parents=True, exist_ok=True)
        try:
            (folder / f"{part}of{parts}.running").symlink_to(_own_identity(os.getpid()))
        except FileExistsError:
            return False
        return True

    def keep_payload(self, tag: str, data: bytes) -> None:
        """Keep the payload of a task that waits, so that it is run though its parent dies."""
        self._write(tag, "payload", data)

    def waiting_payload(self, tag: str) -> bytes | None:
        """Return the payload of a task that was kept waiting and never begun, else None."""
        try:
            with open(f"{self._text}/{tag}/payload", "rb") as file:  # noqa: PTH123  # on every start
                data = file.read()
        except OSError:  # most tasks never wait, or are not there at all
            return None
        return data if self.read(tag) is None else None

    def store(self, tag: str, part: int, parts: int, data: bytes) -> None:
        """Keep a part's result; it becomes visible whole."""
        self._write(tag, f"{part}of{parts}.result", data)

    def fail(self, tag: str, reason: str) -> None:
        """Record that the task failed, for good."""
        self._write(tag, "failed", reason.encode())

    def cancel(self, tag: str) -> None:
        """Record that the task was cancelled, for good."""
        self._write(tag, "cancelled", b"")

    def read(self, tag: str) -> Record | None:
        """Return what is known of a task; None if no process ever began it."""
        folder = self._root / tag
        try:
            names = sorted(entry.name for entry in os.scandir(f"{self._text}/{tag}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if "cancelled" in names:
            return Record(state=TaskState.CANCELLED)
        if "failed" in names:
            reason = (folder / "failed").read_text(encoding="utf-8", errors="replace")
            return Record(state=TaskState.FAILED, reason=reason)
        claims = tuple(_read_claim(folder, name) for name in names if name.endswith(".running"))
        if not claims:
            return None
        results = {name: folder / name for name in names if name.endswith(".result")}
        expected = [f"{part}of{claims[0].parts}.result" for part in range(claims[0].parts)]
        found = tuple(results[name] for name in expected if name in results)
        state = TaskState.COMPLETED if len(found) == len(expected) else TaskState.RUNNING
        return Record(state=state, claims=claims, results=found)

    def judge(self, tag: str) -> Record | None:
        """Read a task's record; a running one without a live process fails, for good."""
        record = self.read(tag)
        if record is None or record.state is not TaskState.RUNNING or record.has_worker:
            return record
        # It may have ended between the look at its files and the look at its process.
        record = self.read(tag)
        if record is None or record.state is not TaskState.RUNNING:
            return record
        self.fail(tag, _LOST)
        return Record(state=TaskState.FAILED, claims=record.claims, reason=_LOST)

    def stop_orphan(self, tag: str) -> None:
        """Kill the processes of a task whose parent is dead, then record that it was cancelled."""
        record = self.read(tag)
        claims = record.unfinished if record else []
        for claim in claims:
            if is_alive(claim.claimer):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(claim.pid, signal.SIGKILL)
        deadline = time.monotonic() + _DEATH_S
        while time.monotonic() < deadline and any(is_alive(c.claimer) for c in claims):
            time.sleep(0.005)
        record = self.read(tag)
        if record is not None and not record.state.is_final:
            self.cancel(tag)

    def purge(self) -> None:
        """Remove records older than two weeks."""
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._root):
                with contextlib.suppress(OSError):
                    if entry.is_dir() and entry.stat().st_mtime < time.time() - _KEEP_S:
                        shutil.rmtree(entry.path, ignore_errors=True)

    def _write(self, tag: str, name: str, data: bytes) -> None:
        final = f"{self._text}/{tag}/{name}"
        draft = f"{final}.{os.getpid()}.draft"
        try:
            file = open(draft, "wb", buffering=0)  # noqa: PTH123, SIM115  # 3 times as quick
        except FileNotFoundError:
            (self._root / tag).mkdir(parents=True, exist_ok=True)
            file = open(draft, "wb", buffering=0)  # noqa: PTH123, SIM115
        with file:
            file.write(data)
        os.replace(draft, final)  # noqa: PTH105


def _read_claim(folder: Path, name: str) -> Claim:
    part, _, parts = name.removesuffix(".running").partition("of")
    return Claim(part=int(part), parts=int(parts), claimer=str((folder / name).readlink()))
