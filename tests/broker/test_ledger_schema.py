"""Ledgers of other versions: older ones are copied and upgraded, and lose nothing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import SCHEMA_VERSION, Entries, Ledger, LedgerError
from orchestrator.broker.ledger import tables as ledger_schema
from orchestrator.broker.ledger.tables import metadata
from tests.errors import naming
from tests.patience import PATIENCE_S

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
MIGRATIONS = Path(ledger_schema.__file__).with_name("migrations")
# As the first release wrote it.
FIRST_SCHEMA = """
CREATE TABLE meta ("key" VARCHAR NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE events (seq INTEGER NOT NULL, scope VARCHAR NOT NULL, at FLOAT NOT NULL,
  kind VARCHAR NOT NULL, job VARCHAR, tag VARCHAR, body VARCHAR NOT NULL, PRIMARY KEY (seq));
CREATE INDEX ix_events_scope ON events (scope);
CREATE INDEX ix_events_submitted ON events (job) WHERE kind = 'job-submitted';
CREATE TABLE payloads (digest VARCHAR NOT NULL, data BLOB NOT NULL, PRIMARY KEY (digest));
CREATE TABLE results (tag VARCHAR NOT NULL, data BLOB NOT NULL, PRIMARY KEY (tag));
INSERT INTO meta VALUES ('schema_version', '1');
INSERT INTO events (scope, at, kind, tag, body)
  VALUES ('r', 1777863721.0, 'task-cancelled', 't', '{"tag":"t"}');
"""


def test_a_ledger_and_its_copies_are_for_their_owner_alone(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.sqlite", tmp_path / "copy.sqlite"
    ledger = Ledger.open(path)
    ledger.append("run", Entries(events=[(ev.TaskStopped(tag="t"), NOW)]))
    ledger.backup(copy)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert len(modes) >= 3  # the log of SQLite's is one of them
    ledger.close()


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A ledger of the first release."""
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(FIRST_SCHEMA)
    connection.close()
    return path


def engine_of(where: Path | str) -> sa.Engine:
    return sa.create_engine(f"sqlite:///{where}" if isinstance(where, Path) else where)


def migrate(where: Path | str, revision: str) -> None:
    """Make or change tables by the revisions alone, as the first release would have them."""
    engine = engine_of(where)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.execute(sa.text("DROP TABLE alembic_version"))
    engine.dispose()


def test_an_older_ledger_is_copied_and_upgraded(first: Path) -> None:
    ledger = Ledger.open(first)
    assert [event for event, _ in ledger.events("r")] == [ev.TaskStopped(tag="t")]
    ledger.append("r", Entries(events=[(ev.TaskStopped(tag="u"), NOW)]))
    ledger.close()
    (copy,) = first.parent.glob("*backup*")
    assert copy.name == "ledger.schema-1.backup.sqlite"
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT value FROM meta").fetchall() == [("1",)]
        assert connection.execute("SELECT tag FROM events").fetchall() == [("t",)]
    connection.close()
    again = Ledger.open(first)
    assert len(list(again.events("r"))) == 2
    again.close()
    assert len(list(first.parent.glob("*backup*"))) == 1


def test_the_revisions_lead_to_the_tables_of_this_version(where: Path | str) -> None:
    migrate(where, "head")
    engine = engine_of(where)
    with engine.connect() as connection:
        ours = {t.name for t in metadata.tables.values()}
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
        # Alembic cannot read which database an index is meant for.
        other = "ix_events_scope_seq", "ix_ended_jobs_id"
        if engine.dialect.name == "postgresql":
            other = ("ix_events_scope",)
        meant = [d for d in differences if d[0] != "add_index" or d[1].name not in other]
        assert meant == []
        assert set(sa.inspect(connection).get_table_names()) == ours
        version = connection.execute(sa.text("SELECT value FROM meta")).scalar()
        assert version == str(SCHEMA_VERSION)
    engine.dispose()


@pytest.mark.parametrize("older", range(1, SCHEMA_VERSION))
def test_every_older_version_is_upgraded(where: Path | str, older: int) -> None:
    migrate(where, f"{older:04d}")
    with ThreadPoolExecutor(4) as threads:  # as when several runs start after an upgrade
        for ledger in threads.map(Ledger.open, [where] * 4):
            ledger.close()
    ledger = Ledger.open(where)
    ledger.append("r", Entries(events=[(ev.BrokerOpened(resume=True), NOW)]))
    assert (ledger.runs(), ledger.jobs()) == (["r"], [])
    ledger.close()


def test_an_upgrade_that_fails_leaves_the_ledger_as_it_was(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Config, revision: str) -> None:
        config.attributes["connection"].execute(sa.text("CREATE TABLE half (a VARCHAR)"))
        raise sa.exc.OperationalError("CREATE", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", broken)
        with pytest.raises(LedgerError, match=naming("disk I/O error")):
            Ledger.open(first)
    with sqlite3.connect(first) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        assert connection.execute("SELECT value FROM meta").fetchall() == [("1",)]
    connection.close()
    assert not tables & {"half", "snapshots", "alembic_version"}


def test_an_upgrade_without_room_for_a_copy_does_not_begin(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, why: str) -> Path:
        return first.parent / "no such folder" / "copy"

    monkeypatch.setattr(ledger_schema, "free_name", full)
    with pytest.raises(LedgerError, match=naming("no such folder")):
        Ledger.open(first)
    with sqlite3.connect(first) as connection:
        assert connection.execute("SELECT value FROM meta").fetchall() == [("1",)]
    connection.close()


def test_opening_a_ledger_of_this_version_does_not_load_alembic(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from orchestrator.broker.ledger import Ledger\n"
        f"for _ in range(2): Ledger.open(Path({str(tmp_path / 'ledger.sqlite')!r})).close()\n"
        "assert 'alembic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)


def test_events_in_old_ledgers_are_read_by_their_kind() -> None:
    failed = {"tag": "j1.0", "error": "it broke", "error_type": "TaskFailed"}
    changed = {"qpu": "vlq", "calibration": "c2", "before": "c1"}
    assert ev.event_from_json("task-failed", json.dumps(failed)) == ev.TaskErred(**failed)
    assert ev.event_from_json("task-cancelled", '{"tag": "j1.0"}') == ev.TaskStopped(tag="j1.0")
    assert ev.event_from_json("calibration-changed", json.dumps(changed)) == ev.QpuRecalibrated(
        **changed
    )
