"""The process around the application: sockets, slow senders, signals and a clean end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchestrator.broker.api.peers import EXTENSION, UnixPeer, peer_of_socket

__all__ = ["MOST_CONNECTIONS", "ListenError", "Listener", "serve"]

# How long a client may take for the head of a request, and be silent between two.
_HEAD_S = 10.0
# More than the loop reads at once, so that no body is counted with the head before it.
_HEAD_BYTES = 1 << 19
_KEEP_ALIVE_S = 65
MOST_CONNECTIONS = 1024
_GRACE_S = 10


class ListenError(ValueError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An open socket of the service, and the URL by which clients reach it."""

    socket: socket.socket
    url: str

    @classmethod
    def open(cls, address: str) -> Listener:
        """Listen on ``unix:PATH`` or ``HOST:PORT``; port 0 takes a free one.

        Raises `ListenError` saying who is in the way.
        """
        if address.startswith("unix:"):
            return cls(_unix_socket(Path(address.removeprefix("unix:"))), address)
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ListenError(f"cannot listen on {address!r}; give HOST:PORT or unix:PATH")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            opened = socket.create_server((host.strip("[]"), int(port)), family=family)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {address}: {error.strerror}; end who uses it, or choose "
                "another port (0 takes a free one)"
            ) from error
        return cls(opened, f"http://{host}:{opened.getsockname()[1]}")


def serve(app: FastAPI, listeners: Sequence[Listener]) -> None:
    """Serve until SIGINT or SIGTERM; requests at work are ended first."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",  # another loop hides whose end of a Unix socket it is
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing that a client writes says who it is
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        lifespan="on",
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn raises what it caught once more when it is done: the end was asked for.
        signal.signal(number, _leave)
    try:
        server.run(sockets=[listener.socket for listener in listeners])
    finally:
        for listener in listeners:
            listener.socket.close()
            if listener.url.startswith("unix:"):
                Path(listener.url.removeprefix("unix:")).unlink(missing_ok=True)


def _leave(_number: int, _frame: Any) -> None:
    raise SystemExit(0)


class _Protocol(HttpToolsProtocol):
    """Uvicorn's protocol that knows the user behind a Unix socket and waits for no slow sender."""

    _peer: UnixPeer | None = None
    _impatience: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._peer = peer_of_socket(transport.get_extra_info("socket"))
        self._be_impatient()

    def data_received(self, data: bytes) -> None:
        if self._impatience is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self.transport.abort()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._peer is not None:
            self.scope["extensions"] = {EXTENSION: self._peer}  # type: ignore[dict-item]  # a value of ours
        self._be_impatient()

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/"):
            # An absolute target would name a second host, beside the one that is checked.
            raise ValueError("the target of a request is a path")
        self._be_patient()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        super().connection_lost(exc)

    def _be_impatient(self) -> None:
        self._be_patient()
        self._head_bytes = 0
        self._impatience = self.loop.call_later(_HEAD_S, self.transport.close)

    def _be_patient(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None


def _unix_socket(path: Path) -> socket.socket:
    """Listen on a path, taking over what a dead process left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = socket.socket(socket.AF_UNIX)
    try:
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise ListenError(f"{path} is in the way and is no socket; remove it")
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise ListenError(f"another process listens on {path}; end it first")
            path.unlink()
        opened.bind(str(path))
        os.chmod(path, 0o666)  # noqa: PTH101  # the peer's user is checked at each request
        opened.listen(MOST_CONNECTIONS)
    except OSError as error:
        opened.close()
        raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from error
    except ListenError:
        opened.close()
        raise
    return opened
