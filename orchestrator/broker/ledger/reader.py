"""Reads a ledger beside whoever writes it, and names stored data that makes no sense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.core.codec import from_json
from orchestrator.broker.core.events import BudgetSet, Event
from orchestrator.broker.core.records import JobRecord, job_view
from orchestrator.broker.core.snapshot import EndedJob, missing_jobs, thaw
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger.place import LedgerError, Place, database_words, is_damage
from orchestrator.broker.ledger.tables import (
    ended_jobs,
    event_of,
    events,
    payloads,
    results,
    snapshots,
)
from orchestrator.identity import JobId, is_scope_of

__all__ = ["JobFilter", "Reader", "Restored"]

_PAGE = 5000
_IDS_AT_ONCE = 500
_Views = dict[tuple[str, JobId], JobView]  # by scope and id

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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list."""

    scope: str | None = None
    run: str | None = None
    projects: tuple[str, ...] | None = None  # of these alone, None for all
    qpu: str | None = None
    state: JobState | None = None
    since: datetime | None = None  # those that ended then or later, or not yet
    until: datetime | None = None  # those submitted before
    limit: int | None = None  # the latest N

    def includes(self, record: JobRecord) -> bool:
        """Whether a job in a state is to be listed, whatever the limit."""
        submitted = record.submitted
        return (
            self.run in (None, submitted.run)
            and (self.projects is None or submitted.project in self.projects)
            and self.qpu in (None, submitted.qpu)
            and self.state in (None, record.state)
            and (self.since is None or record.ended_at is None or record.ended_at >= self.since)
            and (self.until is None or record.submitted_at < self.until)
        )


