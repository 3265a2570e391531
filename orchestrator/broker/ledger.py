"""The append-only record of everything a broker did, in SQLite; all else is folded from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.events import Event, event_from_json, event_to_json
from orchestrator.broker.records import job_view
from orchestrator.broker.state import BrokerState, replay
from orchestrator.broker.views import JobId, JobView

__all__ = ["SCHEMA_VERSION", "Entries", "Ledger", "LedgerError"]

SCHEMA_VERSION = 1

_metadata = sa.MetaData()
_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("scope", sa.String, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("job", sa.String),
    sa.Column("tag", sa.String),
    sa.Column("body", sa.String, nullable=False),
)
# Partial, because each index that a commit touches is a page more to sync.
_submissions = sa.Index(
    "ix_events_submitted",
    _events.c.job,
    sqlite_where=_events.c.kind == "job-submitted",
    postgresql_where=_events.c.kind == "job-submitted",
)
_payloads = sa.Table(
    "payloads",
    _metadata,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
_results = sa.Table(
    "results",
    _metadata,
    sa.Column("tag", sa.String, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


_EVENT_COLUMNS = ("scope", "at", "kind", "job", "tag", "body")


class LedgerError(ValueError):
    """The ledger cannot be opened, read or written; nothing was changed in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """What one transaction adds. payloads: bytes by digest; results: bytes by tag."""

    events: Sequence[tuple[Event, datetime]]
    payloads: Mapping[str, bytes] = field(default_factory=dict)
    results: Mapping[str, bytes] = field(default_factory=dict)


