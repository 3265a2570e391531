"""What each request passes first: host, authentication, rates, sizes; and what endpoints get."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any

from fastapi import Depends, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.broker.api.peers import UnixUsers, peer_of
from orchestrator.broker.api.problems import ApiError, problem_response
from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.client.content_digest import digest_text
from orchestrator.broker.core.access import Identity
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.quotas import PerUserSemaphore

__all__ = [
    "IDENTIFIED",
    "IN_TURN",
    "Admission",
    "Caller",
    "Gate",
    "RequestLimits",
    "ServedBroker",
    "known_qpu",
    "local_hosts",
    "read_body",
    "written",
]

_IN_MEMORY_BYTES = 1 << 20
_USERS_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one client may ask of the service.

    body_bytes: of a payload; json_bytes: of any other body. large_bodies: payloads of a user above
    json_bytes that are read at a time; others wait unread. body_s: the longest pause within a body;
    whole_body_s: the longest time for all of it.
    """

    body_bytes: int = 64 << 20
    json_bytes: int = 64 << 10
    large_bodies: int = 4
    body_s: float = 20.0
    whole_body_s: float = 300.0
    requests_per_s: float = 1000.0
    burst: float = 2000.0


@dataclass(eq=False)
class Gate:
    """Authenticates senders and limits their rates.

    listings: for answers about very many jobs, each of which occupies the event loop.
    """

    tokens: TokenFile
    limits: RequestLimits
    clock: Callable[[], datetime]
    users: UnixUsers = field(default_factory=UnixUsers)
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    listings: PerUserSemaphore = field(default_factory=lambda: PerUserSemaphore(2))
    _large: PerUserSemaphore = field(init=False)

    def __post_init__(self) -> None:
        self._large = PerUserSemaphore(self.limits.large_bodies)

    async def identify(self, scope: Mapping[str, Any]) -> Identity:
        """Return who sent a request, from its head alone.

        Raises `ApiError` 401 if unauthenticated, 429 if rate-limited.
        """
        identity = await self._identity(scope)
        wait_s = self._draw(identity.user)
        if wait_s > 0:
            raise ApiError(
                429,
                f"user {identity.user!r} sends more than {self.limits.requests_per_s:g} requests "
                f"a second; come back in {wait_s:.1f} s",
                kind="TooManyRequests",
                headers={"Retry-After": str(max(1, round(wait_s)))},
            )
        return identity

    def place(self, user: str, request: Request) -> AbstractAsyncContextManager[None]:
        """Return a user's place for a body, from before it is read until it is dropped."""
        stated = request.headers.get("content-length")
        if stated is not None and int(stated) <= self.limits.json_bytes:
            return nullcontext()
        return self._large.place(user)

    async def _identity(self, scope: Mapping[str, Any]) -> Identity:
        stated = next((v for name, v in scope["headers"] if name == b"authorization"), b"")
        scheme, _, secret = stated.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and secret:
            known = self.tokens.find(secret.strip(), self.clock())
            if known is not None:
                return known
            raise _unauthenticated("the token is unknown, revoked or expired")
        peer = peer_of(scope)
        identity = None if peer is None else await self.users.identity(peer)
        if identity is not None:
            return identity
        raise _unauthenticated("no token was sent; the header is 'Authorization: Bearer TOKEN'")

    def _draw(self, user: str) -> float:
        """Count a request; return the seconds until the user may send one, 0 if they may now."""
        now = time.monotonic()
        level, at = self._buckets.get(user, (self.limits.burst, now))
        level = min(self.limits.burst, level + (now - at) * self.limits.requests_per_s)
        if level < 1:
            self._buckets[user] = (level, now)
            return (1 - level) / self.limits.requests_per_s
        if len(self._buckets) >= _USERS_REMEMBERED:
            self._buckets.clear()
        self._buckets[user] = (level - 1, now)
        return 0.0


def _unauthenticated(reason: str) -> ApiError:
    return ApiError(
        401, reason, kind="NotAuthenticated", headers={"WWW-Authenticate": 'Bearer realm="hpcqc"'}
    )


