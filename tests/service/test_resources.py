"""A broker process that strangers press: its memory, its descriptors and its log stay small."""

from __future__ import annotations

import logging
import resource
import socket
from contextlib import ExitStack
from datetime import UTC, datetime
from io import StringIO

import httpx
import psutil
import pytest

from orchestrator.broker.api.logs import LineWriter, capture_logging
from orchestrator.broker.api.serving import connection_limit
from tests.patience import PATIENCE_S
from tests.service.conftest import Service, Start

_MOST_BYTES = 400 << 20


def address_of(service: Service) -> tuple[str, int]:
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    return host, int(port)


def chunks(connection: socket.socket, most_bytes: int) -> int:
    """Send a body in chunks until the other side closes; return how much went out."""
    piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    sent = 0
    while sent < most_bytes:
        try:
            connection.sendall(piece)
        except OSError:
            break
        sent += 1 << 20
    return sent


@pytest.mark.slow
def test_bodies_of_any_size_leave_the_memory_small(service: Service) -> None:
    """Of strangers and of users, to routes that take JSON, a payload, or nothing."""
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    _, secret = service.tokens.add("ada", "user", ["chem"], now=datetime.now(UTC))
    for token in ("", f"Authorization: Bearer {secret}\r\n"):
        for target in ("/v1/budgets/runs", "/v1/jobs", "/health", "/none"):
            with socket.create_connection(address_of(service), timeout=PATIENCE_S) as connection:
                head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\n{token}"
                head += 'Job-Request: {"run":"r","qpu":"fake"}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n'
                connection.sendall(head.encode())
                chunks(connection, 400 << 20)
            assert process.memory_info().rss < _MOST_BYTES, target
    assert httpx.get(f"{service.url}/health").json()["status"] == "ok"


@pytest.mark.slow
def test_bodies_that_never_come_hold_no_place(service: Service) -> None:
    """A thousand unfinished requests of strangers, and health is answered to all others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if wanted < 2500:
        pytest.skip(f"a process may hold {hard} files open here; 2500 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    heads = [
        b"POST /v1/budgets/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ",
    ]
    with ExitStack() as stack:
        for number in range(1200):
            opened = stack.enter_context(
                socket.create_connection(address_of(service), timeout=PATIENCE_S)
            )
            opened.sendall(heads[number % len(heads)])
        assert httpx.get(f"{service.url}/health", timeout=PATIENCE_S).status_code == 200
        uds = httpx.HTTPTransport(uds=str(service.state / "broker.sock"))
        with httpx.Client(transport=uds, base_url="http://localhost", timeout=PATIENCE_S) as peer:
            assert peer.get("/v1/whoami").status_code == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_connections_beyond_the_descriptors_leave_the_log_small(start_service: Start) -> None:
    service = start_service(files=400)
    assert service.process is not None
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(socket.create_connection(address_of(service), timeout=PATIENCE_S))
        assert httpx.get(f"{service.url}/health", timeout=PATIENCE_S).status_code == 200
        assert psutil.Process(service.process.pid).num_fds() < 400
    before = len(service.log)
    assert service.stop() == 0
    assert len(service.log) - before < 50, service.log[before:][:60]


def test_the_number_of_connections_follows_the_limit_of_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits, found = [0, 0], []
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: found.append(new[0]))
    for soft, hard, connections in [
        (1024, 1 << 20, 1024),
        (1024, 1024, 384),
        (64, 64, 8),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1024),
    ]:
        limits[:] = soft, hard
        assert connection_limit() == connections
    assert found == [4096]


def test_a_line_that_repeats_is_written_a_few_times_and_counted() -> None:
    stream = StringIO()
    writer = LineWriter(stream, "text")
    root, level = logging.getLogger(), logging.getLogger().level
    kept = list(root.handlers)
    capture_logging(writer)
    relay = next(one for one in root.handlers if one not in kept)
    try:
        for number in range(20_000):
            record = logging.LogRecord(
                "asyncio", logging.ERROR, "events.py", 1, f"no files\nat {number}", (), None
            )
            record.created = 100.0 + number / 1000
            relay.emit(record)
        record = logging.LogRecord("other", logging.ERROR, "a.py", 1, "another", (), None)
        record.created = 170.0
        relay.emit(record)
    finally:
        root.removeHandler(relay)
        root.setLevel(level)
        writer.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 7
    assert 'log-lines-repeated logger=asyncio line="no files" number=19995' in lines[5]
    assert "message=another" in lines[6]
