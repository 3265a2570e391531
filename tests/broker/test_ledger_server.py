"""The ledger on PostgreSQL while server and connections die: nothing lost, nothing doubled."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Entries, Ledger, LedgerError
from tests.patience import until
from tests.postgres import PostgresServer

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def entries(number: int) -> Entries:
    event = ev.TaskStarted(tag=f"t{number}", qpu_task=str(number))
    return Entries(events=[(event, NOW)], payloads={f"d{number}": b"x"})


def tags(ledger: Ledger) -> list[str]:
    return [event.tag for event, _ in ledger.events("r") if isinstance(event, ev.TaskStarted)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGQUIT, marks=pytest.mark.slow)]
)
def test_a_restarted_server_costs_only_time(
    postgres_server: PostgresServer, postgres_url: str, how: signal.Signals
) -> None:
    ledger = Ledger.open(postgres_url)
    for number in range(2):
        ledger.append("r", entries(number))
        postgres_server.restart(how)
    ledger.append("r", entries(2))
    assert tags(ledger) == ["t0", "t1", "t2"]
    ledger.close()


@pytest.mark.slow
def test_a_server_that_stays_away_is_an_error_until_it_is_back(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    ledger = Ledger.open(postgres_url, patience_s=0.3)
    ledger.append("r", entries(0))
    postgres_server.stop()
    try:
        for _ in range(2):
            with pytest.raises(LedgerError, match="written"):
                ledger.append("r", entries(1))
        with pytest.raises(LedgerError, match="read"):
            tags(ledger)
    finally:
        postgres_server.start()
    assert tags(ledger) == ["t0"]
    ledger.append("r", entries(1))
    assert tags(ledger) == ["t0", "t1"]
    ledger.close()


@pytest.mark.slow
def test_a_server_that_restarts_meanwhile_is_waited_for(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    ledger = Ledger.open(postgres_url)
    ledger.append("r", entries(0))
    postgres_server.stop()
    tries: list[object] = []
    sa.event.listen(sa.Engine, "do_connect", lambda *details: tries.append(details))
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(ledger.append, "r", entries(1))
        until(lambda: len(tries) >= 2 or written.done())
        assert not written.done()
        postgres_server.start()
        written.result()
    assert tags(ledger) == ["t0", "t1"]
    ledger.close()


class Wire:
    """Passes bytes between client and server, and cuts the line at the next COMMIT.

    cut: "before" the server hears of it, or "after", when its answer is on the way.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.cut = ""
        self.refuses = False
        self._server = server
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(folder / ".s.PGSQL.5432"))
        self._door.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            if self.refuses:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server / ".s.PGSQL.5432"))
            for one, other in ((client, server), (server, client)):
                watch = one is client
                threading.Thread(target=self._pass, args=(one, other, watch), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, watch: bool) -> None:
        try:
            while data := one.recv(65536):
                if watch and self.cut and b"COMMIT" in data:
                    how, self.cut = self.cut, ""
                    self.refuses = how.endswith("for good")
                    if how.startswith("after"):
                        one.shutdown(socket.SHUT_RDWR)  # the client sees the line go dead
                        other.sendall(data)
                        time.sleep(0.2)
                    break
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            _shut(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@pytest.fixture
def wire(
    postgres_server: PostgresServer, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Wire, Callable[..., Ledger]]]:
    folder = Path(tempfile.mkdtemp(prefix="w", dir=postgres_server.folder))
    line = Wire(folder, postgres_server.folder)
    url = postgres_url.replace(str(postgres_server.folder), str(folder))
    yield line, lambda **options: Ledger.open(url, **options)
    line.close()


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_commit_without_an_answer_is_looked_up(
    wire: tuple[Wire, Callable[..., Ledger]], cut: str
) -> None:
    line, opened = wire
    ledger = opened()
    ledger.append("r", entries(0))
    line.cut = cut
    ledger.append("r", entries(1))
    assert line.cut == ""
    ledger.append("r", entries(2))
    assert tags(ledger) == ["t0", "t1", "t2"]
    ledger.close()


@pytest.mark.parametrize("cut", ["before for good", "after for good"])
def test_what_was_in_doubt_is_not_doubled_when_it_is_handed_in_again(
    wire: tuple[Wire, Callable[..., Ledger]], cut: str
) -> None:
    line, opened = wire
    ledger = opened(patience_s=0.3)
    ledger.append("r", entries(0))
    line.cut = cut
    with pytest.raises(LedgerError, match="written"):
        ledger.append("r", entries(1))
    line.refuses = False
    ledger.append("r", entries(1))
    assert tags(ledger) == ["t0", "t1"]
    ledger.close()


def test_what_was_written_unseen_is_told_before_anything_else_is_added(
    wire: tuple[Wire, Callable[..., Ledger]],
) -> None:
    line, opened = wire
    ledger = opened(patience_s=0.3)
    line.cut = "after for good"
    with pytest.raises(LedgerError, match="written"):
        ledger.append("r", entries(1))
    line.refuses = False
    with pytest.raises(LedgerError, match="after all"):
        ledger.append("r", entries(2))
    assert tags(ledger) == ["t1"]
    ledger.close()
