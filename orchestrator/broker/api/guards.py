"""Who calls and how much they may ask for: authentication, rates and sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from orchestrator.broker.api.peers import UnixUsers, peer_of
from orchestrator.broker.api.problems import ApiError
from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.client.content_digest import digest_text
from orchestrator.broker.core.access import Identity
from orchestrator.broker.runtime.quotas import PerUserSemaphore

__all__ = ["Gate", "RequestLimits", "read_body"]

_IN_MEMORY_BYTES = 1 << 20
_USERS_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one client may ask of the service.

    body_bytes: of a payload; json_bytes: of any other body; large_bodies: so many payloads of a user
    that are larger than json_bytes are taken in at a time, and others wait unread. body_s: the pause allowed within a
    body; whole_body_s: the time allowed for all of it.
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
    """Lets a request in if its sender is known and not too eager.

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
        """Return a user's place for a body, to be held from before it is read until it is dropped."""
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
            raise _stranger("the token is unknown, revoked or expired")
        peer = peer_of(scope)
        identity = None if peer is None else await self.users.identity(peer)
        if identity is not None:
            return identity
        raise _stranger("no token was sent; the header is 'Authorization: Bearer TOKEN'")

    def _draw(self, user: str) -> float:
        """Take a drop from a user's bucket; return the seconds until there is one, 0 if there is."""
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


def _stranger(reason: str) -> ApiError:
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
