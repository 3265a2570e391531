"""The server around the application: its sockets, its process and limits on its connections."""

from __future__ import annotations

import asyncio
import gc
import http
import ipaddress
import os
import resource
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httptools
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from backends.unix_sockets import UnixSocketError, listen_at
from orchestrator.broker.api.peers import EXTENSION, UnixPeer, peer_of_socket
from orchestrator.broker.api.problems import ApiError, problem_response

__all__ = ["Connections", "ListenError", "Listener", "connection_limit", "serve", "web_server"]

# Of connections that nobody has accepted; the event loop accepts so many in one turn.
_BACKLOG = 128
_FIRST_PASSED = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_TOKEN_ONLY = "token-only"
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)

# Of a head, of trailers, of a chunk's extensions: of anything that is not a body.
_HEAD_BYTES = 1 << 16
_PIECE_BYTES = 1 << 14
_MOST_HEADERS = 100
_MOST_PIPELINED = 16
_READ_BYTES_PER_S = 16 << 10  # the slowest client that reads an answer
_MOST_CONNECTIONS = 1024
_WANTED_FILES = 4096
_OTHER_FILES = 256  # of the ledger, backends, pages and logs
_GRACE_S = 10


class ListenError(ValueError):
    """The service cannot listen on an address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An open socket of the service, and the URL by which clients reach it."""

    socket: socket.socket
    url: str
    own: bool = True  # made by this process: `close` removes the file of a Unix socket
    peers: bool = True  # users on a Unix socket are recognised; else they need a token

    @classmethod
    def open(cls, address: str) -> Listener:
        """Listen on ``unix:PATH``, ``token-only:unix:PATH``, ``HOST:PORT`` or ``fd:NUMBER``.

        Port 0 takes a free one; ``fd`` is an inherited, listening socket. Raises `ListenError`.
        """
        kind, _, rest = address.partition(":")
        if kind == _TOKEN_ONLY and rest.startswith(("unix:", "fd:")):
            return replace(cls.open(rest), peers=False)
        if kind == "unix":
            # Anyone may connect: the peer's user is checked at each request.
            try:
                opened = listen_at(Path(rest), mode=0o666, backlog=_BACKLOG)
            except UnixSocketError as error:
                raise ListenError(str(error)) from error
            return cls(socket=opened, url=address)
        if kind == "fd" and rest.isdigit():
            return cls._inherited(int(rest))
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ListenError(f"cannot listen on {address!r}; give HOST:PORT or unix:PATH")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            opened = socket.create_server((host.strip("[]"), int(port)), family=family)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {address}: {error.strerror}; stop the process that uses the "
                "port, or choose another port (0 takes a free one)"
            ) from error
        _answer_at_once(opened)
        return cls(socket=opened, url=f"http://{host}:{opened.getsockname()[1]}")

    @classmethod
    def passed(cls, environ: Mapping[str, str]) -> list[Listener]:
        """Return the sockets that systemd passed to this process: sd_listen_fds(3)."""
        number = environ.get("LISTEN_FDS", "")
        if environ.get("LISTEN_PID") != str(os.getpid()) or not number.isdigit():
            return []
        # Of FileDescriptorName; peers are not recognised on a socket named "token-only".
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        return [
            replace(cls._inherited(_FIRST_PASSED + at), peers=names[at : at + 1] != [_TOKEN_ONLY])
            for at in range(int(number))
        ]

    @classmethod
    def _inherited(cls, number: int) -> Listener:
        try:
            opened = socket.socket(fileno=number)
            listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ListenError(
                f"descriptor {number} is not a socket: {error.strerror}; pass one that listens"
            ) from error
        if not listens or opened.type != socket.SOCK_STREAM or opened.family not in _FAMILIES:
            raise ListenError(
                f"descriptor {number} is not a stream socket that listens; with systemd, use "
                "ListenStream= and Accept=no"
            )
        os.set_inheritable(number, False)
        name = opened.getsockname()
        if opened.family == socket.AF_UNIX:
            return cls(socket=opened, url=f"unix:{os.fsdecode(name)}", own=False)
        _answer_at_once(opened)
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return cls(socket=opened, url=f"http://{host}:{name[1]}", own=False)

    def close(self) -> None:
        """Close the socket, and remove the file of one that this process made."""
        self.socket.close()
        if self.own and self.url.startswith("unix:"):
            Path(self.url.removeprefix("unix:")).unlink(missing_ok=True)


