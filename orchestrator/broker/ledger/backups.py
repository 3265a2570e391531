"""Copies of a ledger's file: made while it is in use, and found again when it is damaged."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from orchestrator.broker.ledger.errors import LedgerError, database_words

__all__ = ["copy_file", "free_name", "newest_backup"]


def copy_file(source: Path, target: Path) -> None:
    """Make a consistent copy while others write. Raises `LedgerError`; then there is none."""
    if target.exists():
        raise LedgerError(f"{target} is there already and was left as it is; name another file")
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(unfinished)) as copy:
            read.backup(copy)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.rename(target)
    except (sqlite3.Error, OSError) as error:
        unfinished.unlink(missing_ok=True)
        raise LedgerError(
            f"ledger {source} cannot be copied to {target}: {database_words(error)}"
        ) from error


def free_name(path: Path, why: str) -> Path:
    """Return a name beside the ledger under which `newest_backup` finds a copy."""
    for number in range(1, 1000):
        more = f"-{number}" if number > 1 else ""
        name = path.with_name(f"{path.stem}.{why}{more}.backup{path.suffix}")
        if not name.exists():
            return name
    raise LedgerError(f"there are a thousand backups of {path}; remove some")


def newest_backup(path: Path) -> Path | None:
    """Return the copy beside the ledger that was made last, ``NAME….backup…``."""
    found = [p for p in path.parent.glob(f"{path.stem}*backup*") if p.is_file()]
    whole = [p for p in found if not p.name.endswith((".unfinished", "-wal", "-shm"))]
    return max(whole, key=lambda backup: backup.stat().st_mtime, default=None)
