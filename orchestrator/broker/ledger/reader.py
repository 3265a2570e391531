"""Reads a ledger beside whoever writes it, and names stored data that makes no sense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.core.codec import from_json
from orchestrator.broker.core.events import BudgetSet, Event
from orchestrator.broker.core.snapshot import EndedJob, missing_jobs, thaw
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.ledger.place import LedgerError, Place, database_words, is_damage
from orchestrator.broker.ledger.tables import (
    ended_jobs,
    event_of,
    events,
    payloads,
    results,
    snapshots,
)
from orchestrator.identity import JobId

__all__ = ["Reader", "Restored"]

_PAGE = 5000

# The oldest event of each scope, found by leaping from scope to scope through the index.
_SCOPES = sa.text(
    "WITH RECURSIVE leap(scope) AS (SELECT min(scope) FROM events UNION ALL "
    "SELECT (SELECT min(scope) FROM events WHERE events.scope > leap.scope) "
    "FROM leap WHERE leap.scope IS NOT NULL) "
    "SELECT scope, (SELECT min(seq) FROM events WHERE events.scope = leap.scope) AS first "
    "FROM leap WHERE scope IS NOT NULL ORDER BY first"
)


@dataclass(slots=True)
class Restored:
    """A scope's state and the number of the last event in it."""

    state: BrokerState
    seq: int = 0