def _answer_at_once(listening: socket.socket) -> None:
    """Let no answer wait for the client's delayed acknowledgement of its head: 40 ms each.

    Connections inherit it. Asyncio sets it too, but not on sockets whose protocol is stated as 0.
    """
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def serve(app: FastAPI, listeners: Sequence[Listener], proxies: Iterable[str] = ()) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are completed first."""
    connections = Connections(
        most=connection_limit(),
        proxies=frozenset(map(_address_name, proxies)),
        token_only=frozenset(one.socket.getsockname() for one in listeners if not one.peers),
    )
    server = web_server(app, connections)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn raises the signal again when it has ended: this ends the process with status 0.
        signal.signal(number, _exit)
    # A collection stops all threads: shorter without the imported modules, which stay anyway.
    gc.collect()
    gc.freeze()
    try:
        server.run(sockets=[listener.socket for listener in listeners])
    finally:
        for listener in listeners:
            listener.close()


def web_server(app: ASGIApp, connections: Connections) -> uvicorn.Server:
    """Return the server of an application with these limits on its connections."""
    config = uvicorn.Config(
        app,
        http=partial(_Connection, connections),  # type: ignore[arg-type]  # called, as a class is
        ws="none",
        loop="asyncio",  # another loop hides the peer of a Unix socket
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client's headers do not say who it is
        backlog=_BACKLOG,
        timeout_keep_alive=int(connections.keep_alive_s),
        timeout_graceful_shutdown=_GRACE_S,
        lifespan="on",
    )
    return uvicorn.Server(config)


def _exit(_number: int, _frame: Any) -> None:
    raise SystemExit(0)


def connection_limit() -> int:
    """Raise the soft limit of open files; return how many connections this process can serve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    # Each connection may need a second file for its body.
    return max(8, min(_MOST_CONNECTIONS, (soft - _OTHER_FILES) // 2))


@dataclass(eq=False)
class Connections:
    """All open connections by peer (a Unix user, loopback, an address), and their limits.

    One peer may have a quarter of them, and each of ``proxies`` all. A further connection replaces
    the oldest idle one; if none is idle, it is refused.
    """

    most: int
    proxies: frozenset[str] = frozenset()
    token_only: frozenset[str] = frozenset()  # Unix sockets whose peers are not recognised
    head_s: float = 10.0  # for a head
    keep_alive_s: float = 65.0  # between two requests
    linger_s: float = 5.0  # for the rest of an unwanted body, and for closing
    read_s: float = 20.0  # in which a client must read a part of its answer
    most_unsent_bytes: int = 128 << 20  # of all unread answers; beyond it the largest are aborted
    _of_peer: dict[str, dict[_Connection, None]] = field(default_factory=dict)

    def add(self, connection: _Connection) -> bool:
        """Add a connection; return False if there is no room for it."""
        peer = connection.peer_name
        most = self.most if peer in self.proxies else max(1, self.most // 4)
        if len(self._of_peer.get(peer, {})) >= most and not self._end_idle(peer):
            return False
        if len(self.opened()) >= self.most:
            by_number = sorted(self._of_peer, key=lambda name: -len(self._of_peer[name]))
            if not any(self._end_idle(name) for name in by_number):
                return False
        self._of_peer.setdefault(peer, {})[connection] = None
        return True

    def remove(self, connection: _Connection) -> None:
        """Remove a connection that is closed."""
        of_peer = self._of_peer.get(connection.peer_name, {})
        of_peer.pop(connection, None)
        if not of_peer:
            self._of_peer.pop(connection.peer_name, None)

    def opened(self) -> list[_Connection]:
        """Return all open connections."""
        return [one for of_peer in list(self._of_peer.values()) for one in list(of_peer)]

    def bound_unsent(self) -> None:
        """Abort the connections with the largest unread answers until the rest is small enough."""
        unsent = {one: one.transport.get_write_buffer_size() for one in self.opened()}
        total = sum(unsent.values())
        for one in sorted(unsent, key=lambda one: -unsent[one]):
            if total <= self.most_unsent_bytes:
                return
            total -= unsent[one]
            one.transport.abort()

    def _end_idle(self, peer: str) -> bool:
        idle = next((one for one in self._of_peer.get(peer, ()) if one.is_idle), None)
        if idle is None:
            return False
        self.remove(idle)
        idle.end()
        return True


class _Connection(HttpToolsProtocol):
    """Uvicorn's protocol, which knows its peer and waits for its client within limits."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all = connections
        self._peer: UnixPeer | None = None
        self.peer_name = ""
        self._refused = False
        self._in_head, self._in_message = False, False
        self._headers, self._head_bytes = 0, 0
        # Steps of the parser that free its buffers, and the bytes since the last of them.
        self._steps, self._pending_bytes = 0, 0
        self._client_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    @property
    def is_idle(self) -> bool:
        """Whether it waits for its client and has no answer in progress."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def end(self) -> None:
        """Close it as soon as the written bytes are sent, or after ``linger_s``."""
        self.transport.close()
        self._expect(self._all.linger_s)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        opened = transport.get_extra_info("socket")
        peer = peer_of_socket(opened)
        self.peer_name = _tcp_peer_name(opened) if peer is None else f"uid {peer.uid}"
        if peer is not None and opened.getsockname() not in self._all.token_only:
            self._peer = peer
        if self._all.add(self):
            self._expect(self._all.head_s)
        else:
            self._refuse(
                503, "too many connections are open; come back later", "TooManyConnections"
            )

    def data_received(self, data: bytes) -> None:
        # In pieces, so that nothing grows beyond its limit.
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
        super().on_message_begin()
        self._in_head, self._in_message = True, True
        self._headers, self._head_bytes = 0, 0
        if self._peer is not None:
            self.scope["extensions"] = {EXTENSION: self._peer}  # type: ignore[dict-item]  # ours
        if self.is_idle:
            self._expect(self._all.head_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer, which comes after the caller was authenticated
        super().on_header(name, value)
        self._headers += 1
        self._count_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
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
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._steps += 1
        super().on_message_complete()
        if self.is_idle:  # it was answered before its end
            self._expect(self._all.keep_alive_s)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch_reading()
        if self.is_idle and not self.transport.is_closing():
            in_message = self._all.head_s if self._in_head else self._all.linger_s
            self._expect(in_message if self._in_message else self._all.keep_alive_s)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._all.bound_unsent()
        self._watch_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self._stop_read_timer()
        self._all.remove(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg, "BadRequest")

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _HEAD_BYTES or self._headers > _MOST_HEADERS:
            self._refuse_head()
            raise ConnectionAbortedError  # to the parser, which reads no further

    def _refuse_head(self) -> None:
        limits = f"{_HEAD_BYTES} bytes or {_MOST_HEADERS} headers"
        self._refuse(431, f"a head of more than {limits} is not accepted", "HeadTooLarge")

    def _refuse(self, status: int, detail: str, kind: str) -> None:
        """Answer with a problem document, unless another answer is in progress, and close."""
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
        if self._client_timer is not None:
            self._client_timer.cancel()
        later = self.loop.call_later
        self._client_timer = None if seconds is None else later(seconds, self._expired)

    def _expired(self) -> None:
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.end()

    def _watch_reading(self) -> None:
        if self._read_timer is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._read_timer = self.loop.call_later(self._all.read_s, self._check_reading)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _check_reading(self) -> None:
        self._read_timer = None
        unsent = self.transport.get_write_buffer_size()
        if unsent > max(0, self._unsent - self._all.read_s * _READ_BYTES_PER_S):
            self.transport.abort()
        elif unsent:
            self._watch_reading()


def _tcp_peer_name(opened: socket.socket) -> str:
    try:
        return _address_name(str(opened.getpeername()[0]))
    except (OSError, ValueError):
        return "unknown"


def _address_name(text: str) -> str:
    """Return the peer of an address: loopback or an IPv6 /64 is one. Raises ``ValueError``."""
    address = ipaddress.ip_address(text.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return "loopback"
    bits = 64 if address.version == 6 else 32
    return str(ipaddress.ip_network((address, bits), strict=False))
