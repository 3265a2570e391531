"""What every request passes before an endpoint sees it: its host, its sender, the size of its body."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.broker.api.guards import Gate
from orchestrator.broker.api.problems import ApiError, problem_response

__all__ = ["Admission", "local_hosts"]

# Routes that answer anyone. They show nothing of anybody's work, and take no body.
_OPEN_PATHS = frozenset({"/", "/docs", "/health", "/openapi.json"})
_OPEN_TREES = ("/static/", "/swagger/")
_PAYLOADS = ("POST", "/v1/jobs")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
# A second of any of these would let two readers of one request disagree.
_SINGLE = (b"host", b"authorization", b"content-length", b"content-type")
# Of a path, in which no route has a longer one: to look for a file of many folders takes long.
_PATH_LENGTH = 1000


def local_hosts() -> frozenset[str]:
    """Return the names under which clients on this machine reach it."""
    return _LOOPBACK | {socket.gethostname().lower()}


@dataclass(eq=False)
class Admission:
    """Passes a request on if its Host is one of the broker's, its sender is known and its body fits.

    The sender is checked on the head alone: of a stranger's body no byte is kept. A body of
    JSON is complete before the endpoint is called; a payload is counted and timed as the
    endpoint reads it.

    hosts: names in a Host header that are the broker's, beside the address that was connected
    to. A web page whose name was made to resolve to this machine sends another one.
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