class Reader:
    """Asks a ledger's tables; each question is a transaction of its own."""

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
        """Yield a scope's events of some kinds, or all, after a number, with their numbers."""
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
        """Return a scope's state, without the jobs that a checkpoint stored apart; see `recall`."""
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
        """Take up the forgotten jobs that an event is about, before it is handled."""
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
        """Check the whole file, 10 ms a megabyte. Raises `LedgerError` that names a backup."""
        if not self.is_file:
            return
        found = [row[0] for row in self.rows(sa.text("PRAGMA quick_check(3)"))]
        if found != ["ok"]:
            what = "; ".join(" ".join(text.split()) for text in found)
            raise LedgerError(f"ledger {self.name} is damaged: {what}. {self.place.after_damage()}")

    def jobs(
        self, run: str | None = None, limit: int | None = None, services: Sequence[str] = ()
    ) -> list[JobView]:
        """Return the latest jobs of a run, or of all runs, in order of submission.

        A run's jobs are those in its own scope and its workers' (``RUN~…``), and those that
        services keep for it. services: scopes of those, besides such as made a checkpoint.
        limit: how many at most; only the scopes they are in are read.
        """
        if run is not None:
            return _in_order(self._of_run(run, limit, services))[-limit if limit else 0 :]
        found: _Views = {}
        if limit is None:
            found |= self._ended(JobFilter())
            for scope in self.runs():
                found |= self._in_state(scope)
            return _in_order(found)
        wanted: dict[str, list[JobId]] = {}
        for job, scope in self._last_submissions(limit):
            wanted.setdefault(scope, []).append(JobId(job))
        for scope, jobs in wanted.items():
            found |= self._these(scope, jobs)
        return _in_order(found)

    def job(self, job: str) -> JobView:
        """Return one job by its id or by the unambiguous start of it. Raises `LedgerError`."""
        query = sa.select(events.c.scope, events.c.job).where(
            events.c.kind == "job-submitted", self._starts_with(events.c.job, job)
        )
        found = {(row[0], row[1]) for row in self.rows(query.limit(_IDS_AT_ONCE))}
        exact = {pair for pair in found if pair[1] == job}
        found = exact or found
        if len(found) != 1:
            many = ", ".join(sorted(name for _, name in found)[:5])
            name = self.name
            raise LedgerError(
                f"job {job!r} is ambiguous: {many}" if found else f"no job {job!r} in {name}"
            )
        scope, name = found.pop()
        (view,) = self._these(scope, [JobId(name)]).values()
        return view

    def ended(self, wanted: JobFilter) -> list[JobView]:
        """Return the jobs that checkpoints stored apart, in order of submission."""
        return _in_order(self._ended(wanted))

    def _catch_up(self, scope: str, restored: Restored) -> None:
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
            raise LedgerError(f"ledger {self.name} has no {what}")
        return bytes(rows[0][0])

    def _starts_with(self, column: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
        """Return the condition that a column starts with a text, such that an index serves."""
        if self.is_file:
            return sa.and_(column >= text, column < text + "\U0010ffff")
        return column.startswith(text, autoescape=True)

    def _ended(self, wanted: JobFilter) -> _Views:
        query = sa.select(ended_jobs.c.scope, ended_jobs.c.id, ended_jobs.c.record)
        for column in ("scope", "run", "qpu"):
            value = getattr(wanted, column)
            if value is not None:
                query = query.where(ended_jobs.c[column] == value)
        if wanted.state is not None:
            query = query.where(ended_jobs.c.state == wanted.state.value)
        if wanted.projects is not None:
            query = query.where(ended_jobs.c.project.in_(wanted.projects))
        if wanted.since is not None:
            query = query.where(ended_jobs.c.ended_at >= wanted.since.timestamp())
        if wanted.until is not None:
            query = query.where(ended_jobs.c.submitted_at < wanted.until.timestamp())
        query = query.order_by(ended_jobs.c.submitted_at.desc()).limit(wanted.limit)
        return self._views(query)

    def _of_run(self, run: str, limit: int | None, services: Sequence[str]) -> _Views:
        """A run's jobs are in its own scope, in those of its workers, or in that of a service."""
        found = self._ended(JobFilter(run=run, limit=limit))
        shared = {row[0] for row in self.rows(sa.select(snapshots.c.scope))}
        own = [scope for scope in self.runs() if is_scope_of(scope, run)]
        for scope in own:
            if scope in shared:
                found |= self._ended(JobFilter(scope=scope, limit=limit))
            found |= self._in_state(scope)
        for scope in shared.union(services).difference(own):
            found |= self._in_state(scope, run)  # one taken up again counts as it is now
        return found

    def _these(self, scope: str, jobs: list[JobId]) -> _Views:
        """Return some jobs of a scope. A row of one that was taken up again is out of date."""
        there = self._in_state(scope)
        found = {(scope, job): there[scope, job] for job in jobs if (scope, job) in there}
        ended = [job for job in jobs if (scope, job) not in there]
        for first in range(0, len(ended), _IDS_AT_ONCE):
            found |= self._views(
                sa.select(ended_jobs.c.scope, ended_jobs.c.id, ended_jobs.c.record).where(
                    ended_jobs.c.scope == scope,
                    ended_jobs.c.id.in_(ended[first : first + _IDS_AT_ONCE]),
                ),
            )
        return found

    def _views(self, query: sa.Select[tuple[str, str, str]]) -> _Views:
        found = [(scope, self.read_ended(job, text)) for scope, job, text in self.rows(query)]
        # Jobs of one commit have one time; sorting by time leaves them in this order.
        found.sort(key=lambda pair: pair[1].job.arrival)
        return {(scope, ended.job.submitted.job): ended.view for scope, ended in found}

    def _in_state(self, scope: str, run: str | None = None) -> _Views:
        state = self.restore(scope)
        return {
            (scope, job): job_view(record, state.tasks)
            for job, record in state.jobs.items()
            if run is None or record.submitted.run == run
        }

    def _last_submissions(self, limit: int) -> list[tuple[str, str]]:
        # Written so that the index of all submissions does not tempt the planner to sort them.
        kind = events.c.kind.concat("") == "job-submitted"
        query = sa.select(events.c.job, events.c.scope).where(kind).order_by(events.c.seq.desc())
        return [(row[0], row[1]) for row in self.rows(query.limit(limit))]

    def _damage(self, what: str, error: Exception) -> LedgerError:
        return LedgerError(
            f"ledger {self.name} is damaged: {what} cannot be read "
            f"({type(error).__name__}: {error}). {self.place.after_damage()}"
        )


def _in_order(views: _Views) -> list[JobView]:
    return sorted(views.values(), key=lambda view: view.submitted_at)
