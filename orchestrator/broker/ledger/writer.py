"""Writes transactions, and finds out about one whose commit was never answered."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from orchestrator.broker.ledger.place import (
    LedgerError,
    LedgerHeld,
    LedgerUnwritable,
    Place,
    database_words,
    is_damage,
)
from orchestrator.broker.ledger.tables import (
    EVENT_COLUMNS,
    Entries,
    events,
    meta,
    payloads,
    results,
    row_of,
)

__all__ = ["Statement", "Writer"]

_HOLDER = "service_holder"
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_NOTICED_S = 2.0
_Rows = list[tuple[Any, ...]]
_Batch = tuple[str, Sequence[tuple[Any, ...]]]
Statement = tuple[sa.Executable, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doubt:
    """A transaction that may have been written. seq, transaction: of its last event."""

    seq: int
    transaction: str
    rows: _Rows


class _StillUnderWay(Exception):
    """Whether the last transaction will be written is not known even to the server."""


class Writer:
    """One connection, made when it is first needed, that commits one transaction at a time."""

    def __init__(self, place: Place, engine: sa.Engine, patience_s: float) -> None:
        self._place, self._engine, self._patience_s = place, engine, patience_s
        self._on_server = place.path is None
        self._connection: sa.Connection | None = None
        self._doubt: _Doubt | None = None
        self._lock: IO[str] | None = None
        self._holder: str | None = None
        # Compiled once: building them anew costs more than SQLite takes to commit.
        self._add_event = _compiled(events, engine, EVENT_COLUMNS)
        self._add_payload = _compiled(payloads, engine, ("digest", "data"))
        self._add_result = _compiled(results, engine, ("tag", "data"))

    def append(self, scope: str, entries: Entries) -> None:
        """See `Ledger.append`."""
        rows = [row_of(scope, event, at) for event, at in entries.events]
        batches: list[_Batch] = [
            (self._add_payload, list(entries.payloads.items())),
            (self._add_result, list(entries.results.items())),
            (self._add_event, rows),
        ]
        self._run(lambda connection: self._commit(connection, batches, rows))

    def execute(self, statements: Sequence[Statement]) -> None:
        """Run repeatable statements in one transaction. Raises `LedgerError`, then wrote none."""

        def run(connection: sa.Connection) -> None:
            with connection.begin():
                for statement, rows in statements:
                    connection.execute(statement, rows)

        self._run(run)

    def claim(self, holder: str) -> None:
        """See `Ledger.claim_service`."""
        if self._place.path is not None:
            if self._lock is None:
                self._lock = _claim_file(self._place.path.resolve(), holder)
            return
        self._drop()
        self._holder = holder  # from now on, to connect is to claim
        try:
            self._run(lambda connection: _note_holder(connection, holder))
        except LedgerError:
            self._holder = None
            raise

    def close(self) -> None:
        """Let connection and claim go; closing twice does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _run(self, work: Callable[[sa.Connection], None]) -> None:
        """Connect and do it; on a server again where the connection was lost."""
        if not self._on_server:
            try:
                self._connection = self._connection or self._engine.connect()
                work(self._connection)
            except sa.exc.DBAPIError as error:
                raise self._refusal(error) from error
            return
        deadline, pause = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        while True:
            connected = self._connection is not None
            try:
                if self._connection is None:
                    self._connection = self._connect()
                    connected = True
                work(self._connection)
                return
            except (sa.exc.DBAPIError, _StillUnderWay) as error:
                lost = not connected or getattr(error, "connection_invalidated", False)
                if lost:
                    self._drop()
                again = lost or isinstance(error, _StillUnderWay)
                if not again or time.monotonic() + pause > deadline:
                    raise self._refusal(error) from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _connect(self) -> sa.Connection:
        connection = self._engine.connect()
        if self._holder is None:
            return connection
        # A server takes a moment to notice that the holder, or a connection of ours, is dead.
        deadline = time.monotonic() + _NOTICED_S
        try:
            while (held_by := _claim_on_server(connection)) is not None:
                mine = held_by == self._holder
                if time.monotonic() > deadline + (self._patience_s if mine else 0.0):
                    raise _held_error(self._place.name, held_by)
                time.sleep(_FIRST_PAUSE_S)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _commit(self, connection: sa.Connection, batches: Sequence[_Batch], rows: _Rows) -> None:
        """Commit, unless an earlier try turns out to have been written."""
        if self._doubt is not None and self._was_written(connection, rows):
            return
        with connection.begin():
            for statement, values in batches:
                if values:
                    connection.exec_driver_sql(statement, values)
            if rows and self._on_server:
                numbers = "SELECT lastval(), pg_current_xact_id()::text"
                seq, transaction = connection.exec_driver_sql(numbers).one()
                # Until the commit is answered, the transaction may or may not be written.
                self._doubt = _Doubt(seq=seq, transaction=transaction, rows=rows)
        self._doubt = None

    def _was_written(self, connection: sa.Connection, rows: _Rows) -> bool:
        """Settle the doubt about the last transaction; whether it was the one wanted now."""
        doubt = self._doubt
        assert doubt is not None
        with connection.begin():
            if _is_in_progress(connection, doubt.transaction):
                raise _StillUnderWay("the server still works on the transaction before")
            last = doubt.rows[-1]
            query = sa.select(events.c.scope, events.c.kind, events.c.body).where(
                events.c.seq == doubt.seq
            )
            found = connection.execute(query).one_or_none()
        self._doubt = None
        if found is None or tuple(found) != (last[0], last[2], last[5]):
            return False
        if doubt.rows == rows:
            return True
        raise LedgerError(
            f"ledger {self._place.name}: a transaction that was reported as failed had been "
            "written after all. Start the broker again, so that it reads it."
        )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def _refusal(self, error: Exception) -> LedgerError:
        words = database_words(error)
        if not self._on_server and is_damage(words):
            return LedgerError(
                f"ledger {self._place.name} cannot be written: {words}. "
                f"{self._place.after_damage()}"
            )
        if not self._on_server and "locked" in words:
            return LedgerUnwritable(
                f"ledger {self._place.name} cannot be written: {words}: another program has held "
                f"it for {self._patience_s:g} s. Nothing was written; end that program and run "
                "again with the same run id."
            )
        mend = "mend the server" if self._on_server else "free the disk or mend the file"
        return LedgerUnwritable(
            f"ledger {self._place.name} cannot be written: {words}. Nothing further is "
            f"accepted; {mend} and run again with the same run id."
        )


