"""Connections of the server: how many a peer may hold, and how long each may keep it waiting."""

from __future__ import annotations

import asyncio
import http
import ipaddress
import resource
import socket
from dataclasses import dataclass, field
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from orchestrator.broker.api.peers import EXTENSION, UnixPeer, peer_of_socket
from orchestrator.broker.api.problems import ApiError, problem_response

__all__ = ["KEEP_ALIVE_S", "Connection", "Connections", "address_name", "connection_limit"]

# How long a client may take for a head, and be silent between two requests.
_HEAD_S = 10.0
KEEP_ALIVE_S = 65.0
# How long the rest of a body that is not wanted, or the end of a connection, may take.
_LINGER_S = 5.0
# Of a head, of trailers, of a chunk's extensions: of anything that is no body.
_HEAD_BYTES = 1 << 16
_PIECE_BYTES = 1 << 14
_MOST_HEADERS = 100
_MOST_PIPELINED = 16
# An answer is read at 16 KiB/s at least.
_READ_S, _READ_BYTES = 20.0, 20 * (16 << 10)
# Of answers that nobody has read yet; beyond it the largest is given up.
_MOST_UNSENT_BYTES = 128 << 20
_MOST_CONNECTIONS = 1024
_WANTED_FILES = 4096
_OTHER_FILES = 256  # of the ledger, backends, pages and logs


