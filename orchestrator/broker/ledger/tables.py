"""The tables of a ledger as this version writes them: how they are made and upgraded, and events as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.core.codec import to_json
from orchestrator.broker.core.events import Event, event_from_json
from orchestrator.broker.ledger.place import (
    LedgerError,
    Place,
    copy_file,
    database_words,
    free_name,
    is_damage,
    newest_backup,
)

__all__ = [
    "EVENT_COLUMNS",
    "SCHEMA_VERSION",
    "Entries",
    "alone",
    "ended_jobs",
    "event_of",
    "events",
    "meta",
    "metadata",
    "open_tables",
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


_MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 0x68706371  # "hpcq": whoever makes or changes tables holds this lock of PostgreSQL's


def open_tables(place: Place, engine: sa.Engine) -> None:
    """Make the tables if there are none, and upgrade those of an older version.

    A file is copied before it is upgraded. Raises `LedgerError` for tables of something else or
    of a newer version, and for a file that is damaged or cannot be written.
    """
    try:
        if place.path is not None:
            place.path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_emptied(place, place.path)
            # Results are the user's own; SQLite gives its -wal and -shm files the same mode.
            place.path.touch(mode=0o600)
        _prepare(place, engine)
    except (sa.exc.DBAPIError, OSError) as error:
        words = database_words(error)
        if place.path is not None and is_damage(words):
            advice = place.after_damage()
        else:
            advice = f"It was left as it is; {place.remedy}."
        raise LedgerError(f"ledger {place.name} cannot be opened: {words}. {advice}") from error


def _refuse_emptied(place: Place, path: Path) -> None:
    """An empty file is a new ledger, but not where there are copies of an earlier one."""
    if path.exists() and path.stat().st_size == 0 and newest_backup(path) is not None:
        raise LedgerError(f"ledger {place.name} is empty. {place.after_damage()}")


def _prepare(place: Place, engine: sa.Engine) -> None:
    with engine.connect() as connection:
        version = _version(place, connection)
    if version is None:
        with alone(engine) as connection:
            _create(place, connection)
            version = _version(place, connection)
    if version is None or not version.isdigit():
        raise LedgerError(f"{place.name} is not an hpcqc ledger: it states no schema version")
    if int(version) > SCHEMA_VERSION:
        raise LedgerError(
            f"ledger {place.name} has schema {version}, written by a newer hpcqc; this one "
            f"reads up to {SCHEMA_VERSION}. Upgrade hpcqc, or name another state folder with HPCQC_STATE_DIR."
        )
    if int(version) < SCHEMA_VERSION:
        with alone(engine) as connection:
            _upgrade(place, connection)


@contextmanager
def alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Begin a transaction that excludes other changes of tables; commit it at the end."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def _version(place: Place, connection: sa.Connection) -> str | None:
    """Return the version that a ledger states, "" for none, and None if it has no tables yet."""
    # One look: between two of them another process may make the tables.
    there = set(sa.inspect(connection).get_table_names())
    if meta.name in there:
        query = sa.select(meta.c.value).where(meta.c.key == "schema_version")
        return connection.execute(query).scalar() or ""
    # A PostgreSQL database may hold other tables, as long as they do not have our names.
    foreign = there if place.path is not None else there & set(metadata.tables)
    if foreign:
        raise LedgerError(
            f"{place.name} is not an hpcqc ledger: it has tables of another program "
            f"({', '.join(sorted(foreign)[:3])}). It was left as it is; {place.remedy}."
        )
    return None


def _create(place: Place, connection: sa.Connection) -> None:
    if _version(place, connection) is None:
        metadata.create_all(connection)
        row = {"key": "schema_version", "value": str(SCHEMA_VERSION)}
        connection.execute(meta.insert(), row)


def _upgrade(place: Place, connection: sa.Connection) -> None:
    version = int(_version(place, connection) or 0)
    if version >= SCHEMA_VERSION:  # another process was quicker
        return
    if place.path is not None:
        copy_file(place.path, free_name(place.path, f"schema-{version}"))
    from alembic import command  # here, because a ledger of this version needs none of it
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.stamp(config, f"{version:04d}", purge=True)
    command.upgrade(config, "head")
