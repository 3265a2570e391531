"""The server of a rehearsed site: a vendor's routes, with authentication and faults in front."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.rehearsal.device import RehearsedDevice
from backends.rehearsal.dialect import Dialect
from backends.rehearsal.faults import RETRY_AFTER_S, FaultError, FaultScript, parse_fault
from backends.rehearsal.tokens import RehearsedTokens

__all__ = ["CONTROL", "create_rehearsal"]

# Routes of the rehearsal itself, which no site has.
CONTROL = "/rehearsal/"
_SLOW_S = 1.0
# Of those who have a token, and of all users of the machine.
_BODY_BYTES, _PUBLIC_BODY_BYTES = 1 << 28, 1 << 16
_FATES = ("stuck", "failed")
_TOO_MANY = "too many connections"


def create_rehearsal(
    dialect: Dialect,
    device: RehearsedDevice,
    tokens: RehearsedTokens,
    *,
    faults: FaultScript,
    control_token: str,
) -> FastAPI:
    """Return the application. The device is opened when it starts and closed when it ends.

    Routes below ``/rehearsal/`` take the control token alone: ``GET meter``, ``POST faults`` with
    a list of texts such as ``"lost:submit:2"`` (an empty one ends faults, maintenance and stuck jobs),
    ``POST calibration``, and ``POST token``, which makes a new token, or accepts that in the body.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        device.open()
        try:
            yield
        finally:
            await asyncio.to_thread(device.close)

    app = FastAPI(
        title=f"{device.target.name}, rehearsed",
        summary=f"{device.title}: simulated, with the protocol of its site.",
        description="\n".join(f"- Not public, so assumed: {words}" for words in dialect.assumed),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(dialect.router(device))
    border = _Border(dialect, device, tokens, faults, control_token)
    _add_control(app, border)
    app.add_middleware(_Middleware, border=border)
    return app


class _Border:
    """What stands between requests and the vendor's routes."""

    def __init__(
        self,
        dialect: Dialect,
        device: RehearsedDevice,
        tokens: RehearsedTokens,
        faults: FaultScript,
        control_token: str,
    ) -> None:
        self.dialect, self.device, self.tokens = dialect, device, tokens
        self.faults, self.control_token = faults, control_token
        self.in_maintenance = False
        self.most_requests: int | None = getattr(dialect, "most_connections", None)
        self.requests = 0

    def refusal(self, scope: Scope, kinds: frozenset[str]) -> Response | None:
        """Carry out the faults that come before a request; return an answer if it ends there."""
        if kinds & {"calibration", "vanish"}:
            self.device.recalibrate(forget="vanish" in kinds)
        if "renew" in kinds:
            self.tokens.renew(revoke=True)
        if "revoke" in kinds:
            self.tokens.revoke()
        self.in_maintenance |= "maintenance" in kinds
        if not self._admits(scope):
            return self.error(401, "the token is not valid")
        if self.in_maintenance:
            return self.error(503, "maintenance", RETRY_AFTER_S)
        for status, reason in ((429, "too many requests"), (503, "the service is overloaded")):
            if str(status) in kinds:
                return self.error(status, reason, RETRY_AFTER_S)
        return None

    def _admits(self, scope: Scope) -> bool:
        """Whether a request has a credential that the site accepts, or needs none."""
        is_public = getattr(self.dialect, "is_public", None)
        if is_public is not None and is_public(scope["method"], scope["path"]):
            return True
        credential, accepts = _credential(scope), getattr(self.dialect, "accepts", None)
        own = accepts is not None and accepts(credential)
        return own or self.tokens.accepts(credential)

    def is_public(self, scope: Scope) -> bool:
        """Whether a request needs no token."""
        is_public = getattr(self.dialect, "is_public", None)
        return is_public is not None and is_public(scope["method"], scope["path"])

    def error(self, status: int, reason: str, retry_after_s: int | None = None) -> Response:
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        content = json.dumps(self.dialect.error(status, reason))
        return Response(content, status, headers, media_type="application/json")


class _Middleware:
    """Authenticates requests and lets them meet their faults."""

    def __init__(self, app: ASGIApp, border: _Border) -> None:
        self._app, self._border = app, border

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        border, path = self._border, scope["path"]
        receive = _bounded(receive, _PUBLIC_BODY_BYTES if border.is_public(scope) else _BODY_BYTES)
        if path.startswith(CONTROL):
            if not secrets.compare_digest(
                _credential(scope).encode(), border.control_token.encode()
            ):
                await border.error(401, "give the control token")(scope, receive, send)
                return
            await self._app(scope, receive, send)
            return
        call = border.dialect.call(scope["method"], path)
        kinds = frozenset() if call is None else border.faults.strike(call)
        refused = border.refusal(scope, kinds)
        if refused is not None:
            await refused(scope, receive, send)
            return
        if "slow" in kinds:
            await asyncio.sleep(_SLOW_S)
        if "unsent" in kinds:
            await _cut(send)
            return
        scope.setdefault("state", {})["fate"] = next((fate for fate in _FATES if fate in kinds), "")
        if border.most_requests is not None and border.requests >= border.most_requests:
            if call != "submit":
                await border.error(429, _TOO_MANY)(scope, receive, send)
                return
            kinds |= {"limit"}
        border.requests += 1
        try:
            await self._answered(kinds, scope, receive, send)
        finally:
            border.requests -= 1

    async def _answered(
        self, kinds: frozenset[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        after = {"lost", "error", "limit", "504", "garbage", "partial", "twice"}
        if not kinds & after:
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        if "twice" in kinds:
            receive = await _repeatable(receive)
            await self._app({**scope, "state": dict(scope["state"])}, receive, _unheard)

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        if "lost" in kinds:
            await _cut(send)
        elif "partial" in kinds:
            await send(messages[0])
            body = messages[1]["body"]
            await send({**messages[1], "body": body[: len(body) // 2], "more_body": True})
        elif "garbage" in kinds:
            page = Response("<html><body>It works!</body></html>", 200, media_type="text/html")
            await page(scope, receive, send)
        elif kinds & {"504", "twice"}:
            page = Response("<h1>504 Gateway Time-out</h1>", 504, media_type="text/html")
            await page(scope, receive, send)
        elif "limit" in kinds:
            await self._border.error(429, _TOO_MANY)(scope, receive, send)
        else:
            answer = self._border.error(500, "internal error")
            await answer(scope, receive, send)


def _bounded(receive: Receive, most_bytes: int) -> Receive:
    """Return what gives a request's body up to a size, and raises ``HTTPException`` beyond it."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most_bytes:
            raise HTTPException(413, f"a body of more than {most_bytes} bytes")
        return message

    return bounded


async def _repeatable(receive: Receive) -> Receive:
    """Return what gives a request's whole body as often as it is asked."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break

    async def again() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _unheard(_message: Message) -> None:
    """Drop an answer."""


async def _cut(send: Send) -> None:
    """Begin an answer and leave it: the server then closes the connection."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]}
    )


def _credential(scope: Scope) -> str:
    """Return the token of a request, in one of the usual headers, or nothing."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
        if name in (b"x-api-key", b"x-munge-cred"):
            return str(value.decode("latin-1"))
    return ""


def _add_control(app: FastAPI, border: _Border) -> None:
    @app.get(f"{CONTROL}meter", include_in_schema=False)
    def meter() -> dict[str, Any]:
        return {**border.device.meter(), "requests": border.faults.counts()}

    @app.post(f"{CONTROL}faults", include_in_schema=False)
    async def faults(request: Request) -> Response:
        stated = await request.json()
        try:
            found = [parse_fault(text) for text in stated]
        except (FaultError, AttributeError, TypeError) as error:
            return Response(str(error), 422, media_type="text/plain")
        for fault in found:
            border.faults.add(fault)
        if not found:
            border.faults.clear()
            border.in_maintenance = False
            border.device.free()
        return Response(status_code=204)

    @app.post(f"{CONTROL}calibration", include_in_schema=False)
    def calibration() -> dict[str, str]:
        return {"calibration": border.device.recalibrate().id}

    @app.post(f"{CONTROL}token", include_in_schema=False)
    async def token(request: Request) -> Response:
        own = (await request.body()).decode()
        if own:
            border.tokens.admit(own)
        else:
            border.tokens.renew()
        return Response(status_code=204)
