"""The front of a link: it ends TLS for a service on this machine, which strangers cannot reach."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backends.links import Link, LinkError, LinkFacts, LinkRefused
from backends.links.link import host_and_port
from backends.links.tls import checked_peer, refusal, tls_context
from backends.unix_sockets import UnixSocketError, check_listener

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["Front", "FrontLimits", "Service", "open_port"]

_PIECE_BYTES = 1 << 16
# A service that knows this process by its user would take every client for that user.
_QUESTION = b"GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\n\r\n"
_ANSWER_BYTES = 1 << 14
_UNKNOWN = b"HTTP/1.1 401 "
_SERVICE_S = 10.0
_AWAY = (OSError, EOFError, TimeoutError, LinkError)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontLimits:
    """What strangers and sites may take."""

    connections: int = 200  # in all, so that the service, which sees one client, has room for them
    of_peer: int = 100  # of one site
    handshakes: int = 64  # in progress; of more, one in progress ends for each that comes
    handshake_s: float = 10.0
    handshake_bytes: int = 1 << 17
    unread_s: float = 30.0  # for a client that does not read
    linger_s: float = 1.0  # for one that is to read why it is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where decrypted bytes go: ``unix:PATH`` or ``HOST:PORT``.

    asks_for_tokens: whether it must refuse this process without a token, which is checked on each
    connection before a client's bytes go there; a Unix socket may know it by its user.
    """

    address: str
    asks_for_tokens: bool = True

    async def connect(self) -> socket.socket:
        """Connect. Raises ``OSError``, or `LinkError` if the service knows this process.

        A socket and not a pair of streams: those forget what they have not read once a write fails.
        """
        path = self.address.removeprefix("unix:") if self.address.startswith("unix:") else None
        host, port = ("", 0) if path else host_and_port(self.address)
        family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
        service = socket.socket(family, socket.SOCK_STREAM)
        try:
            service.setblocking(False)
            await asyncio.get_running_loop().sock_connect(service, path or (host, port))
            if path:
                check_listener(service, path)
                if self.asks_for_tokens:
                    await _check_unknown(service, self.address)
        except UnixSocketError as error:
            service.close()
            raise LinkError(str(error)) from None
        except BaseException:
            service.close()
            raise
        return service


async def _check_unknown(service: socket.socket, address: str) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(service, _QUESTION)
    answer, whole = b"", _ANSWER_BYTES
    while len(answer) < whole:
        piece = await loop.sock_recv(service, whole - len(answer))
        if not piece:
            raise EOFError("it hangs up")
        answer += piece
        head, ends, _ = answer.partition(b"\r\n\r\n")
        if ends:
            whole = len(head) + len(ends) + _length_of_unknown(head, address)