def _is_in_progress(connection: sa.Connection, transaction: str) -> bool:
    try:
        with connection.begin_nested():
            query = "SELECT pg_xact_status(%s::xid8)"
            return connection.exec_driver_sql(query, (transaction,)).scalar() == "in progress"
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        return False  # a server that crashed knows nothing of transactions it had not synced


def _compiled(table: sa.Table, engine: sa.Engine, columns: Sequence[str]) -> str:
    text = str(table.insert().inline().compile(engine, column_keys=list(columns)))
    # What is stored by the name of its content need not be stored twice.
    return text if table is events else f"{text} ON CONFLICT DO NOTHING"


def _claim_file(path: Path, holder: str) -> IO[str]:
    """Lock the file beside a ledger until it is closed, or the process ends."""
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        lock = lock_path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LedgerError(f"ledger {path} cannot be claimed: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        held_by = lock.read().strip()
        lock.close()
        raise _held_error(str(path), held_by) from error
    lock.truncate(0)
    lock.write(holder)
    lock.flush()
    return lock


def _claim_on_server(connection: sa.Connection) -> str | None:
    """Take the ledger's advisory lock for this connection; return its holder if it is taken."""
    with connection.begin():
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
        taken = connection.execute(sa.select(sa.func.pg_try_advisory_lock(_key(schema)))).scalar()
        if taken:
            return None
        query = sa.select(meta.c.value).where(meta.c.key == _HOLDER)
        written = connection.execute(query).scalar()
    return str(json.loads(written)) if written else ""


def _note_holder(connection: sa.Connection, holder: str) -> None:
    with connection.begin():
        connection.execute(meta.delete().where(meta.c.key == _HOLDER))
        connection.execute(meta.insert(), {"key": _HOLDER, "value": json.dumps(holder)})


def _held_error(name: str, holder: str) -> LedgerHeld:
    return LedgerHeld(
        f"ledger {name} is served by another broker ({holder or 'unnamed'}); "
        "use that one, or end it first"
    )


def _key(schema: Any) -> int:
    """Return a number of PostgreSQL's advisory locks; these are told apart by database."""
    digest = hashlib.blake2b(f"hpcqc ledger {schema}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
