"""Opens a ledger, appends to it, and answers what is asked about its events and jobs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.core.events import Event
from orchestrator.broker.core.snapshot import EndedJob, ended_jobs
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobView
from orchestrator.broker.ledger.backups import copy_file
from orchestrator.broker.ledger.checkpoints import (
    Restored,
    catch_up,
    checkpoint_statements,
    recall,
    recall_for,
    restore,
    stored,
)
from orchestrator.broker.ledger.errors import LedgerError
from orchestrator.broker.ledger.listing import JobFilter, find_job, latest_jobs, list_ended
from orchestrator.broker.ledger.place import Place, connected_engine, place_of
from orchestrator.broker.ledger.reader import Reader
from orchestrator.broker.ledger.rows import Entries
from orchestrator.broker.ledger.schema import check_file, open_tables
from orchestrator.broker.ledger.tables import payloads, results
from orchestrator.broker.ledger.writer import Writer
from orchestrator.identity import JobId

__all__ = ["Ledger"]

_PATIENCE_S = 30.0
_JOBS_PER_CHECKPOINT = 2000


class Ledger:
    """One ledger. Several processes may write to it, each its own scope (a run's id).

    name: for messages; path: its file, None on a server.
    """

    def __init__(self, place: Place, engine: sa.Engine, patience_s: float) -> None:
        """Wrap a checked engine; use `open` instead."""
        self._engine, self._reader = engine, Reader(place, engine)
        self._writer = Writer(place, engine, patience_s)
        self.name, self.path = place.name, place.path

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

        Brokers embedded in runs are no services and go on beside it. holder: what a second one
        is told; by default the process, its host and the time. On a server the claim goes with
        the connection that `append` uses: should another broker have taken it while that was
        lost, `append` raises. Raises `LedgerHeld` that says who serves the ledger; finding that
        out takes 2 s on a server.
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

    def events(self, scope: str, kinds: Sequence[str] = ()) -> Iterator[tuple[Event, datetime]]:
        """Yield the events of a scope, or of some kinds, in order. Raises `LedgerError`."""
        for _, event, at in self._reader.events(scope, kinds=kinds):
            yield event, at

    def payload(self, digest: str) -> bytes:
        """Return stored payload bytes. Raises `LedgerError` if there are none."""
        return self._blob(payloads.c.data, payloads.c.digest == digest, f"payload {digest}")

    def result(self, tag: str) -> bytes:
        """Return the stored result of a task. Raises `LedgerError` if there is none."""
        return self._blob(results.c.data, results.c.tag == tag, f"result of task {tag}")

    def runs(self) -> list[str]:
        """Return the ids of all runs, the oldest first."""
        return self._reader.scopes()

    def jobs(
        self, run: str | None = None, limit: int | None = None, services: Sequence[str] = ()
    ) -> list[JobView]:
        """Return the latest jobs of a run, or of all runs, in order of submission.

        A run's jobs are those in its own scope and its workers' (``RUN~…``), and those that
        services keep for it. services: scopes of those, besides such as made a checkpoint.
        limit: how many at most; only the scopes they are in are read.
        """
        return latest_jobs(self._reader, run, limit, services)

    def job(self, job: str) -> JobView:
        """Return one job by its id or by the unambiguous start of it. Raises `LedgerError`."""
        return find_job(self._reader, job)

    def restore(self, scope: str) -> BrokerState:
        """Return a scope's state, from its latest snapshot and what was written after that.

        Jobs that were forgotten before the snapshot are not in it; see `recall`.
        """
        return restore(self._reader, scope).state

    def follow(self, scope: str, restored: Restored | None = None) -> Restored:
        """Bring a state up to what is written by now; None begins with the whole scope."""
        if restored is None:
            return restore(self._reader, scope)
        catch_up(self._reader, scope, restored)
        return restored

    def checkpoint(
        self,
        scope: str,
        state: BrokerState,
        *,
        before: datetime | None = None,
        most: int = _JOBS_PER_CHECKPOINT,
    ) -> list[JobId]:
        """Store the state at the last event, and the jobs that have ended apart from it.

        Returns the jobs stored apart; give them to ``state.forget``, which this does not call.
        before: keep those in the state that ended later. most: how many at once (about 0.1 ms
        each); a backlog goes faster in large pieces, for each writes the rest of the state.
        The state must be what the events appended so far led to; it may not change meanwhile,
        and `append` may not be called. A service makes one when it opens its scope: by that it
        is known to hold jobs of several runs. Raises `LedgerError`; nothing was stored then.
        """
        gone = ended_jobs(state, before=before, most=most)
        now = datetime.now(UTC)
        self._writer.execute(checkpoint_statements(self._reader, scope, state, gone, now))
        return gone

    def recall(self, scope: str, state: BrokerState, job: JobId) -> bool:
        """Take a forgotten job up into the state again; return whether there is such a job."""
        return recall(self._reader, scope, state, job)

    def recall_for(self, scope: str, state: BrokerState, event: Event) -> None:
        """Take up the forgotten jobs that an event is about, before it is handled.

        Costs nothing but a look into the state where none is needed.
        """
        recall_for(self._reader, scope, state, event)

    def ended_job(self, scope: str, job: JobId) -> EndedJob | None:
        """Return a job as a checkpoint stored it, None if none did."""
        return stored(self._reader, scope, job)

    def ended(self, wanted: JobFilter) -> list[JobView]:
        """Return jobs that checkpoints stored apart, in order of submission.

        One that was recalled since is in the state as well, and what it says there counts.
        """
        return list_ended(self._reader, wanted)

    def verify(self) -> None:
        """Read the whole file and see that it is sound: 10 ms a megabyte; nothing on a server.

        Raises `LedgerError` that names the newest backup, if there is one.
        """
        check_file(self._reader)

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

    def _blob(self, column: Any, condition: Any, what: str) -> bytes:
        rows = self._reader.rows(sa.select(column).where(condition))
        if not rows:
            raise LedgerError(f"ledger {self.name} holds no {what}")
        return bytes(rows[0][0])
