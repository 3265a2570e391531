"""What runs store to be continued, and the output of their Slurm jobs, and its removal.

The ledger, with jobs, results and charges, is never changed here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.identity import IdentityError, ResultKey, lock_file_name

__all__ = ["StoredRun", "hold_run", "is_active", "remove_stored", "runs_to_remove", "stored_runs"]

_DAY_S = 86400.0
_LOOKS, _LOOK_EVERY_S = 5, 0.01
# Below the state folder, with a folder for each run: finished units; scripts and output of Slurm
# jobs; output of programs; files and keys of sites that a flow started, which a run that failed leaves.
_FOLDERS = ("units", "slurm", "programs", "federations")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What one run has stored."""

    id: str
    size_bytes: int
    used_at: float  # seconds since the epoch, of its last change
    active: bool  # whether a process works on it, or will


def hold_run(state_dir: Path, run: str) -> IO[str]:
    """Keep what a run has stored from being removed until the returned file is closed."""
    folder = state_dir / "active"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / lock_file_name(run)
    while True:
        file = path.open("a", encoding="ascii")
        fcntl.flock(file, fcntl.LOCK_SH)
        # Whoever removed the run meanwhile has removed this file, too.
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()


def is_active(state_dir: Path, run: str) -> bool:
    """Whether a process works on a run, or has its broker open."""
    # A run that starts this moment waits for the first lock. It takes the second, which excludes
    # others, or is refused: a shared one tells it that nobody has the run open.
    if _is_locked(state_dir / "runs" / lock_file_name(run), fcntl.LOCK_SH):
        return True
    path = state_dir / "active" / lock_file_name(run)
    for _ in range(_LOOKS):
        if not _is_locked(path, fcntl.LOCK_EX):
            return False
        time.sleep(_LOOK_EVERY_S)  # it may be another look
    return _is_locked(path, fcntl.LOCK_EX)


def _is_locked(path: Path, look: int) -> bool:
    try:
        with path.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, look | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def stored_runs(state_dir: Path) -> list[StoredRun]:
    """Return what is stored, the run first that was used last."""
    sizes: dict[str, int] = {}
    times: dict[str, float] = {}
    for run, path in _files(state_dir):
        with suppress(FileNotFoundError):  # its run may end meanwhile
            found = path.stat()
            sizes[run] = sizes.get(run, 0) + found.st_size
            times[run] = max(times.get(run, 0.0), found.st_mtime)
    runs = [
        StoredRun(id=run, size_bytes=size, used_at=times[run], active=is_active(state_dir, run))
        for run, size in sizes.items()
    ]
    return sorted(runs, key=lambda run: (-run.used_at, run.id))


def runs_to_remove(
    runs: Sequence[StoredRun], now: float, *, keep_days: float | None, keep_gib: float | None
) -> list[StoredRun]:
    """Return the runs beyond a limit, of runs in the order of `stored_runs`."""
    # Active runs stay, and count towards the size.
    left = float("inf") if keep_gib is None else keep_gib * 2**30
    beyond = []
    for run in runs:
        left -= run.size_bytes
        is_old = keep_days is not None and now - run.used_at > keep_days * _DAY_S
        if (is_old or left < 0) and not run.active:
            beyond.append(run)
            left += run.size_bytes
    return beyond


def remove_stored(state_dir: Path, run: StoredRun) -> bool:
    """Remove what a run has stored; return False if a process works on it after all, or has since."""
    path = state_dir / "active" / lock_file_name(run.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        files = [found for known, found in _files(state_dir) if known == run.id]
        if any(found.stat().st_mtime > run.used_at for found in files):
            return False
        for found in files:
            found.unlink(missing_ok=True)
        for kind in _FOLDERS:
            shutil.rmtree(state_dir / kind / run.id, ignore_errors=True)
        path.unlink(missing_ok=True)
    return True


def _files(state_dir: Path) -> Iterator[tuple[str, Path]]:
    """Yield the id of a run and one of its files, for every file."""
    with suppress(FileNotFoundError):
        for entry in os.scandir(state_dir / "results"):
            try:
                run = ResultKey.parse(entry.name).run
            except IdentityError:  # a file of Prefect's own
                continue
            yield run, Path(entry.path)
    for kind in _FOLDERS:
        folders = state_dir / kind
        for folder in folders.iterdir() if folders.is_dir() else ():
            for path in folder.rglob("*"):
                if path.is_file():
                    yield folder.name, path
