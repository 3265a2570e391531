"""What every request passes before an endpoint: its host, caller, rate and body are checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.broker.api.peers import UnixUsers, peer_of
from orchestrator.broker.api.problems import ApiError, problem_response
from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.core.access import Identity
from orchestrator.broker.runtime.quotas import PerUserSemaphore

__all__ = ["Admission", "Callers", "RequestLimits"]

# Routes that need no authentication: they show nothing of anybody's work, and take no body.
_OPEN_PATHS = frozenset({"/", "/docs", "/health", "/openapi.json"})
_OPEN_TREES = ("/static/", "/swagger/")
_PAYLOADS = ("POST", "/v1/jobs")
# A second of any of these would let two readers of one request disagree.
_SINGLE = ("host", "authorization", "content-length", "content-type")
# Characters; no route has a longer path, and looking for a file in many folders takes long.
_PATH_LENGTH = 1000
_USERS_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Limits for one client."""

    body_bytes: int = 64 << 20  # of a payload
    json_bytes: int = 64 << 10  # of any other body
    large_bodies: int = 4  # payloads above json_bytes that are read at a time for one user
    body_s: float = 20.0  # longest pause within a body
    whole_body_s: float = 300.0  # longest time for all of it
    requests_per_s: float = 1000.0
    burst: float = 2000.0


@dataclass(eq=False)
class Callers:
    """Authenticates callers and limits the rate of each."""

    tokens: TokenFile
    limits: RequestLimits
    clock: Callable[[], datetime]
    users: UnixUsers
    listings: PerUserSemaphore  # turns for answers about very many jobs
    large_bodies: PerUserSemaphore  # turns for large payloads
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def identify(self, scope: Scope) -> Identity:
        """Return the sender. Raises `ApiError` 401 if unauthenticated, 429 if rate-limited."""
        identity = await self._authenticated(scope)
        wait_s = self._wait_s(identity.user)
        if wait_s > 0:
            raise ApiError(
                429,
                f"user {identity.user!r} sends more than {self.limits.requests_per_s:g} requests "
                f"a second; come back in {wait_s:.1f} s",
                kind="TooManyRequests",
                headers={"Retry-After": str(max(1, round(wait_s)))},
            )
        return identity

    async def _authenticated(self, scope: Scope) -> Identity:
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        peer = peer_of(scope)
        if scheme.lower() == "bearer" and secret:
            identity = self.tokens.find(secret.strip(), self.clock())
            reason = "the token is unknown, revoked or expired"
        else:
            identity = None if peer is None else await self.users.identity(peer)
            reason = "no token was sent; the header is 'Authorization: Bearer TOKEN'"
        if identity is None:
            challenge = {"WWW-Authenticate": 'Bearer realm="hpcqc"'}
            raise ApiError(401, reason, kind="NotAuthenticated", headers=challenge)
        return identity

    def _wait_s(self, user: str) -> float:
        """Take a token from a user's bucket; return the seconds until there is one, or 0."""
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


@dataclass(eq=False)
class Admission:
    """Passes a request on if its Host is one of the broker's, its caller is known and it fits.

    Nothing of an unauthenticated body is read. A JSON body is complete before the endpoint is
    called; a payload is limited as the endpoint reads it. A web page whose name was made to resolve
    to this machine sends a Host that is neither in ``hosts`` nor the connection's address.
    """

    app: ASGIApp
    callers: Callers
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
        """Return what the endpoint reads the body from; None if the client disconnected."""
        self._check_head(scope)
        limits, path = self.callers.limits, str(scope["path"])
        is_open = path in _OPEN_PATHS or path.startswith(_OPEN_TREES)
        if not is_open:
            scope.setdefault("state", {})["identity"] = await self.callers.identify(scope)
        if (scope["method"], path) == _PAYLOADS:
            return self._limited(scope, receive, limits.body_bytes)
        limited = self._limited(scope, receive, 0 if is_open else limits.json_bytes)
        try:
            body = await Request(scope, limited).body()
        except ClientDisconnect:
            return None
        complete = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def received() -> Message:
            return next(complete, None) or await receive()

        return received

    def _check_head(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        for name in _SINGLE:
            if len(headers.getlist(name)) > 1:
                raise ApiError(
                    400, f"header {name!r} was sent twice; send it once", kind="BadRequest"
                )
        if len(scope["path"]) > _PATH_LENGTH:
            detail = (
                f"the path has {len(scope['path'])} characters; at most {_PATH_LENGTH} are allowed"
            )
            raise ApiError(414, detail, kind="PathTooLong")
        if "host" not in headers:
            raise ApiError(400, "the request has no Host header", kind="BadRequest")
        host = _without_port(headers["host"]).lower()
        if host not in self.hosts and host != _server_address(scope):
            raise ApiError(
                421,
                f"host {host[:100]!r} is not a name of this broker; an operator adds names to "
                "[broker] hosts in the site file",
                kind="WrongHost",
            )

    def _limited(self, scope: Scope, receive: Receive, most_bytes: int) -> Receive:
        """Return a receive that raises `ApiError` for a body that is too large or too slow."""
        limits, loop = self.callers.limits, asyncio.get_running_loop()
        _check_size(int(Headers(scope=scope).get("content-length", 0)), most_bytes)
        deadline, size = 0.0, 0

        async def limited() -> Message:
            nonlocal deadline, size
            deadline = deadline or loop.time() + limits.whole_body_s  # from the first call
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + limits.body_s)):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "the body came too slowly", kind="TooSlow") from None
            size += len(message.get("body", b""))
            _check_size(size, most_bytes)
            return message

        return limited


def _check_size(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        hint = "; send fewer PUBs at once" if most_bytes > 1 << 20 else ""
        detail = f"a body of more than {most_bytes} bytes is not accepted{hint}"
        raise ApiError(413, detail, kind="PayloadRejected")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and (not port or port.isdigit()) and not name.endswith(":") else host


def _server_address(scope: Scope) -> str | None:
    """Return the address that the client connected to as a Host header names it; None for Unix."""
    address, port = scope.get("server") or (None, None)
    if port is None:
        return None
    return f"[{address}]" if ":" in str(address) else str(address)