class Ledger:
    """One ledger file. Several processes may write to it, each its own scope (a run's id)."""

    def __init__(self, engine: sa.Engine, path: Path) -> None:
        """Wrap a checked engine; use `open` instead."""
        self._engine = engine
        self._writer: sa.Connection | None = None
        self.path = path
        # Compiled once: building them anew costs more than SQLite takes to commit.
        self._add_event = _compiled(_events.insert(), engine, _EVENT_COLUMNS)
        self._add_payload = _compiled(_payloads.insert(), engine, ("digest", "data"))
        self._add_result = _compiled(_results.insert(), engine, ("tag", "data"))

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open or create the ledger at ``path``.

        Commits are synced to disk (WAL, synchronous=FULL). Raises `LedgerError` if the file
        is from a newer version, damaged, or in a place that cannot be written.
        """
        engine = sa.create_engine(
            f"sqlite:///{path}", connect_args={"timeout": 30, "check_same_thread": False}
        )
        sa.event.listen(engine, "connect", _configure)
        ledger = cls(engine, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            ledger._check_version()
        except (sa.exc.DatabaseError, OSError) as error:
            engine.dispose()
            raise LedgerError(
                f"ledger {path} cannot be opened: {_reason(error)}. It was left as it is; "
                "check the disk, or name another state_dir."
            ) from error
        return ledger

    def append(self, scope: str, entries: Entries) -> None:
        """Write one transaction; on return it is on disk.

        Raises `LedgerError` if it could not be written, and then nothing of it was.
        Call from one thread at a time.
        """
        try:
            if self._writer is None:
                self._writer = self._engine.connect()
            with self._writer.begin():
                for statement, rows in (
                    (self._add_payload, list(entries.payloads.items())),
                    (self._add_result, list(entries.results.items())),
                    (self._add_event, [_row(scope, event, at) for event, at in entries.events]),
                ):
                    if rows:
                        self._writer.exec_driver_sql(statement, rows)
        except sa.exc.DatabaseError as error:
            raise LedgerError(
                f"ledger {self.path} cannot be written: {_reason(error)}. Nothing further is "
                "accepted; free the disk or mend the file and run again with the same run id."
            ) from error

    def events(self, scope: str) -> Iterator[tuple[Event, datetime]]:
        """Yield the events of a scope in the order they were written."""
        query = sa.select(_events.c.kind, _events.c.body, _events.c.at).where(
            _events.c.scope == scope
        )
        for kind, body, at in self._read(query.order_by(_events.c.seq)):
            yield event_from_json(kind, json.loads(body)), datetime.fromtimestamp(at, UTC)

    def payload(self, digest: str) -> bytes:
        """Return stored payload bytes. Raises `LedgerError` if there are none."""
        return self._blob(_payloads.c.data, _payloads.c.digest == digest, f"payload {digest}")

    def result(self, tag: str) -> bytes:
        """Return the stored result of a task. Raises `LedgerError` if there is none."""
        return self._blob(_results.c.data, _results.c.tag == tag, f"result of task {tag}")

    def runs(self) -> list[str]:
        """Return the ids of all runs, the oldest first."""
        query = sa.select(_events.c.scope).group_by(_events.c.scope)
        return [row[0] for row in self._read(query.order_by(sa.func.min(_events.c.seq)))]

    def jobs(self, run: str | None = None) -> list[JobView]:
        """Return the jobs of a run, or of every run, in order of submission."""
        views: list[JobView] = []
        for scope in self.runs() if run is None else [run]:
            state = replay(self.events(scope))
            views += [job_view(record, state.tasks) for record in state.jobs.values()]
        return sorted(views, key=lambda view: view.submitted_at)

    def job(self, job: str) -> JobView:
        """Return one job by its id or by the unambiguous start of it. Raises `LedgerError`."""
        query = sa.select(_events.c.scope, _events.c.job).where(
            _events.c.kind == "job-submitted", _events.c.job.startswith(job, autoescape=True)
        )
        found = {(row[0], row[1]) for row in self._read(query)}
        if len(found) != 1:
            many = ", ".join(sorted(name for _, name in found)[:5])
            raise LedgerError(
                f"job {job!r} is ambiguous: {many}" if found else f"no job {job!r} in {self.path}"
            )
        scope, name = found.pop()
        state: BrokerState = replay(self.events(scope))
        return job_view(state.jobs[JobId(name)], state.tasks)

    def close(self) -> None:
        """Close all connections; closing twice does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._engine.dispose()

    def _check_version(self) -> None:
        with self._engine.begin() as connection:
            if not sa.inspect(connection).has_table("meta"):
                _metadata.create_all(connection)
                row = {"key": "schema_version", "value": str(SCHEMA_VERSION)}
                connection.execute(_meta.insert().prefix_with("OR IGNORE"), row)
            query = sa.select(_meta.c.value).where(_meta.c.key == "schema_version")
            version = connection.execute(query).scalar()
        if version is None or not version.isdigit():
            raise LedgerError(f"{self.path} is no hpcqc ledger: it states no schema version")
        if int(version) > SCHEMA_VERSION:
            self._engine.dispose()
            raise LedgerError(
                f"ledger {self.path} has schema {version}, written by a newer hpcqc; this one "
                f"reads up to {SCHEMA_VERSION}. Upgrade hpcqc, or name another state_dir."
            )

    def _blob(self, column: Any, condition: Any, what: str) -> bytes:
        rows = self._read(sa.select(column).where(condition))
        if not rows:
            raise LedgerError(f"ledger {self.path} holds no {what}")
        return bytes(rows[0][0])

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).all()
        except sa.exc.DatabaseError as error:
            raise LedgerError(f"ledger {self.path} cannot be read: {_reason(error)}") from error


def _configure(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # WAL lets `hpcqc jobs` read while a run writes; FULL syncs every commit to disk.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _compiled(insert: sa.Insert, engine: sa.Engine, columns: Sequence[str]) -> str:
    ignoring = insert.prefix_with("OR IGNORE") if columns is not _EVENT_COLUMNS else insert
    return str(ignoring.compile(engine, column_keys=list(columns)))


def _row(scope: str, event: Event, at: datetime) -> tuple[Any, ...]:
    body = event_to_json(event)
    text = json.dumps(body, separators=(",", ":"))
    return scope, at.timestamp(), event.kind, body.get("job"), body.get("tag"), text


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)
