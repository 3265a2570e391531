"""Opens a ledger, appends to it, and answers what is asked about its events and jobs."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.core.codec import to_json
from orchestrator.broker.core.snapshot import EndedJob, ended_job, forgettable, freeze
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.ledger.place import (
    LedgerError,
    Place,
    connected_engine,
    copy_file,
    place_of,
)
from orchestrator.broker.ledger.reader import Reader
from orchestrator.broker.ledger.tables import Entries, ended_jobs, events, open_tables, snapshots
from orchestrator.broker.ledger.writer import Statement, Writer
from orchestrator.identity import JobId

__all__ = ["Ledger"]

_PATIENCE_S = 30.0
_JOBS_PER_CHECKPOINT = 2000


class Ledger(Reader):
    """One ledger. Several processes may write to it, each its own scope (a run's id)."""

    def __init__(self, place: Place, engine: sa.Engine, patience_s: float) -> None:
        super().__init__(place, engine)
        self._writer = Writer(place, engine, patience_s)

    @classmethod
    def open(cls, where: Path | str, *, patience_s: float = _PATIENCE_S) -> Ledger:
        """Open or create the ledger in a file, or in the database that a URL names.

        Commits are on disk when they are answered (SQLite: WAL, synchronous=FULL). A ledger of
        an older version is upgraded, a file after it was copied. patience_s: how long a commit
        waits for another writer of the file, or for a server that is away. Raises `LedgerError`
        if the ledger is from a newer version, damaged, or in a place that cannot be reached or
        written.
        """
        place = place_of(where)
        engine = connected_engine(place, patience_s)
        try:
            open_tables(place, engine)
        except LedgerError:
            engine.dispose()
            raise
        return cls(place, engine, patience_s)

    @property
    def free_bytes(self) -> int | None:
        """Room left on the file system of the ledger's file; None on a server."""
        if self.path is None:
            return None
        left = os.statvfs(self.path.parent)
        return left.f_bavail * left.f_frsize

    def claim_service(self, holder: str = "") -> None:
        """Become the one broker that serves this ledger, until it is closed or the process dies.

        Embedded brokers of runs may write beside it. holder: names this broker in the error of
        a second one; by default process, host and time. On a server the claim goes with the
        connection of `append`, which raises if another broker has taken it meanwhile. Raises
        `LedgerHeld`, on a server after 2 s.
        """
        now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
        self._writer.claim(holder or f"process {os.getpid()} on {platform.node()} since {now}")

    def append(self, scope: str, entries: Entries) -> None:
        """Write one transaction; on return it is on disk.

        Raises `LedgerError` if it could not be written, and then nothing of it was. A lost
        connection to a server is made again for as long as the ledger is patient, and a commit
        that was never answered is looked up first. Call from one thread at a time.
        """
        self._writer.append(scope, entries)

    def checkpoint(
        self,
        scope: str,
        state: BrokerState,
        *,
        before: datetime | None = None,
        most: int = _JOBS_PER_CHECKPOINT,
    ) -> list[JobId]:
        """Store the state at the last event, and the jobs that have ended apart from it.

        Returns the jobs stored apart; give them to ``state.forget``. before: keep those in the
        state that ended later. most: how many at once (about 0.1 ms each). The state must be what
        the events appended so far led to, and neither may change meanwhile. A service's scope is
        known by its checkpoints. Raises `LedgerError`; nothing was stored then.
        """
        gone = forgettable(state, before=before, most=most)
        now = datetime.now(UTC)
        query = sa.select(sa.func.max(events.c.seq)).where(events.c.scope == scope)
        frozen = {
            "scope": scope,
            "seq": self.rows(query)[0][0] or 0,
            "at": now.timestamp(),
            "state": freeze(state, gone),
        }
        rows = [_row(scope, ended_job(state, job)) for job in gone]
        statements: list[Statement] = [(self._replacing(snapshots, "scope"), [frozen])]
        if rows:
            statements.append((self._replacing(ended_jobs, "id", "scope"), rows))
        self._writer.execute(statements)
        return gone

    def backup(self, target: Path) -> None:
        """Copy the ledger to a file that is not there yet, while it is in use.

        `open` finds it, should the ledger be damaged, if it is beside it and is called
        ``NAME….backup…``. Raises `LedgerError`; on a server, pg_dump is what to use.
        """
        if self.path is None:
            raise LedgerError(
                f"ledger {self.name} is in PostgreSQL; copy it with its own tool: pg_dump "
                "--format=custom --file=FILE DATABASE"
            )
        copy_file(self.path, target)

    def close(self) -> None:
        """Close all connections; closing twice does nothing."""
        self._writer.close()
        self._engine.dispose()

    def _replacing(self, table: sa.Table, *key: str) -> sa.Executable:
        insert: Any  # SQLite's and PostgreSQL's inserts are alike and have no type in common
        if self.is_file:
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert
        statement = insert(table)
        others = {c.name: statement.excluded[c.name] for c in table.c if c.name not in key}
        replacing: sa.Executable = statement.on_conflict_do_update(index_elements=key, set_=others)
        return replacing


def _row(scope: str, ended: EndedJob) -> dict[str, Any]:
    submitted, ended_at = ended.job.submitted, ended.job.ended_at
    return {
        "id": submitted.job,
        "scope": scope,
        "run": submitted.run,
        "project": submitted.project,
        "user": submitted.user,
        "qpu": submitted.qpu,
        "state": ended.job.state.value,
        "submitted_at": ended.job.submitted_at.timestamp(),
        "ended_at": ended_at.timestamp() if ended_at is not None else 0.0,
        "record": to_json(ended),
    }
