"""The process around the application: its server, its signals and a clean end."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterable, Sequence
from functools import partial
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
from orchestrator.broker.api.listening import BACKLOG, Listener

__all__ = ["serve", "web_server"]

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
