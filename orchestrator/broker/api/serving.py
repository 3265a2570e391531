"""The process around the application: its server, its signals and a clean end."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from orchestrator.broker.api.connections import (
    KEEP_ALIVE_S,
    Connection,
    Connections,
    address_name,
    connection_limit,
)
from orchestrator.unix_sockets import UnixSocketError, listen_at

__all__ = ["BACKLOG", "ListenError", "Listener", "serve", "web_server"]

_GRACE_S = 10


def serve(app: FastAPI, listeners: Sequence[Listener], proxies: Iterable[str] = ()) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are completed first.

    proxies: addresses that may hold all connections. The number of connections follows the
    limit of open files.
    """
    among = Connections(
        most=connection_limit(),
        proxies=frozenset(map(address_name, proxies)),
        token_only=frozenset(
            listener.socket.getsockname() for listener in listeners if not listener.peers
        ),
    )
    server = web_server(app, among)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn raises what it caught once more when it is done: the end was asked for.
        signal.signal(number, _leave)
    # A collection stops all threads: shorter without the imported modules, which stay anyway.
    gc.collect()
    gc.freeze()
    try:
        server.run(sockets=[listener.socket for listener in listeners])
    finally:
        for listener in listeners:
            listener.close()


def web_server(app: ASGIApp, among: Connections) -> uvicorn.Server:
    """Return the server of an application, whose connections are among others."""
    config = uvicorn.Config(
        app,
        http=partial(Connection, among=among),  # type: ignore[arg-type]  # called, as a class is
        ws="none",
        loop="asyncio",  # another loop hides whose end of a Unix socket it is
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing that a client writes says who it is
        backlog=BACKLOG,
        timeout_keep_alive=int(KEEP_ALIVE_S),
        timeout_graceful_shutdown=_GRACE_S,
        lifespan="on",
    )
    return uvicorn.Server(config)


def _leave(_number: int, _frame: Any) -> None:
    raise SystemExit(0)


# Of connections that nobody has accepted; the event loop accepts so many in one turn.
BACKLOG = 128
_FIRST_PASSED = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_TOKEN_ONLY = "token-only"


class ListenError(ValueError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An open socket of the service, and the URL by which clients reach it.

    own: whether this process made it; it then removes a Unix socket's file at its end.
    peers: whether users on a Unix socket are recognised; else they need a token, as over TCP.
    """

    socket: socket.socket
    url: str
    own: bool = True
    peers: bool = True

    @classmethod
    def open(cls, address: str) -> Listener:
        """Listen on ``unix:PATH``, ``token-only:unix:PATH``, ``HOST:PORT`` or ``fd:NUMBER``.

        Port 0 takes a free one; ``fd`` is an inherited socket that listens already. Raises
        `ListenError` saying what is in the way.
        """
        kind, _, rest = address.partition(":")
        if kind == _TOKEN_ONLY and rest.startswith(("unix:", "fd:")):
            made = cls.open(rest)
            return cls(socket=made.socket, url=made.url, own=made.own, peers=False)
        if kind == "unix":
            # Anyone may connect: the peer's user is checked at each request.
            try:
                opened = listen_at(Path(rest), mode=0o666, backlog=BACKLOG)
            except UnixSocketError as error:
                raise ListenError(str(error)) from error
            return cls(socket=opened, url=address)
        if kind == "fd" and rest.isdigit():
            return cls._adopted(int(rest))
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
        return cls(socket=opened, url=f"http://{host}:{opened.getsockname()[1]}")

    @classmethod
    def passed(cls, environ: Mapping[str, str]) -> list[Listener]:
        """Return the sockets that systemd passed to this process: sd_listen_fds(3).

        A socket whose ``FileDescriptorName`` is ``token-only`` recognises no peers.
        """
        number = environ.get("LISTEN_FDS", "")
        if environ.get("LISTEN_PID") != str(os.getpid()) or not number.isdigit():
            return []
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        found = [cls._adopted(_FIRST_PASSED + one) for one in range(int(number))]
        return [
            cls(
                socket=listener.socket,
                url=listener.url,
                own=False,
                peers=names[at : at + 1] != [_TOKEN_ONLY],
            )
            for at, listener in enumerate(found)
        ]

    @classmethod
    def _adopted(cls, number: int) -> Listener:
        try:
            opened = socket.socket(fileno=number)
            listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ListenError(
                f"descriptor {number} is not a socket: {error.strerror}; pass one that listens"
            ) from error
        streams = opened.type == socket.SOCK_STREAM
        if not listens or not streams or opened.family not in _FAMILIES:
            raise ListenError(
                f"descriptor {number} is not a stream socket that listens; with systemd, use "
                "ListenStream= and Accept=no"
            )
        os.set_inheritable(number, False)
        name = opened.getsockname()
        if opened.family == socket.AF_UNIX:
            text = os.fsdecode(name) if isinstance(name, bytes) else name
            return cls(socket=opened, url=f"unix:{text}", own=False)
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return cls(socket=opened, url=f"http://{host}:{name[1]}", own=False)

    def close(self) -> None:
        """Close the socket, and remove the file of one that this process made."""
        self.socket.close()
        if self.own and self.url.startswith("unix:"):
            Path(self.url.removeprefix("unix:")).unlink(missing_ok=True)


_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