class Reader:
    """Asks a ledger's tables; each question is a transaction of its own.

    name: for messages; path: its file, None on a server.
    """

    def __init__(self, place: Place, engine: sa.Engine) -> None:
        self.place, self.name, self.path = place, place.name, place.path
        self._engine = engine

    @property
    def is_file(self) -> bool:
        """Whether SQLite answers."""
        return self.path is not None

    def rows(self, query: sa.Executable) -> Sequence[sa.Row[Any]]:
        """Return all rows. Raises `LedgerError`."""
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).all()
        except sa.exc.DBAPIError as error:
            words = database_words(error)
            advice = self.place.after_damage() if self.is_file and is_damage(words) else ""
            raise LedgerError(
                f"ledger {self.name} cannot be read: {words}. {advice}".strip()
            ) from error

    def events(self, scope: str, kinds: Sequence[str] = ()) -> Iterator[tuple[Event, datetime]]:
        """Yield the events of a scope, or of some kinds, in order. Raises `LedgerError`."""
        for _, event, at in self.numbered_events(scope, kinds=kinds):
            yield event, at

    def numbered_events(
        self, scope: str, after: int = 0, kinds: Sequence[str] = ()
    ) -> Iterator[tuple[int, Event, datetime]]:
        """Yield a scope's events that were written after one, with their numbers, in order.

        kinds: those of these alone; none given means all.
        """
        of_kind = events.c.kind.in_(kinds) if kinds else sa.true()
        while True:
            query = (
                sa.select(events.c.seq, events.c.kind, events.c.body, events.c.at)
                .where(events.c.scope == scope, events.c.seq > after, of_kind)
                .order_by(events.c.seq)
                .limit(_PAGE)
            )
            page = self.rows(query)
            for seq, kind, body, at in page:
                try:
                    event, when = event_of(kind, body, at)
                except ValueError as error:
                    raise self._damage(f"event {seq}", error) from error
                yield seq, event, when
            if len(page) < _PAGE:
                return
            after = page[-1][0]

    def runs(self) -> list[str]:
        """Return the scopes of all runs and services, the oldest first."""
        return [row[0] for row in self.rows(_SCOPES)]

    def payload(self, digest: str) -> bytes:
        """Return stored payload bytes. Raises `LedgerError` if there are none."""
        return self._blob(payloads.c.data, payloads.c.digest == digest, f"payload {digest}")

    def result(self, tag: str) -> bytes:
        """Return the stored result of a task. Raises `LedgerError` if there is none."""
        return self._blob(results.c.data, results.c.tag == tag, f"result of task {tag}")

    def restore(self, scope: str) -> BrokerState:
        """Return a scope's state, from its latest snapshot and what was written after that.

        Jobs that were forgotten before the snapshot are not in it; see `recall`.
        """
        return self.follow(scope).state

    def follow(self, scope: str, restored: Restored | None = None) -> Restored:
        """Bring a state up to what is written by now; None begins with the whole scope."""
        if restored is not None:
            self._catch_up(scope, restored)
            return restored
        found = self._thawed(scope)
        while True:
            start, trouble = found.seq, None
            try:
                self._catch_up(scope, found)
            except LedgerError as error:
                trouble = error
            number = self.rows(sa.select(snapshots.c.seq).where(snapshots.c.scope == scope))
            # A job recalled here may have been stored anew by a checkpoint made meanwhile.
            if (number[0][0] if number else 0) == start:
                if trouble is not None:
                    raise trouble
                return found
            found = self._thawed(scope)

    def recall(self, scope: str, state: BrokerState, job: JobId) -> bool:
        """Take a forgotten job up into the state again; return whether there is such a job."""
        if job in state.jobs:
            return True
        ended = self.ended_job(scope, job)
        if ended is not None:
            state.recall(ended.job, ended.tasks)
        return ended is not None

    def recall_for(self, scope: str, state: BrokerState, event: Event) -> None:
        """Take up the forgotten jobs that an event is about, before it is handled.

        Costs nothing but a look into the state where none is needed.
        """
        account = state.books.new_run(event) if isinstance(event, BudgetSet) else None
        if account is not None:  # what the run's ended jobs cost counts in its budget
            query = sa.select(ended_jobs.c.id).where(
                ended_jobs.c.scope == scope,
                ended_jobs.c.run == account.run,
                ended_jobs.c.user == account.user,
            )
            for (job,) in self.rows(query):
                self.recall(scope, state, JobId(job))
        while missing := missing_jobs(state, event):
            if not all(self.recall(scope, state, job) for job in missing):
                return  # the event is about nothing there ever was, and applying it will say so

    def ended_job(self, scope: str, job: str) -> EndedJob | None:
        """Return a job as a checkpoint stored it, None if none did."""
        query = sa.select(ended_jobs.c.record).where(
            ended_jobs.c.id == job, ended_jobs.c.scope == scope
        )
        rows = self.rows(query)
        return self.read_ended(job, rows[0][0]) if rows else None

    def read_ended(self, job: str, text: str) -> EndedJob:
        """Read what a row of ``ended_jobs`` holds. Raises `LedgerError`."""
        try:
            return from_json(EndedJob, text)
        except ValueError as error:
            raise self._damage(f"job {job}", error) from error

    def verify(self) -> None:
        """Read the whole file and see that it is sound: 10 ms a megabyte; nothing on a server.

        Raises `LedgerError` that names the newest backup, if there is one.
        """
        if not self.is_file:
            return
        found = [row[0] for row in self.rows(sa.text("PRAGMA quick_check(3)"))]
        if found != ["ok"]:
            what = "; ".join(" ".join(text.split()) for text in found)
            raise LedgerError(f"ledger {self.name} is damaged: {what}. {self.place.after_damage()}")

    def starts_with(self, column: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
        """Return the condition that a column starts with a text, such that an index serves."""
        if self.is_file:
            return sa.and_(column >= text, column < text + "\U0010ffff")
        return column.startswith(text, autoescape=True)

    def _catch_up(self, scope: str, restored: Restored) -> None:
        """Apply the events that were written since."""
        for seq, event, at in self.numbered_events(scope, restored.seq):
            try:
                self.recall_for(scope, restored.state, event)
                restored.state.apply(event, at)
            except LedgerError:
                raise
            except (KeyError, ValueError) as error:
                raise self._damage(f"what leads to event {seq}", error) from error
            restored.seq = seq

    def _thawed(self, scope: str) -> Restored:
        query = sa.select(snapshots.c.seq, snapshots.c.state).where(snapshots.c.scope == scope)
        for seq, text in self.rows(query):
            try:
                return Restored(state=thaw(text), seq=seq)
            except ValueError as error:
                raise self._damage(f"the snapshot of {scope!r}", error) from error
        return Restored(state=BrokerState())

    def _blob(self, column: Any, condition: Any, what: str) -> bytes:
        rows = self.rows(sa.select(column).where(condition))
        if not rows:
            raise LedgerError(f"ledger {self.name} holds no {what}")
        return bytes(rows[0][0])

    def _damage(self, what: str, error: Exception) -> LedgerError:
        """Return the error to raise when stored data makes no sense."""
        return LedgerError(
            f"ledger {self.name} is damaged: {what} cannot be read "
            f"({type(error).__name__}: {error}). {self.place.after_damage()}"
        )
