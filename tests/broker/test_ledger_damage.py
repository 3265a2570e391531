"""Damaged ledgers: refused with the way back, and never written to; and the copies for that."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backends.api import Usage
from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Entries, Ledger, LedgerError
from tests.broker.histories import submitted
from tests.errors import naming

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def work(number: int) -> Entries:
    part = ev.Part(
        job=submitted(number, []).job, pub=0, first_point=0, end_point=1, first_shot=0, end_shot=9
    )
    tag = f"j{number}.0"
    events: list[ev.Event] = [
        submitted(number, [(1, 9)]),
        ev.TaskPlanned(tag=tag, qpu="q", parts=(part,)),
        ev.TaskStarted(tag=tag, qpu_task=str(number)),
        ev.TaskCompleted(tag=tag, usage=Usage()),
    ]
    blob = random.Random(number).randbytes(300)
    return Entries(
        events=[(event, NOW) for event in events],
        payloads={str(number): blob},
        results={tag: blob},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with a few hundred events and nothing in its -wal."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path)
    for number in range(100):
        ledger.append("r", work(number))
    ledger.close()
    assert not path.with_name("ledger.sqlite-wal").exists()
    return path


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite_head(path: Path) -> None:
    path.write_bytes(b"this is a diary" + path.read_bytes()[15:])


def use_all(path: Path) -> None:
    """Do with a ledger whatever one does with it."""
    ledger = Ledger.open(path)
    try:
        ledger.verify()
        ledger.restore("r")
        ledger.jobs()
    finally:
        ledger.close()


@pytest.mark.parametrize("harm", [truncate, empty, overwrite_head])
def test_a_broken_file_is_refused_and_its_backup_named(
    path: Path, harm: Callable[[Path], None]
) -> None:
    ledger = Ledger.open(path)
    before = ledger.jobs()
    for day in (1, 2):
        ledger.backup(path.with_name(f"ledger.day-{day}.backup.sqlite"))
    ledger.close()
    harm(path)
    broken = path.read_bytes()
    with pytest.raises(LedgerError, match=naming("ledger.day-2.backup.sqlite")):
        use_all(path)
    assert path.read_bytes() == broken
    path.unlink()
    shutil.copy(path.with_name("ledger.day-2.backup.sqlite"), path)
    again = Ledger.open(path)
    again.verify()
    assert again.jobs() == before
    again.close()


def test_a_broken_file_without_a_backup_is_refused_too(path: Path) -> None:
    truncate(path)
    with pytest.raises(LedgerError, match="backup"):
        use_all(path)


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_anywhere_are_noticed_or_change_nothing(path: Path, seed: int) -> None:
    ledger = Ledger.open(path)
    before = ledger.jobs(), ledger.runs()
    ledger.close()
    chance, data = random.Random(seed), bytearray(path.read_bytes())
    start = chance.randrange(4096, len(data) - 4096)
    data[start : start + 4096] = chance.randbytes(4096)
    path.write_bytes(data)
    told = ""
    try:
        use_all(path)
    except LedgerError as error:
        told = str(error)
    if told:
        assert "left as it is" in told
    else:
        ledger = Ledger.open(path)
        assert (ledger.jobs(), ledger.runs()) == before
        ledger.close()
    assert path.read_bytes() == data


def test_a_row_that_makes_no_sense_is_named(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET body = '{\"tag\": ' WHERE seq = 7")
    connection.close()
    ledger = Ledger.open(path)
    for ask in (lambda: list(ledger.events("r")), lambda: ledger.restore("r"), ledger.jobs):
        with pytest.raises(LedgerError, match=naming(7, "backup")):
            ask()
    ledger.close()


def test_a_copy_made_while_others_write_is_whole(tmp_path: Path) -> None:
    ledger, stop = Ledger.open(tmp_path / "ledger.sqlite"), threading.Event()
    ledger.append("r", work(0))

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            ledger.append("r", work(number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            ledger.backup(tmp_path / f"copy{number}.sqlite")
    finally:
        stop.set()
        writer.join()
    ledger.close()
    sizes = []
    for number in range(5):
        copy = Ledger.open(tmp_path / f"copy{number}.sqlite")
        copy.verify()
        jobs = copy.jobs()
        assert all(job.state.is_final for job in jobs)  # whole transactions alone
        assert copy.result(jobs[-1].tasks[0].tag)
        sizes.append(len(jobs))
        copy.close()
    assert sizes == sorted(sizes)


def test_a_copy_overwrites_nothing(path: Path, tmp_path: Path) -> None:
    ledger = Ledger.open(path)
    for there in (path, tmp_path):
        with pytest.raises(LedgerError, match=naming(there)):
            ledger.backup(there)
    with pytest.raises(LedgerError, match=naming("no such folder")):
        ledger.backup(tmp_path / "no such folder" / "copy.sqlite")
    assert [p.name for p in tmp_path.iterdir() if "unfinished" in p.name] == []
    ledger.close()


def test_on_a_server_pg_dump_is_named(postgres_url: str, tmp_path: Path) -> None:
    ledger = Ledger.open(postgres_url)
    ledger.verify()
    with pytest.raises(LedgerError, match="pg_dump"):
        ledger.backup(tmp_path / "copy")
    ledger.close()
