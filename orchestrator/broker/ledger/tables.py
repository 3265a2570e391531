"""The tables of a ledger as this version writes them, and events as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.core.codec import to_json
from orchestrator.broker.core.events import Event, event_from_json

__all__ = [
    "EVENT_COLUMNS",
    "SCHEMA_VERSION",
    "Entries",
    "ended_jobs",
    "event_of",
    "events",
    "meta",
    "metadata",
    "payloads",
    "results",
    "row_of",
    "snapshots",
]

SCHEMA_VERSION = 2

# SQLite numbers rows by itself only in a column that is called INTEGER.
_RowNumber = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", _RowNumber, primary_key=True, autoincrement=True),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("job", sa.String),
    sa.Column("tag", sa.String),
    sa.Column("body", sa.String, nullable=False),
)
# SQLite adds the row's number to every index by itself.
sa.Index("ix_events_scope", events.c.scope).ddl_if(dialect="sqlite")
sa.Index("ix_events_scope_seq", events.c.scope, events.c.seq).ddl_if(dialect="postgresql")
# Partial, because each index that a commit touches is a page more to sync.
sa.Index(
    "ix_events_submitted",
    events.c.job,
    sqlite_where=events.c.kind == "job-submitted",
    postgresql_where=events.c.kind == "job-submitted",
    postgresql_ops={"job": "text_pattern_ops"},  # a job may be asked for by the start of its id
)
payloads = sa.Table(
    "payloads",
    metadata,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
results = sa.Table(
    "results",
    metadata,
    sa.Column("tag", sa.String, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("scope", sa.String, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("state", sa.String, nullable=False),
)
ended_jobs = sa.Table(
    "ended_jobs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("scope", sa.String, primary_key=True),
    sa.Column("run", sa.String, nullable=False),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("user", sa.String, nullable=False),
    sa.Column("qpu", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("submitted_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Column("record", sa.String, nullable=False),
    sa.Index("ix_ended_jobs_submitted", "submitted_at"),
    sa.Index("ix_ended_jobs_ended", "ended_at"),
    sa.Index("ix_ended_jobs_run", "run", "submitted_at"),
    sa.Index("ix_ended_jobs_project", "project", "submitted_at"),
)
sa.Index("ix_ended_jobs_id", ended_jobs.c.id, postgresql_ops={"id": "text_pattern_ops"}).ddl_if(
    dialect="postgresql"
)


EVENT_COLUMNS = ("scope", "at", "kind", "job", "tag", "body")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """What one transaction adds. payloads: bytes by digest; results: bytes by tag."""

    events: Sequence[tuple[Event, datetime]]
    payloads: Mapping[str, bytes] = field(default_factory=dict)
    results: Mapping[str, bytes] = field(default_factory=dict)


def row_of(scope: str, event: Event, at: datetime) -> tuple[Any, ...]:
    """Return the values of `EVENT_COLUMNS`."""
    job, tag = getattr(event, "job", None), getattr(event, "tag", None)
    return scope, at.timestamp(), event.kind, job, tag, to_json(event)


def event_of(kind: str, body: str, at: float) -> tuple[Event, datetime]:
    """Rebuild an event and its time. Raises ``ValueError`` if the row makes no sense."""
    return event_from_json(kind, body), datetime.fromtimestamp(at, UTC)
