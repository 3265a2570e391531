"""One service per ledger: a second one names the first, and takes over after its death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Entries, Ledger, LedgerError, LedgerHeld
from tests.errors import naming
from tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OPENED = Entries(events=[(ev.BrokerOpened(resume=True), NOW)])
HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.broker.ledger import Ledger
where = sys.argv[1]
ledger = Ledger.open(where if "://" in where else Path(where))
ledger.claim_service()
print("claimed", flush=True)
time.sleep(900)
"""


@pytest.fixture
def holder(where: Path | str) -> Iterator[subprocess.Popen[str]]:
    """Another process that serves the ledger."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(where)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_second_service_is_told_who_the_first_is(
    where: Path | str, holder: subprocess.Popen[str]
) -> None:
    ledger = Ledger.open(where)
    with pytest.raises(LedgerHeld, match=rf"{holder.pid}.* \d{{4}}-"):
        ledger.claim_service()
    ledger.append("some run", OPENED)  # as a broker embedded in a run, it goes on
    assert ledger.runs() == ["some run"]
    ledger.close()


@pytest.mark.slow
def test_a_killed_service_is_succeeded_at_once(
    where: Path | str, holder: subprocess.Popen[str]
) -> None:
    ledger = Ledger.open(where)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    ledger.claim_service("the second")
    third = Ledger.open(where)
    with pytest.raises(LedgerHeld, match=naming("the second")):
        third.claim_service()
    ledger.close()
    third.claim_service()
    third.close()


def test_a_claim_lasts_until_its_ledger_is_closed(where: Path | str) -> None:
    for _ in range(2):
        ledger = Ledger.open(where)
        ledger.claim_service("me")
        ledger.claim_service("me")
        ledger.append("service", OPENED)
        ledger.close()


def test_a_place_that_takes_no_lock_is_an_error(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    (tmp_path / "ledger.sqlite.lock").mkdir()
    with pytest.raises(LedgerError, match=naming(tmp_path / "ledger.sqlite.lock")):
        ledger.claim_service()
    ledger.close()


@pytest.mark.slow
def test_a_claim_is_taken_up_again_after_a_restart_of_the_server(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    first, second = Ledger.open(postgres_url), Ledger.open(postgres_url)
    first.claim_service("first")
    postgres_server.restart()
    first.append("service", OPENED)
    with pytest.raises(LedgerHeld, match="first"):
        second.claim_service("second")
    for ledger in (first, second):
        ledger.close()


@pytest.mark.slow
def test_a_service_that_lost_its_claim_to_another_writes_nothing(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    first, second = Ledger.open(postgres_url, patience_s=0.5), Ledger.open(postgres_url)
    first.claim_service("first")
    postgres_server.restart()
    second.claim_service("second")
    with pytest.raises(LedgerHeld, match="second"):
        first.append("service", OPENED)
    assert second.runs() == []
    for ledger in (first, second):
        ledger.close()