def _length_of_unknown(head: bytes, address: str) -> int:
    """Return the length of the body; raise `LinkError` unless this is the answer to a stranger."""
    lengths = [
        line.partition(b":")[2].strip()
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    if not head.startswith(_UNKNOWN) or len(lengths) != 1 or not lengths[0].isdigit():
        raise LinkError(
            f"{address} knows this process by its user, so every site would act as that user; "
            f"serve 'token-only:{address}' and name that socket"
        )
    return min(int(lengths[0]), _ANSWER_BYTES)


@dataclass(eq=False)
class Front:
    """Serves one link. on_event: called with a name and facts of what an operator wants to know."""

    link: Link
    service: Service
    on_event: Callable[[str, dict[str, Any]], None]
    limits: FrontLimits = field(default_factory=FrontLimits)
    _handshakes: dict[asyncio.Task[None], None] = field(default_factory=dict)
    _open: set[asyncio.Task[None]] = field(default_factory=set)
    _of_peer: Counter[str] = field(default_factory=Counter)
    _context: tuple[tuple[int, ...], SSL.Context] | None = None

    async def serve(self, listening: socket.socket, on_ready: Callable[[], None]) -> None:
        """Serve until it is cancelled. Raises ``LinkError`` for files or a service of no use."""
        self._tls()
        try:
            async with asyncio.timeout(_SERVICE_S):
                probe = await self.service.connect()
            probe.close()
        except LinkError:
            raise
        except _AWAY as error:
            reason = str(error) or type(error).__name__
            self.on_event("service-away", {"service": self.service.address, "reason": reason})
        server = await asyncio.start_server(self._accept, sock=listening, limit=_PIECE_BYTES)
        on_ready()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            tasks = [*self._handshakes, *self._open]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _tls(self) -> SSL.Context:
        """Return the settings; files that were renewed count from the next connection on."""
        try:
            paths = (self.link.certificate, self.link.key, self.link.authority)
            stamp = tuple(n for p in paths for n in (p.stat().st_mtime_ns, p.stat().st_ino))
        except OSError:
            stamp = ()
        if self._context is None or self._context[0] != stamp:
            self._context = (stamp, tls_context(self.link))
        return self._context[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self.limits.connections:
            writer.transport.abort()
            self._note("full", {"connections": len(self._open)})
            return
        if len(self._handshakes) >= self.limits.handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        task = asyncio.ensure_future(self._serve_one(reader, writer))
        self._handshakes[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        self._open.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._note("failed", {"reason": repr(task.exception())[:200]})

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peername = writer.get_extra_info("peername") or ("unknown",)
        facts: dict[str, Any] = {"address": str(peername[0])}
        try:
            client = await self._handshaken(reader, writer, facts)
            if client is not None:
                await self._serve_client(client, facts)
        except (OSError, EOFError, TimeoutError):
            pass  # the client is gone
        finally:
            # What is unsent now is of a client that does not read.
            writer.transport.abort()

    async def _handshaken(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, facts: dict[str, Any]
    ) -> _Client | None:
        """Return a client whose handshake is complete; tell why it is none, and let it go."""
        from OpenSSL import SSL

        try:
            connection = SSL.Connection(self._tls(), None)
        except LinkError as error:
            self._note("unusable", {"reason": str(error)})
            return None
        connection.set_accept_state()
        client = _Client(connection, reader, writer, self.limits)
        try:
            async with asyncio.timeout(self.limits.handshake_s):
                await client.handshake()
            client.facts = checked_peer(connection, self.link)
        except TimeoutError:
            self._note("refused", facts | {"reason": "the handshake was not completed in time"})
        except SSL.Error as error:
            reason = refusal(connection, error) or "this is not TLS 1.3"
            self._note("refused", facts | {"reason": reason})
            await client.let_go()
        except LinkRefused as error:
            self._note("refused", facts | {"reason": str(error)})
            client.send(_problem(403, str(error)))
            await client.let_go()
        else:
            return client
        return None

    async def _serve_client(self, client: _Client, facts: dict[str, Any]) -> None:
        assured = client.facts
        if assured is None or self._of_peer[assured.peer] >= self.limits.of_peer:
            client.send(_problem(503, "this site has too many connections; come back later"))
            await client.let_go()
            return
        task = asyncio.current_task()
        if task is not None:
            self._handshakes.pop(task, None)
            self._open.add(task)
        self._of_peer[assured.peer] += 1
        self._note("opened", facts | assured.to_plain())
        try:
            async with asyncio.timeout(_SERVICE_S):
                service = await self.service.connect()
            with service:
                await client.pass_on(service)
        except _AWAY as error:
            reason = str(error) or type(error).__name__
            self._note("service-away", {"service": self.service.address, "reason": reason})
            client.send(_problem(503, "the service behind this link does not answer"))
            await client.let_go()
        finally:
            self._of_peer[assured.peer] -= 1

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        self.on_event(event, {"link": self.link.name} | facts)


class _Client:
    """One connection from outside: TLS in memory between its stream and plain bytes."""

    def __init__(
        self,
        connection: SSL.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: FrontLimits,
    ) -> None:
        self._tls, self._reader, self._writer = connection, reader, writer
        self._limits = limits
        self.facts: LinkFacts | None = None

    async def handshake(self) -> None:
        """Complete the handshake. Raises pyOpenSSL's error, or ``EOFError``."""
        from OpenSSL import SSL

        left = self._limits.handshake_bytes
        while True:
            try:
                self._tls.do_handshake()
                return
            except SSL.WantReadError:
                pass
            finally:
                self._flush()
            data = await self._reader.read(_PIECE_BYTES)
            left -= len(data)
            if not data or left < 0:
                raise EOFError
            self._tls.bio_write(data)

    async def pass_on(self, service: socket.socket) -> None:
        """Pass bytes on in both directions until either side ends."""
        inward = asyncio.ensure_future(self._inward(service))
        outward = asyncio.ensure_future(self._outward(service))
        try:
            await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (inward, outward):
                task.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)
        await self.let_go()

    async def _inward(self, service: socket.socket) -> None:
        from OpenSSL import SSL

        while True:
            try:
                data = self._tls.recv(_PIECE_BYTES)
            except SSL.WantReadError:
                self._flush()
                async with asyncio.timeout(self._limits.unread_s):  # answers of TLS pile up, too
                    await self._writer.drain()
                received = await self._reader.read(_PIECE_BYTES)
                if not received:
                    return
                self._tls.bio_write(received)
                continue
            except SSL.Error:  # it ends, or sends what is no TLS
                return
            try:
                await asyncio.get_running_loop().sock_sendall(service, data)
            except OSError:
                await asyncio.sleep(self._limits.linger_s)  # while its last words go outward
                return

    async def _outward(self, service: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(service, _PIECE_BYTES):
            self.send(data)
            async with asyncio.timeout(self._limits.unread_s):
                await self._writer.drain()

    def send(self, data: bytes) -> None:
        """Encrypt and send; in memory, so nothing waits."""
        self._tls.sendall(data)
        self._flush()

    async def let_go(self) -> None:
        """End the connection, so that the client can still read what was sent."""
        from OpenSSL import SSL

        with contextlib.suppress(SSL.Error):
            self._tls.shutdown()
        self._flush()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                await self._writer.drain()
                self._writer.write_eof()
                # Closing with bytes unread would reset the connection before the client reads.
                while await self._reader.read(_PIECE_BYTES):
                    pass

    def _flush(self) -> None:
        from OpenSSL import SSL

        with contextlib.suppress(SSL.WantReadError):
            while data := self._tls.bio_read(_PIECE_BYTES):
                self._writer.write(data)


def _problem(status: int, detail: str) -> bytes:
    """Return an answer that a client of HTTP understands, as the broker gives it."""
    from pydantic_core import to_json

    title = {403: "Forbidden", 503: "Service Unavailable"}[status]
    body = to_json({"status": status, "title": title, "detail": detail})
    head = (
        f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def open_port(address: str) -> socket.socket:
    """Listen on ``HOST:PORT``; port 0 takes a free one. Raises ``LinkError``."""
    host, port = host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise LinkError(
            f"cannot listen on {address}: {error.strerror}; stop the process that uses the port, or "
            "choose another one"
        ) from None