async def read_body(request: Request) -> IO[bytes]:
    """Return the body as a file, on disk if it is large, checked against its Content-Digest.

    Raises `ApiError`: 413 when it is larger than allowed, 408 when it comes too slowly, 400 when its
    client goes away, 415 for a content encoding, 422 when it is not what its digest says, 507 when
    there is no room for it.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "bodies must not be compressed", kind="UnsupportedEncoding")
    try:
        return await _on_file(request)
    except OSError:  # of the write, or of closing what could not be written
        raise ApiError(
            507,
            "the broker's disk has no room for this body; hand it in again later",
            kind="StorageFull",
        ) from None


async def _on_file(request: Request) -> IO[bytes]:
    with ExitStack() as to_close:
        body = to_close.enter_context(SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))
        digest = sha256()
        try:
            async for chunk in request.stream():
                digest.update(chunk)
                body.write(chunk)
        except ClientDisconnect:
            raise ApiError(400, "the body is cut short", kind="BodyCutShort") from None
        stated = request.headers.get("content-digest")
        if stated is not None and stated != digest_text(digest.digest()):
            raise ApiError(422, "the body is not what its Content-Digest says", kind="DamagedBody")
        body.seek(0)
        to_close.pop_all()  # the caller closes it
        return body


# Routes without authentication. They show nothing of users' work, and take no body.
_OPEN_PATHS = frozenset({"/", "/docs", "/health", "/openapi.json"})
_OPEN_TREES = ("/static/", "/swagger/")
_PAYLOADS = ("POST", "/v1/jobs")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
# With two of one of these, two programs could read one request differently.
_SINGLE = (b"host", b"authorization", b"content-length", b"content-type")
# No route is longer, and the lookup of a static file in many folders takes long.
_PATH_LENGTH = 1000


def local_hosts() -> frozenset[str]:
    """Return the names under which clients on this machine reach it."""
    return _LOOPBACK | {socket.gethostname().lower()}


@dataclass(eq=False)
class Admission:
    """Passes a request on if its Host is the broker's, its sender authenticated and its body fits.

    The sender is checked before any of the body is read. A JSON body is complete before the endpoint
    is called; a payload is counted and timed as the endpoint reads it.

    hosts: the broker's names in a Host header, beside the address of the connection. They differ
    from the name of a web page that was made to resolve to this machine.
    """

    app: ASGIApp
    gate: Gate
    hosts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with a problem document."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            admitted = await self._admitted(scope, receive)
        except ApiError as error:
            await problem_response(error)(scope, receive, send)
            return
        if admitted is not None:
            await self.app(scope, admitted, send)

    async def _admitted(self, scope: Scope, receive: Receive) -> Receive | None:
        """Return what the endpoint reads the body from; None if the client has gone."""
        self._check_heads(scope)
        limits, body = self.gate.limits, 0
        if not _is_open(scope):
            scope.setdefault("state", {})["identity"] = await self.gate.identify(scope)
            body = limits.json_bytes
        if (scope["method"], scope["path"]) == _PAYLOADS:
            return self._timed(scope, receive, limits.body_bytes)
        return await _whole(self._timed(scope, receive, body), receive)

    def _check_heads(self, scope: Scope) -> None:
        names = [name for name, _ in scope["headers"]]
        twice = next((name for name in _SINGLE if names.count(name) > 1), None)
        if twice is not None:
            raise ApiError(400, f"header {twice.decode()!r} was sent twice", kind="BadRequest")
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        if len(scope["path"]) > _PATH_LENGTH:
            raise ApiError(
                414,
                f"a path of more than {_PATH_LENGTH} characters is not taken",
                kind="PathTooLong",
            )
        if host is None:
            raise ApiError(400, "the request has no Host header", kind="BadRequest")
        name = _without_port(host.decode("latin-1")).lower()
        if name not in self.hosts and name != _arrived_at(scope):
            raise ApiError(
                421,
                f"host {name[:100]!r} is not a name of this broker; an operator adds names to "
                "[broker] hosts in the site file",
                kind="WrongHost",
            )

    def _timed(self, scope: Scope, receive: Receive, most_bytes: int) -> Receive:
        """Return a receive that raises `ApiError` for a body that is too large or too slow."""
        limits, loop = self.gate.limits, asyncio.get_running_loop()
        stated = next(
            (value for name, value in scope["headers"] if name == b"content-length"), b"0"
        )
        _refuse_large(int(stated), most_bytes)
        last, size = 0.0, 0

        async def timed() -> Message:
            nonlocal last, size
            last = last or loop.time() + limits.whole_body_s  # from the first wish for it
            try:
                async with asyncio.timeout_at(min(last, loop.time() + limits.body_s)):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "the body came too slowly", kind="TooSlow") from None
            size += len(message.get("body", b""))
            _refuse_large(size, most_bytes)
            return message

        return timed


async def _whole(timed: Receive, receive: Receive) -> Receive | None:
    """Read a body to its end; return a receive that gives it at once."""
    body = bytearray()
    while True:
        message = await timed()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    read = False

    async def again() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return again


def _refuse_large(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        hint = "; send fewer PUBs at once" if most_bytes > 1 << 20 else ""
        raise ApiError(
            413,
            f"a body of more than {most_bytes} bytes is not taken{hint}",
            kind="PayloadRejected",
        )


def _is_open(scope: Scope) -> bool:
    path = str(scope["path"])
    return path in _OPEN_PATHS or path.startswith(_OPEN_TREES)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and (not port or port.isdigit()) and not name.endswith(":") else host


def _arrived_at(scope: Scope) -> str | None:
    """Return the address that the client connected to, as a Host header names it."""
    address, port = scope.get("server") or (None, None)
    if port is None:  # a Unix socket
        return None
    return f"[{address}]" if ":" in str(address) else str(address)


async def _broker(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


async def _caller(request: Request) -> Identity:
    identity: Identity = request.state.identity  # set by `Admission`
    return identity


ServedBroker = Annotated[Broker, Depends(_broker)]
# For whole routers: all of their endpoints require authentication.
IDENTIFIED = Depends(_caller)
Caller = Annotated[Identity, IDENTIFIED]


async def _in_turn(request: Request, caller: Caller) -> AsyncIterator[None]:
    async with request.app.state.gate.listings.place(caller.user):
        yield


# For endpoints that read all jobs: two requests of a user are answered at a time.
IN_TURN = Depends(_in_turn)


def known_qpu(broker: Broker, qpu: str) -> None:
    """Raise `ApiError` 404 for a QPU that the site does not have."""
    if qpu not in broker.qpus:
        listed = ", ".join(broker.qpus)
        raise ApiError(404, f"no QPU {qpu!r}; there are: {listed}", kind="QpuUnknown")


def written(document: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with encoded JSON, which FastAPI would validate and encode again."""
    return Response(document, status, headers, "application/json")
