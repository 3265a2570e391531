"""Where a ledger is stored: its address, copies of its file, and its errors."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

__all__ = [
    "LedgerError",
    "LedgerHeld",
    "LedgerUnwritable",
    "Place",
    "connected_engine",
    "copy_file",
    "database_words",
    "free_name",
    "is_damage",
    "newest_backup",
    "place_of",
]

# SQLite's words for a damaged file.
_DAMAGE = ("malformed", "not a database", "file is encrypted", "disk image")


class LedgerError(ValueError):
    """The ledger cannot be opened, read or written; nothing was changed in it."""


class LedgerUnwritable(LedgerError):
    """A transaction could not be written now; the same one may be tried again."""


class LedgerHeld(LedgerError):
    """Another broker serves this ledger."""


def database_words(error: Exception) -> str:
    """Return the database's own message on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def is_damage(words: str) -> bool:
    """Whether SQLite reports a damaged file."""
    return any(word in words for word in _DAMAGE)


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


_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
# Neither a transaction nor a claim may outlive a client that vanished.
_SERVER_OPTIONS = (
    "-c idle_in_transaction_session_timeout=30000 "
    "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A ledger's address. path: its file, None on a server; name: for messages, no password."""

    url: sa.URL
    name: str
    path: Path | None

    @property
    def remedy(self) -> str:
        """What a user can do about a place that cannot be used."""
        if self.path is None:
            return "check the server, or name another database"
        return "check the disk, or name another state folder with HPCQC_STATE_DIR"

    def after_damage(self) -> str:
        """Say what to do about a damaged ledger: its newest backup, if there is one."""
        backup = newest_backup(self.path) if self.path is not None else None
        if backup is None:
            return f"It was left as it is, and there is no backup beside it; {self.remedy}."
        return (
            f"It was left as it is. There is a backup: move the damaged file and its -wal and "
            f"-shm away, and copy {backup} to {self.path}."
        )


def place_of(where: Path | str) -> Place:
    """Read a file's path or a URL (``sqlite:///…``, ``postgresql://…``). Raises `LedgerError`."""
    if isinstance(where, Path):
        url = sa.URL.create("sqlite", database=str(where))
        return Place(url=url, name=str(where), path=where)
    try:
        url = sa.make_url(where)
    except sa.exc.ArgumentError:
        # The text is not repeated: there may be a password in it.
        raise LedgerError(
            "a ledger's URL cannot be read; it looks like sqlite:///path/to/ledger.sqlite or "
            "postgresql://user@host/database"
        ) from None
    name = url.render_as_string(hide_password=True)
    driver = _DRIVERS.get(url.get_backend_name())
    if driver is None:
        raise LedgerError(f"invalid ledger {name}: use a URL of sqlite or postgresql")
    url = url.set(drivername=driver)
    if driver != "sqlite":
        return Place(url=url, name=name, path=None)
    if not url.database or url.database == ":memory:" or url.query:
        raise LedgerError(f"ledger {name} names no file; write sqlite:///path/to/ledger.sqlite")
    return place_of(Path(url.database))


def connected_engine(place: Place, patience_s: float) -> sa.Engine:
    """Return an engine that connects on first use. Raises `LedgerError` without a driver."""
    if place.path is not None:
        options: dict[str, Any] = {"timeout": patience_s, "check_same_thread": False}
        engine = sa.create_engine(place.url, connect_args=options)
        sa.event.listen(engine, "connect", _configure)
        return engine
    options = {} if "options" in place.url.query else {"options": _SERVER_OPTIONS}
    if "connect_timeout" not in place.url.query:
        options["connect_timeout"] = 10
    try:
        return sa.create_engine(
            place.url, connect_args=options, paramstyle="format", pool_pre_ping=True
        )
    except ImportError as error:
        raise LedgerError(
            f"ledger {place.name} needs PostgreSQL's driver: pip install 'hpcqc[postgresql]'"
        ) from error


def _configure(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # WAL lets `hpcqc jobs` read while a run writes; FULL syncs every commit to disk.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
