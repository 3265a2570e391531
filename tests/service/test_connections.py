"""Connections that do not do their part: none holds the server, its memory or a place for good."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from orchestrator.broker.api.serving import Connections, Listener, web_server
from tests.patience import PATIENCE_S, until

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
WAIT_S = PATIENCE_S
ANSWER = 16 << 20
# The limits that ship, except that it waits for nobody.
IMPATIENT = Connections(most=200, head_s=1.0, keep_alive_s=1.0, linger_s=0.5, read_s=0.5)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, but to ``/echo`` after the body, with the number of headers and bytes."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b"ok"
    if scope["path"] == "/echo":
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message["body"]), message["more_body"]
        body = b"%d headers, %d bytes" % (len(scope["headers"]), size)
    if scope["path"] == "/large":
        body = bytes(ANSWER)
    if scope["path"] == "/stay":
        await asyncio.sleep(WAIT_S)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(among: Connections) -> Iterator[Callable[[], socket.socket]]:
    """Serve on a port; yield what opens a connection to it."""
    listener = Listener.open("127.0.0.1:0")
    server = web_server(application, among)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener.socket])), daemon=True
    )
    thread.start()
    address = listener.socket.getsockname()
    with ExitStack() as stack:

        def connect() -> socket.socket:
            made = stack.enter_context(socket.create_connection(address, timeout=WAIT_S))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made

        yield connect
    server.should_exit = server.force_exit = True
    thread.join(WAIT_S)
    listener.close()


@pytest.fixture(scope="module")
def connect() -> Iterator[Callable[[], socket.socket]]:
    with serving(IMPATIENT) as opened:
        yield opened


def send(connection: socket.socket, data: bytes) -> bool:
    """Send; return False if the other side has closed meanwhile."""
    try:
        connection.sendall(data)
    except ConnectionError:
        return False
    return True


def until_closed(connection: socket.socket) -> bytes:
    """Return the bytes received until the server closes the connection."""
    found = []
    try:
        while data := connection.recv(1 << 16):
            found.append(data)
    except ConnectionError:
        pass
    return b"".join(found)


def busy(among: Connections) -> list[Any]:
    return [one for one in among.opened() if not one.is_idle]


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def problem(answer: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


@pytest.mark.parametrize("piece", [1 << 20, 1 << 14, 999])
@pytest.mark.parametrize("over", [False, True])
def test_a_head_is_cut_at_the_limit(
    connect: Callable[[], socket.socket], piece: int, over: bool
) -> None:
    connection = connect()
    begin, end = HEAD + b"X: ", b"\r\nConnection: close\r\n\r\n"
    head = begin + b"x" * ((1 << 16) - len(begin + end) + over) + end
    for at in range(0, len(head), piece):
        if not send(connection, head[at : at + piece]):
            break
    answer = until_closed(connection)
    if over:
        assert answer == b"" or problem(answer)["error_type"] == "HeadTooLarge"
    else:
        assert statuses(answer) == [200]


@pytest.mark.parametrize(
    "flood",
    [
        HEAD + b"X: " + b"x" * (1 << 22),
        HEAD + b"A: b\r\n" * 101 + b"\r\n",
        b"GET /" + b"x" * (1 << 22),
        b"G" * (1 << 22),
        CHUNKED + b"1;" + b"x" * (1 << 22),
        CHUNKED + b"0\r\nX: " + b"x" * (1 << 22),
        CHUNKED + b"0\r\n" + b"A: b\r\n" * (1 << 18),
        CHUNKED + b"3\r\nabc\r\n0\r\nX: " + b"x" * (1 << 22),
        (HEAD + b"\r\n") * 1000,
    ],
    ids=[
        "header",
        "headers",
        "target",
        "method",
        "extension",
        "trailer",
        "trailers",
        "late",
        "pipe",
    ],
)
def test_nothing_but_a_body_grows_beyond_its_limit(
    connect: Callable[[], socket.socket], flood: bytes
) -> None:
    connection = connect()
    send(connection, flood)
    answer = until_closed(connection)
    assert set(statuses(answer)) <= {200, 400, 429, 431}, answer[:500]
    assert len(statuses(answer)) < 50


def test_a_trailer_is_no_header(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    send(connection, CHUNKED + b"3\r\nabc\r\n0\r\nAuthorization: Bearer x\r\nHost: evil\r\n\r\n")
    assert b"2 headers, 3 bytes" in until_closed(connection)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b""),
        (HEAD, b"X-Slow: 1\r\n"),
        (HEAD + b"\r\n", b""),
        (HEAD + b"\r\n", b"\r\n"),
        (HEAD + b"Content-Length: 9\r\n\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"x"),
    ],
    ids=["silent", "slow head", "idle", "line ends", "body", "chunks", "upgrade"],
)
def test_a_client_that_does_not_go_on_is_closed(
    connect: Callable[[], socket.socket], first: bytes, then: bytes
) -> None:
    """Also one that sends a little again and again."""
    connection = connect()
    send(connection, first)
    connection.settimeout(0.1)
    for _ in range(int(WAIT_S / 0.1)):
        try:
            if not connection.recv(1 << 16):
                return
        except TimeoutError:
            send(connection, then)
        except ConnectionError:
            return
    pytest.fail("it is still open")


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_an_answer_that_is_not_read_is_given_up(
    connect: Callable[[], socket.socket], more: bytes
) -> None:
    connection = connect()
    send(connection, HEAD.replace(b"/ ", b"/large ") + more + b"\r\n")
    until(lambda: any(one.transport.get_write_buffer_size() for one in IMPATIENT.opened()))
    until(lambda: not IMPATIENT.opened())
    assert len(until_closed(connection)) < ANSWER


def test_answers_that_nobody_reads_are_few_at_a_time() -> None:
    among = Connections(most=200, most_unsent_bytes=2 * ANSWER)
    with serving(among) as connect:
        for _ in range(10):
            send(connect(), HEAD.replace(b"/ ", b"/large ") + b"\r\n")
        until(lambda: len(among.opened()) <= 4)  # what the kernel takes is not counted
        held = sum(one.transport.get_write_buffer_size() for one in among.opened())
        assert held <= 2 * ANSWER


def test_a_large_answer_that_is_read_comes_whole(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IMPATIENT, "read_s", WAIT_S)
    connection = connect()
    send(connection, HEAD.replace(b"/ ", b"/large ") + b"Connection: close\r\n\r\n")
    assert len(until_closed(connection)) > ANSWER


def test_connections_that_wait_make_place_and_those_at_work_stay() -> None:
    among = Connections(most=40)
    with serving(among) as connect:
        working: list[socket.socket] = []
        for _ in range(9):
            working.append(connect())
            send(working[-1], HEAD.replace(b"/ ", b"/stay ") + b"\r\n")
            until(lambda: len(busy(among)) == len(working))
        silent = [connect() for _ in range(30)]
        late = connect()
        send(late, HEAD + b"Connection: close\r\n\r\n")
        assert statuses(until_closed(late)) == [200]
        assert until_closed(silent[0]) == b""
        working.append(connect())  # a quarter of all: the last place of this peer
        send(working[-1], HEAD.replace(b"/ ", b"/stay ") + b"\r\n")
        until(lambda: len(busy(among)) == 10)
        assert problem(until_closed(connect()))["error_type"] == "TooManyConnections"
        assert len(busy(among)) == 10


def test_a_proxy_that_the_site_names_may_hold_all_places() -> None:
    among = Connections(most=12, proxies=frozenset({"loopback"}))
    with serving(among) as connect:
        for number in range(12):
            send(connect(), HEAD.replace(b"/ ", b"/stay ") + b"\r\n")
            until(lambda: len(busy(among)) == number + 1)  # noqa: B023  # called here
