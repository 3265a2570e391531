"""Opens a ledger, appends to it, and answers what is asked about its events and jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.events import Event
from orchestrator.broker.ledger.backups import copy_file
from orchestrator.broker.ledger.errors import LedgerError, database_words
from orchestrator.broker.ledger.place import Place, connected_engine, place_of
from orchestrator.broker.ledger.rows import Entries, event_of
from orchestrator.broker.ledger.schema import prepare
from orchestrator.broker.ledger.tables import events, payloads, results
from orchestrator.broker.ledger.writer import Writer
from orchestrator.broker.records import job_view
from orchestrator.broker.state import BrokerState, replay
from orchestrator.broker.views import JobId, JobView

__all__ = ["Ledger"]

_PATIENCE_S = 30.0


class Ledger:
    """One ledger. Several processes may write to it, each its own scope (a run's id).

    name: for messages; path: its file, None on a server.
    """

    def __init__(self, place: Place, engine: sa.Engine, writer: Writer) -> None:
        """Wrap a checked engine; use `open` instead."""
        self._engine, self._writer = engine, writer
        self.name, self.path = place.name, place.path

    @classmethod
    def open(cls, where: Path | str, *, patience_s: float = _PATIENCE_S) -> Ledger:
        """Open or create the ledger in a file, or in the database that a URL names.

        Commits are on disk when they are answered (SQLite: WAL, synchronous=FULL).
        patience_s: how long a commit waits for another writer of the file, or for a server
        that is away. Raises `LedgerError` if the ledger is from a newer version, damaged, or
        in a place that cannot be reached or written.
        """
        place = place_of(where)
        engine = connected_engine(place, patience_s)
        try:
            if place.path is not None:
                place.path.parent.mkdir(parents=True, exist_ok=True)
            prepare(place, engine)
        except (sa.exc.DBAPIError, OSError) as error:
            engine.dispose()
            raise LedgerError(
                f"ledger {place.name} cannot be opened: {database_words(error)}. It was left as "
                f"it is; {place.remedy}."
            ) from error
        except LedgerError:
            engine.dispose()
            raise
        return cls(place, engine, Writer(place, engine, patience_s))

    def append(self, scope: str, entries: Entries) -> None:
        """Write one transaction; on return it is on disk.

        Raises `LedgerError` if it could not be written, and then nothing of it was. A lost
        connection to a server is made again for as long as the ledger is patient, and a commit
        that was never answered is looked up first. Call from one thread at a time.
        """
        self._writer.append(scope, entries)

    def events(self, scope: str) -> Iterator[tuple[Event, datetime]]:
        """Yield the events of a scope in the order they were written."""
        query = sa.select(events.c.kind, events.c.body, events.c.at).where(events.c.scope == scope)
        for kind, body, at in self._read(query.order_by(events.c.seq)):
            yield event_of(kind, body, at)

    def payload(self, digest: str) -> bytes:
        """Return stored payload bytes. Raises `LedgerError` if there are none."""
        return self._blob(payloads.c.data, payloads.c.digest == digest, f"payload {digest}")

    def result(self, tag: str) -> bytes:
        """Return the stored result of a task. Raises `LedgerError` if there is none."""
        return self._blob(results.c.data, results.c.tag == tag, f"result of task {tag}")

    def runs(self) -> list[str]:
        """Return the ids of all runs, the oldest first."""
        query = sa.select(events.c.scope).group_by(events.c.scope)
        return [row[0] for row in self._read(query.order_by(sa.func.min(events.c.seq)))]

    def jobs(self, run: str | None = None) -> list[JobView]:
        """Return the jobs of a run, or of every run, in order of submission."""
        views: list[JobView] = []
        for scope in self.runs() if run is None else [run]:
            state = replay(self.events(scope))
            views += [job_view(record, state.tasks) for record in state.jobs.values()]
        return sorted(views, key=lambda view: view.submitted_at)

    def job(self, job: str) -> JobView:
        """Return one job by its id or by the unambiguous start of it. Raises `LedgerError`."""
        query = sa.select(events.c.scope, events.c.job).where(
            events.c.kind == "job-submitted", events.c.job.startswith(job, autoescape=True)
        )
        found = {(row[0], row[1]) for row in self._read(query)}
        if len(found) != 1:
            many = ", ".join(sorted(name for _, name in found)[:5])
            raise LedgerError(
                f"job {job!r} is ambiguous: {many}" if found else f"no job {job!r} in {self.name}"
            )
        scope, name = found.pop()
        state: BrokerState = replay(self.events(scope))
        return job_view(state.jobs[JobId(name)], state.tasks)

    def backup(self, target: Path) -> None:
        """Copy the ledger to a new file, consistently, also while it is in use.

        Raises `LedgerError` if the file is there already or cannot be written, and for a
        database on a server, which has tools of its own.
        """
        if self.path is None:
            raise LedgerError(f"ledger {self.name} is on a server; copy it with pg_dump")
        copy_file(self.path, target)

    def close(self) -> None:
        """Close all connections; closing twice does nothing."""
        self._writer.close()
        self._engine.dispose()

    def _blob(self, column: Any, condition: Any, what: str) -> bytes:
        rows = self._read(sa.select(column).where(condition))
        if not rows:
            raise LedgerError(f"ledger {self.name} holds no {what}")
        return bytes(rows[0][0])

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).all()
        except sa.exc.DBAPIError as error:
            raise LedgerError(
                f"ledger {self.name} cannot be read: {database_words(error)}"
            ) from error
