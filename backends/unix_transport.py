"""HTTP over a Unix socket, to a listener that is to be trusted."""

from __future__ import annotations

from typing import Any

import httpcore
import httpx

from backends.unix_sockets import UnixSocketError, check_listener

__all__ = ["unix_transport"]


def unix_transport(path: str, limits: httpx.Limits) -> httpx.HTTPTransport:
    """Return a transport to a socket; requests raise `UnixSocketError` if a stranger listens there."""
    return _UnixTransport(path, limits)


class _UnixTransport(httpx.HTTPTransport):
    def __init__(self, path: str, limits: httpx.Limits) -> None:
        super().__init__(uds=path, limits=limits)
        # httpx does not pass a network backend on.
        self._pool = httpcore.ConnectionPool(
            uds=path,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_CheckedSockets(),
        )


class _CheckedSockets(httpcore.SyncBackend):
    """Connects to Unix sockets, and checks who listens before anything is sent."""

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.NetworkStream:
        stream = super().connect_unix_socket(path, timeout, socket_options)
        try:
            check_listener(stream.get_extra_info("socket"), path)
        except UnixSocketError:
            stream.close()
            raise
        return stream
