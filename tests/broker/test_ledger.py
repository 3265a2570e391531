"""The ledger in a real file and on a real server: complete, or with an error."""

from __future__ import annotations

import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from backends.api import Usage
from backends.metering import Charge
from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import SCHEMA_VERSION, Entries, Ledger, LedgerError
from orchestrator.identity import JobId
from tests.errors import naming

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
PART = ev.Part(job=JobId("j1"), pub=0, first_point=0, end_point=2, first_shot=0, end_shot=100)
HISTORY: list[ev.Event] = [
    ev.BrokerOpened(resume=False),
    ev.JobSubmitted(
        job=JobId("j1"),
        run="r",
        stage="s",
        call=0,
        qpu="q",
        backend="aer",
        payload_kind="sampler",
        digest="d",
        pubs=(ItemShape(points=2, shots=100),),
        num_qubits=3,
        seed=4,
    ),
    ev.TaskPlanned(tag="j1.0", qpu="q", parts=(PART,)),
    ev.TaskAdopted(tag="j1.0", qpu_task="t"),
    ev.TaskUncertain(tag="j1.0", reason="no answer"),
    ev.TaskErred(tag="j1.0", error="broke", error_type="TaskFailed"),
    ev.JobResumed(job=JobId("j1")),
    ev.TaskPlanned(tag="j1.1", qpu="q", parts=(PART,)),
    ev.TaskStarted(tag="j1.1", qpu_task="u"),
    ev.TaskCompleted(
        tag="j1.1",
        usage=Usage(qpu_seconds=2.5, shots=200, charges=(Charge(amount=0.9, unit="billed-s"),)),
        metadata={"method": ["stabilizer"]},
    ),
    ev.JobCancelRequested(job=JobId("j1")),
]


def entries(*events: ev.Event) -> Entries:
    return Entries(events=[(event, NOW) for event in events])


def test_every_event_comes_back_as_it_was(where: Path | str) -> None:
    ledger = Ledger.open(where)
    ledger.append("r", entries(*HISTORY))
    ledger.close()
    again = Ledger.open(where)
    assert list(again.events("r")) == [(event, NOW) for event in HISTORY]
    assert list(again.events("other")) == []
    again.close()


def test_jobs_are_folded_with_tasks_and_usage(where: Path | str) -> None:
    ledger = Ledger.open(where)
    ledger.append("r", entries(*HISTORY))
    (job,) = ledger.jobs("r")
    assert ledger.job("j1") == job == ledger.jobs()[0]
    assert job.state is JobState.COMPLETED
    assert (job.shots, job.circuits, job.seed, job.stage) == (200, 2, 4, "s")
    assert [task.state for task in job.tasks] == ["failed", "completed"]
    assert job.usage.charges == (Charge(amount=0.9, unit="billed-s"),)
    assert job.tasks[1].metadata == {"method": ["stabilizer"]}
    with pytest.raises(LedgerError, match=naming("nope")):
        ledger.job("nope")
    ledger.close()


def test_blobs_are_kept_by_name_and_written_once(where: Path | str) -> None:
    ledger = Ledger.open(where)
    ledger.append("r", Entries(events=[], payloads={"d": b"one"}, results={"t": b"two"}))
    ledger.append("r", Entries(events=[], payloads={"d": b"other"}))
    assert (ledger.payload("d"), ledger.result("t")) == (b"one", b"two")
    with pytest.raises(LedgerError, match=naming("payload", "x")):
        ledger.payload("x")
    ledger.close()


def test_a_ledger_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ?", (str(SCHEMA_VERSION + 3),))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=naming(SCHEMA_VERSION + 3, "newer")):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_ledger_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is a diary, not a database" * 100)
    with pytest.raises(LedgerError, match=naming(path)):
        Ledger.open(path)
    assert path.read_bytes().startswith(b"this is a diary")


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.append("r", entries(HISTORY[0]))
    # SQLite's own limit gives the very error of a full disk, SQLITE_FULL.
    writer = ledger._writer._connection
    assert writer is not None
    pages = writer.execute(sa.text("PRAGMA page_count")).scalar()
    writer.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
    writer.commit()
    full = Entries(events=[(HISTORY[1], NOW)], payloads={"d": b"x" * 1_000_000})
    with pytest.raises(LedgerError, match="full"):
        ledger.append("r", full)
    assert [event for event, _ in ledger.events("r")] == [HISTORY[0]]
    ledger.close()


def test_a_file_may_be_named_by_a_url(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite"
    ledger = Ledger.open(f"sqlite:///{path}")
    ledger.append("r", entries(*HISTORY))
    assert ledger.path == path
    ledger.close()
    again = Ledger.open(path)
    assert [job.id for job in again.jobs()] == ["j1"]
    again.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "file"),
        ("sqlite:///:memory:", "file"),
        ("mysql://user:secret@host/db", naming("sqlite", "postgresql")),
        ("secret no url", "URL"),
        ("postgresql://user:secret@127.0.0.1:1/db?connect_timeout=2", "127.0.0.1"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(LedgerError, match=words) as refused:
        Ledger.open(url)
    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerError, match=naming("hpcqc[postgresql]")):
        Ledger.open("postgresql://host/db")


def test_a_database_of_something_else_is_left_alone(where: Path | str) -> None:
    url = f"sqlite:///{where}" if isinstance(where, Path) else where
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE events (what VARCHAR)"))
    with pytest.raises(LedgerError, match=naming("events")):
        Ledger.open(where)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["events"]
    engine.dispose()


def test_a_database_that_another_program_holds_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path, patience_s=0.2)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match=naming("locked", "0.2 s")):
        ledger.append("r", entries(HISTORY[0]))
    assert list(ledger.events("r")) == []
    other.rollback()
    other.close()
    ledger.append("r", entries(HISTORY[0]))
    assert [event for event, _ in ledger.events("r")] == [HISTORY[0]]
    ledger.close()


def test_many_may_make_the_same_ledger_at_once(where: Path | str) -> None:
    def make(number: int) -> None:
        ledger = Ledger.open(where)
        ledger.append(f"r{number}", entries(*HISTORY))
        ledger.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(8)))
    ledger = Ledger.open(where)
    assert sorted(ledger.runs()) == [f"r{number}" for number in range(8)]
    ledger.close()
