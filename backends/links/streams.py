"""Streams over a link, which httpx sends its requests through."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from backends.links.link import Link, LinkFacts, LinkRefused, host_and_port
from backends.links.tls import checked_peer, refusal, tls_context

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["BASE_URL", "LinkDialer", "dial", "link_transport"]

# The link says where a request goes, and every broker answers to this name.
BASE_URL = "http://localhost"
_HANDSHAKE_S = 20.0
_PIECE_BYTES = 1 << 20


class LinkDialer(httpcore.NetworkBackend):
    """Opens connections over one link, whatever host a request names. facts: of the latest one."""

    def __init__(self, link: Link) -> None:
        """Store the link; nothing connects yet. Raises ``LinkError`` if it has no address."""
        host_and_port(link.address)
        self.link = link
        self.facts: LinkFacts | None = None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the other side. Raises ``LinkError``, or httpcore's errors of a connection."""
        del host, port, local_address, socket_options
        stream, self.facts = dial(self.link, timeout)
        return stream


def link_transport(dialer: LinkDialer, limits: httpx.Limits) -> httpx.HTTPTransport:
    """Return a transport of httpx whose connections a dialer opens."""
    transport = httpx.HTTPTransport(limits=limits)
    transport._pool = httpcore.ConnectionPool(  # noqa: SLF001  # httpx takes no network backend
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=dialer,
    )
    return transport


def dial(link: Link, timeout: float | None = None) -> tuple[httpcore.NetworkStream, LinkFacts]:
    """Connect over a link; return the stream and what was agreed on.

    Raises ``LinkError`` where the link cannot be used, ``LinkRefused`` where one side does not accept
    the other, and httpcore's errors where the other side does not answer.
    """
    from OpenSSL import SSL

    context = tls_context(link)
    longest_s = _HANDSHAKE_S if timeout is None else timeout
    deadline = time.monotonic() + longest_s
    try:
        opened = socket.create_connection(host_and_port(link.address), timeout=longest_s)
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(str(error)) from error
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setblocking(False)
    connection = SSL.Connection(context, opened)
    connection.set_connect_state()
    stream = _LinkStream(link, connection, opened)
    try:
        stream.complete(
            connection.do_handshake, deadline, httpcore.ConnectTimeout, httpcore.ConnectError
        )
        facts = checked_peer(connection, link)
    except BaseException:
        stream.close()
        raise
    return stream, facts


class _LinkStream(httpcore.NetworkStream):
    """One connection; one thread at a time."""

    def __init__(self, link: Link, connection: SSL.Connection, opened: socket.socket) -> None:
        self._link, self._tls, self._socket = link, connection, opened
        self._heard = False  # TLS 1.3 refuses a client's certificate after its handshake

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        from OpenSSL import SSL

        def received() -> bytes:
            try:
                return bytes(self._tls.recv(max_bytes))
            except SSL.ZeroReturnError:
                return b""

        deadline = None if timeout is None else time.monotonic() + timeout
        found: bytes = self.complete(received, deadline, httpcore.ReadTimeout, httpcore.ReadError)
        self._heard = self._heard or bool(found)
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        rest = memoryview(buffer)
        while rest:
            step = partial(self._tls.send, bytes(rest[:_PIECE_BYTES]))
            sent = self.complete(
                step,
                deadline,
                httpcore.WriteTimeout,
                httpcore.WriteError,
            )
            rest = rest[sent:]

    def close(self) -> None:
        from OpenSSL import SSL

        try:
            self._tls.shutdown()
        except (SSL.Error, OSError):
            pass  # it never was up, or is gone
        finally:
            self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return bool(_ready(self._socket, select.POLLIN, 0.0))
        return self._socket if info == "socket" else None

    def complete(
        self,
        step: Callable[[], Any],
        deadline: float | None,
        late: type[Exception],
        broken: type[Exception],
    ) -> Any:
        """Return what a step of TLS returns, once the socket lets it be complete."""
        from OpenSSL import SSL

        while True:
            try:
                return step()
            except SSL.WantReadError:
                awaited = select.POLLIN
            except SSL.WantWriteError:
                awaited = select.POLLOUT
            except SSL.SysCallError as error:
                raise broken(f"link {self._link.name!r}: {_syscall_words(error)}") from error
            except SSL.Error as error:
                reason = None if self._heard else refusal(self._tls, error)
                if reason is not None:
                    raise LinkRefused(
                        f"link {self._link.name!r} to {self._link.address}: {reason}"
                    ) from None
                raise broken(f"link {self._link.name!r}: {error!r:.200}") from error
            left_s = None if deadline is None else deadline - time.monotonic()
            if (left_s is not None and left_s <= 0) or not _ready(self._socket, awaited, left_s):
                raise late(f"link {self._link.name!r}: {self._link.address} does not answer")


def _ready(opened: socket.socket, awaited: int, seconds: float | None) -> bool:
    if opened.fileno() < 0:
        return True  # closed by another thread; the next step says so
    poll = select.poll()
    poll.register(opened, awaited)
    return bool(poll.poll(None if seconds is None else max(0, int(seconds * 1000))))


def _syscall_words(error: SSL.SysCallError) -> str:
    return str(error.args[1]) if len(error.args) > 1 else "the connection is gone"
