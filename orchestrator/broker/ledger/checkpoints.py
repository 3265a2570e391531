"""Snapshots in a ledger: how they are stored, and how a state is restored from the latest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.core.codec import from_json, to_json
from orchestrator.broker.core.events import BudgetSet, Event
from orchestrator.broker.core.snapshot import EndedJob, ended_job, freeze, missing_jobs, thaw
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.ledger.errors import LedgerError
from orchestrator.broker.ledger.reader import Reader
from orchestrator.broker.ledger.tables import ended_jobs, events, snapshots
from orchestrator.broker.ledger.writer import Statement
from orchestrator.identity import JobId, RunAccount

__all__ = [
    "Restored",
    "catch_up",
    "checkpoint_statements",
    "read_ended",
    "recall",
    "recall_for",
    "restore",
    "stored",
]

_Insert = Any  # SQLite's and PostgreSQL's inserts are alike and have no type in common


@dataclass(slots=True)
class Restored:
    """A scope's state and the number of the last event in it."""

    state: BrokerState
    seq: int = 0


def checkpoint_statements(
    reader: Reader, scope: str, state: BrokerState, gone: list[JobId], now: datetime
) -> list[Statement]:
    """Return what stores the jobs that are gone, and the rest of the state, in one transaction."""
    query = sa.select(sa.func.max(events.c.seq)).where(events.c.scope == scope)
    frozen = {
        "scope": scope,
        "seq": reader.rows(query)[0][0] or 0,
        "at": now.timestamp(),
        "state": freeze(state, gone),
    }
    rows = [_row(scope, ended_job(state, job)) for job in gone]
    statements: list[Statement] = [(_replacing(reader, snapshots, ("scope",)), [frozen])]
    if rows:
        statements.append((_replacing(reader, ended_jobs, ("id", "scope")), rows))
    return statements


def restore(reader: Reader, scope: str) -> Restored:
    """Return a scope's state: its latest snapshot, and what came after it."""
    found = _thawed(reader, scope)
    while True:
        start, trouble = found.seq, None
        try:
            catch_up(reader, scope, found)
        except LedgerError as error:
            trouble = error
        number = reader.rows(sa.select(snapshots.c.seq).where(snapshots.c.scope == scope))
        # A job recalled here may have been stored anew by a checkpoint made meanwhile.
        if (number[0][0] if number else 0) == start:
            if trouble is not None:
                raise trouble
            return found
        found = _thawed(reader, scope)


def catch_up(reader: Reader, scope: str, restored: Restored) -> int:
    """Apply the events that were written since; return how many there were."""
    count = 0
    for seq, event, at in reader.events(scope, restored.seq):
        try:
            recall_for(reader, scope, restored.state, event)
            restored.state.apply(event, at)
        except LedgerError:
            raise
        except (KeyError, ValueError) as error:
            raise reader.damage(f"what leads to event {seq}", error) from error
        restored.seq = seq
        count += 1
    return count


def recall_for(reader: Reader, scope: str, state: BrokerState, event: Event) -> None:
    """Take up again the forgotten jobs that an event is about."""
    account = state.books.new_run(event) if isinstance(event, BudgetSet) else None
    if account is not None:
        for job in _of_run(reader, scope, account):
            recall(reader, scope, state, job)
    while missing := missing_jobs(state, event):
        if not all(recall(reader, scope, state, job) for job in missing):
            return  # the event is about nothing there ever was, and applying it will say so


def _of_run(reader: Reader, scope: str, account: RunAccount) -> list[JobId]:
    """Return the jobs of a run that were stored apart; what they cost counts in its budget."""
    query = sa.select(ended_jobs.c.id).where(
        ended_jobs.c.scope == scope,
        ended_jobs.c.run == account.run,
        ended_jobs.c.user == account.user,
    )
    return [JobId(row[0]) for row in reader.rows(query)]


def recall(reader: Reader, scope: str, state: BrokerState, job: JobId) -> bool:
    """Take up a forgotten job again; return whether there is one."""
    if job in state.jobs:
        return True
    ended = stored(reader, scope, job)
    if ended is not None:
        state.recall(ended.job, ended.tasks)
    return ended is not None


def stored(reader: Reader, scope: str, job: str) -> EndedJob | None:
    """Return a job that a checkpoint stored apart, None if there is none of this id."""
    query = sa.select(ended_jobs.c.record).where(
        ended_jobs.c.id == job, ended_jobs.c.scope == scope
    )
    rows = reader.rows(query)
    return read_ended(reader, job, rows[0][0]) if rows else None


def read_ended(reader: Reader, job: str, text: str) -> EndedJob:
    """Read what a row of ``ended_jobs`` holds. Raises `LedgerError`."""
    try:
        return from_json(EndedJob, text)
    except ValueError as error:
        raise reader.damage(f"job {job}", error) from error


def _thawed(reader: Reader, scope: str) -> Restored:
    query = sa.select(snapshots.c.seq, snapshots.c.state).where(snapshots.c.scope == scope)
    for seq, text in reader.rows(query):
        try:
            return Restored(state=thaw(text), seq=seq)
        except ValueError as error:
            raise reader.damage(f"the snapshot of {scope!r}", error) from error
    return Restored(state=BrokerState())


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


def _replacing(reader: Reader, table: sa.Table, key: Sequence[str]) -> sa.Executable:
    insert: _Insert
    if reader.is_file:
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert
    statement = insert(table)
    others = {c.name: statement.excluded[c.name] for c in table.c if c.name not in key}
    replacing: sa.Executable = statement.on_conflict_do_update(index_elements=key, set_=others)
    return replacing
