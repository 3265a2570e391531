"""Where a ledger is kept, a file or a PostgreSQL database, and how to connect to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.ledger.backups import newest_backup
from orchestrator.broker.ledger.errors import LedgerError

__all__ = ["Place", "connected_engine", "place_of"]

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
# Neither a transaction nor a claim may outlive a client that vanished without a word.
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
        raise LedgerError(f"ledger {name}: ledgers are kept in sqlite or postgresql, not there")
    url = url.set(drivername=driver)
    if driver != "sqlite":
        return Place(url=url, name=name, path=None)
    if not url.database or url.database == ":memory:" or url.query:
        raise LedgerError(f"ledger {name} names no file; write sqlite:///path/to/ledger.sqlite")
    return place_of(Path(url.database))


def connected_engine(place: Place, patience_s: float) -> sa.Engine:
    """Return an engine that connects when it is first used.

    Raises `LedgerError` if PostgreSQL's driver is not installed.
    """
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
