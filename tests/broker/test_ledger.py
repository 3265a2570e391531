"""The ledger on a real file: what is written is there, what cannot be written says so."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from backends.api import Usage
from backends.metering import Charge
from orchestrator.broker import events as ev
from orchestrator.broker.ledger import SCHEMA_VERSION, Entries, Ledger, LedgerError
from orchestrator.broker.views import JobId, JobState

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
        pubs=(ev.PubShape(points=2, shots=100),),
        num_qubits=3,
        seed=4,
    ),
    ev.TaskPlanned(tag="j1.0", qpu="q", parts=(PART,)),
    ev.TaskAdopted(tag="j1.0", qpu_task="t"),
    ev.TaskUncertain(tag="j1.0", reason="no answer"),
    ev.TaskFailed(tag="j1.0", error="broke", error_type="TaskFailed"),
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


def test_every_event_comes_back_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.append("r", entries(*HISTORY))
    ledger.close()
    again = Ledger.open(tmp_path / "ledger.sqlite")
    assert list(again.events("r")) == [(event, NOW) for event in HISTORY]
    assert list(again.events("other")) == []
    again.close()


def test_jobs_are_folded_with_tasks_and_usage(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.append("r", entries(*HISTORY))
    (job,) = ledger.jobs("r")
    assert ledger.job("j1") == job == ledger.jobs()[0]
    assert job.state is JobState.COMPLETED
    assert (job.shots, job.circuits, job.seed, job.stage) == (200, 2, 4, "s")
    assert [task.state for task in job.tasks] == ["failed", "completed"]
    assert job.usage.charges == (Charge(amount=0.9, unit="billed-s"),)
    assert job.tasks[1].metadata == {"method": ["stabilizer"]}
    with pytest.raises(LedgerError, match="no job 'nope'"):
        ledger.job("nope")
    ledger.close()


def test_blobs_are_kept_by_name_and_written_once(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.append("r", Entries(events=[], payloads={"d": b"one"}, results={"t": b"two"}))
    ledger.append("r", Entries(events=[], payloads={"d": b"other"}))
    assert (ledger.payload("d"), ledger.result("t")) == (b"one", b"two")
    with pytest.raises(LedgerError, match="no payload x"):
        ledger.payload("x")
    ledger.close()


def test_a_ledger_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ?", (str(SCHEMA_VERSION + 3),))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"schema {SCHEMA_VERSION + 3}.*newer hpcqc"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_ledger_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is a diary, not a database" * 100)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open(path)
    assert path.read_bytes().startswith(b"this is a diary")


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.append("r", entries(HISTORY[0]))
    # SQLite's own limit gives the very error of a full disk, SQLITE_FULL.
    writer = ledger._writer
    assert writer is not None
    pages = writer.execute(sa.text("PRAGMA page_count")).scalar()
    writer.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
    writer.commit()
    full = Entries(events=[(HISTORY[1], NOW)], payloads={"d": b"x" * 1_000_000})
    with pytest.raises(LedgerError, match=r"cannot be written.*full"):
        ledger.append("r", full)
    assert [event for event, _ in ledger.events("r")] == [HISTORY[0]]
    ledger.close()
