"""Who calls and how much they may ask for: authentication, rates and sizes."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import IO

from fastapi import Request

from orchestrator.broker.access import Identity
from orchestrator.broker.api.problems import ApiError
from orchestrator.broker.digests import digest_text
from orchestrator.broker.tokens import TokenFile

__all__ = ["PEER", "Gate", "Limits", "peer_identity", "read_body"]

# How the server names the other end of a Unix socket in the place of its address.
PEER = "uid:"
_IN_MEMORY_BYTES = 1 << 20
_USERS_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of the service.

    body_s: the pause allowed within a body; whole_body_s: the time allowed for all of it.
    """

    body_bytes: int = 64 << 20
    body_s: float = 20.0
    whole_body_s: float = 300.0
    requests_per_s: float = 1000.0
    burst: float = 2000.0


@dataclass(eq=False)
class Gate:
    """Lets a request in if its sender is known and not too eager."""

    tokens: TokenFile
    limits: Limits
    clock: Callable[[], datetime]
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)

    def identify(self, request: Request) -> Identity:
        """Return who sent a request. Raises `ApiError` 401 for strangers, 429 for the eager."""
        identity = self._identity(request)
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

    def _identity(self, request: Request) -> Identity:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secret:
            identity = self.tokens.find(secret.strip(), self.clock())
            if identity is not None:
                return identity
            raise _stranger("the token is unknown, revoked or expired")
        host = request.client.host if request.client else ""
        if host.startswith(PEER):
            return peer_identity(int(host.removeprefix(PEER)))
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


@lru_cache(maxsize=_USERS_REMEMBERED)
def peer_identity(uid: int) -> Identity:
    """Return who is at the other end of a Unix socket.

    The broker's own user and root are operators; anyone else is a user whose projects are
    their Unix groups.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Identity(user=str(uid), role="user", projects=(str(uid),))
    if uid in (0, os.geteuid()):
        return Identity(user=entry.pw_name, role="operator", projects=("default",))
    groups = []
    for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        try:
            groups.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            groups.append(str(gid))
    return Identity(user=entry.pw_name, role="user", projects=tuple(groups))


async def read_body(request: Request, limits: Limits) -> IO[bytes]:
    """Return the body as a file, on disk if it is large, checked against its Content-Digest.

    Raises `ApiError`: 413 when it is larger than allowed, 408 when it comes too slowly, 415 for
    a content encoding, 422 when it is not what its digest says.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "bodies must not be compressed", kind="UnsupportedEncoding")
    _refuse_large(int(request.headers.get("content-length") or 0), limits)
    with ExitStack() as to_close:
        body = to_close.enter_context(SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))
        digest = await _receive(request, body, limits)
        stated = request.headers.get("content-digest")
        if stated is not None and stated != digest_text(digest):
            raise ApiError(422, "the body is not what its Content-Digest says", kind="DamagedBody")
        body.seek(0)
        to_close.pop_all()  # the caller closes it
        return body


async def _receive(request: Request, body: IO[bytes], limits: Limits) -> bytes:
    """Write what comes to a file; return its SHA-256."""
    digest, size = sha256(), 0
    loop = asyncio.get_running_loop()
    last = loop.time() + limits.whole_body_s
    try:
        async with asyncio.timeout(limits.body_s) as patience:
            async for chunk in request.stream():
                patience.reschedule(min(last, loop.time() + limits.body_s))
                size += len(chunk)
                _refuse_large(size, limits)
                digest.update(chunk)
                body.write(chunk)
    except TimeoutError:
        raise ApiError(408, "the body came too slowly", kind="TooSlow") from None
    return digest.digest()


def _refuse_large(size: int, limits: Limits) -> None:
    if size > limits.body_bytes:
        raise ApiError(
            413,
            f"a body of more than {limits.body_bytes} bytes is not taken; send fewer PUBs at once",
            kind="PayloadRejected",
        )