def connection_limit() -> int:
    """Return how many connections this process can serve.

    Raises its soft limit of open files as far as the hard one allows; each connection may need a
    second file for its body.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(8, min(_MOST_CONNECTIONS, (soft - _OTHER_FILES) // 2))


@dataclass(eq=False)
class Connections:
    """All open connections, by peer: a Unix user, this machine's loopback, or an address.

    A quarter is the most for one peer, except for ``proxies`` (as `address_name` names them). A
    further one takes the place of the oldest that waits for its client; if all are at work, it
    is refused.
    token_only: addresses of Unix sockets on which peers are not recognised.
    """

    most: int
    proxies: frozenset[str] = frozenset()
    token_only: frozenset[str] = frozenset()
    _of_peer: dict[str, dict[Connection, None]] = field(default_factory=dict)

    def admit(self, connection: Connection) -> bool:
        """Take a connection in; return False where there is no place for it."""
        peer = connection.peer_name
        its = self._of_peer.get(peer, {})
        most = self.most if peer in self.proxies else max(1, self.most // 4)
        if len(its) >= most and not self._end_idle(peer):
            return False
        if sum(map(len, self._of_peer.values())) >= self.most:
            by_number = sorted(self._of_peer, key=lambda name: -len(self._of_peer[name]))
            if not any(self._end_idle(name) for name in by_number):
                return False
        self._of_peer.setdefault(peer, {})[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        its = self._of_peer.get(connection.peer_name, {})
        its.pop(connection, None)
        if not its:
            self._of_peer.pop(connection.peer_name, None)

    def bound_unsent(self) -> None:
        """Give up the largest unread answers until the rest is small enough to be held."""
        every = [one for its in self._of_peer.values() for one in its]
        unsent = {one: one.transport.get_write_buffer_size() for one in every}
        total = sum(unsent.values())
        for one in sorted(every, key=lambda one: -unsent[one]):
            if total <= _MOST_UNSENT_BYTES:
                return
            total -= unsent[one]
            one.transport.abort()

    def _end_idle(self, peer: str) -> bool:
        idle = next((one for one in self._of_peer.get(peer, ()) if one.is_idle), None)
        if idle is None:
            return False
        self.leave(idle)
        idle.end()
        return True


class Connection(HttpToolsProtocol):
    """Uvicorn's protocol that knows its peer, and whose every wait for the client ends."""

    def __init__(self, *, among: Connections, **options: Any) -> None:
        """Prepare for a connection among others; options: uvicorn's own."""
        super().__init__(**options)
        self._among = among
        self._peer: UnixPeer | None = None
        self.peer_name = ""
        self._refused = False
        self._in_head, self._in_message = False, False
        self._headers, self._head_bytes = 0, 0
        # Steps of the parser that free what it holds, and the bytes since the last of them.
        self._steps, self._pending_bytes = 0, 0
        self._clock: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._unsent = 0

    @property
    def is_idle(self) -> bool:
        """Whether it waits for its client and no answer is under way."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def end(self) -> None:
        """Close it as soon as what was written is sent, or a moment later."""
        self.transport.close()
        self._expect(_LINGER_S)

    def connection_made(self, transport: Any) -> None:
        """Take the peer in, or answer that there is no place."""
        super().connection_made(transport)
        opened = transport.get_extra_info("socket")
        peer = peer_of_socket(opened)
        self.peer_name = _name_of(opened) if peer is None else f"uid {peer.uid}"
        if peer is not None and opened.getsockname() not in self._among.token_only:
            self._peer = peer
        if self._among.admit(self):
            self._expect(_HEAD_S)
        else:
            self._refuse(
                503, "too many connections are open; come back later", "TooManyConnections"
            )

    def data_received(self, data: bytes) -> None:
        """Parse what came, piece by piece, so that nothing grows beyond its limit."""
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        while rest and not self._refused and self.parser is not None:
            size = min(_PIECE_BYTES, _HEAD_BYTES - self._pending_bytes)
            piece, rest = rest[:size], rest[size:]
            before = self._steps
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                return  # answered as any other request, and closed then
            except httptools.HttpParserError:
                self._refuse(400, "this is not an HTTP request", "BadRequest")
            self._pending_bytes = 0 if self._steps > before else self._pending_bytes + len(piece)
            if self._pending_bytes >= _HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """Begin a head: note its peer and its time."""
        super().on_message_begin()
        self._in_head, self._in_message = True, True
        self._headers, self._head_bytes = 0, 0
        if self._peer is not None:
            self.scope["extensions"] = {EXTENSION: self._peer}  # type: ignore[dict-item]  # ours
        if self.is_idle:
            self._expect(_HEAD_S)

    def on_url(self, url: bytes) -> None:
        """Count a part of the target."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; drop a trailer."""
        if not self._in_head:
            return  # a trailer: what it says was not there when the sender was checked
        super().on_header(name, value)
        self._headers += 1
        self._count_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is refused."""
        self._in_head = False
        self._steps += 1
        if not self.url.startswith(b"/"):
            # An absolute target would name a second host, beside the one that is checked.
            self._refuse(400, "the target of a request is a path", "BadRequest")
        elif len(self.pipeline) >= _MOST_PIPELINED:
            self._refuse(429, "too many requests were sent at once", "TooManyRequests")
        if self._refused:
            raise ConnectionAbortedError  # to the parser, which reads no further
        self._expect(None)
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Note a step of the client."""
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        self._in_message = False
        self._steps += 1
        super().on_message_complete()
        if self.is_idle:  # it was answered before its end
            self._expect(KEEP_ALIVE_S)

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this one, for so long."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size() and self._reading is None:
            self._watch_reading()
        if not self.is_idle or self.transport.is_closing():
            return
        in_message = _HEAD_S if self._in_head else _LINGER_S
        self._expect(in_message if self._in_message else KEEP_ALIVE_S)

    def pause_writing(self) -> None:
        """Watch whether the client reads."""
        super().pause_writing()
        self._among.bound_unsent()
        if self._reading is None:
            self._watch_reading()

    def resume_writing(self) -> None:
        """End the watch: the client reads."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Make the place free."""
        self._expect(None)
        if self._reading is not None:
            self._reading.cancel()
        self._among.leave(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer with a problem document."""
        self._refuse(400, msg, "BadRequest")

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _HEAD_BYTES or self._headers > _MOST_HEADERS:
            self._refuse_head()
            raise ConnectionAbortedError  # to the parser, which reads no further

    def _refuse_head(self) -> None:
        self._refuse(
            431,
            f"a head of more than {_HEAD_BYTES} bytes or {_MOST_HEADERS} headers is not taken",
            "HeadTooLarge",
        )

    def _refuse(self, status: int, detail: str, kind: str) -> None:
        """Answer with a problem document, unless another answer is under way, and close."""
        if self._refused:
            return
        self._refused = True
        if not self.is_idle:
            self.transport.abort()
            return
        answer = problem_response(ApiError(status, detail, kind=kind))
        lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}".encode()]
        lines += [name + b": " + value for name, value in answer.raw_headers]
        lines += [b"connection: close", b"", bytes(answer.body)]
        self.transport.write(b"\r\n".join(lines))
        self.end()

    def _expect(self, seconds: float | None) -> None:
        """Give the client this long for its next step; None if the next step is the server's."""
        if self._clock is not None:
            self._clock.cancel()
        self._clock = None if seconds is None else self.loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.end()

    def _watch_reading(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(_READ_S, self._check_reading)

    def _check_reading(self) -> None:
        self._reading = None
        unsent = self.transport.get_write_buffer_size()
        if unsent > max(0, self._unsent - _READ_BYTES):
            self.transport.abort()
        elif unsent:
            self._watch_reading()


def _name_of(opened: socket.socket) -> str:
    """Return the name of a peer over TCP."""
    try:
        return address_name(str(opened.getpeername()[0]))
    except (OSError, ValueError):
        return "unknown"


def address_name(text: str) -> str:
    """Return what connections from an address count as: all of loopback is one, a /64 is one.

    Raises ``ValueError`` for what is not an address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return "loopback"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
