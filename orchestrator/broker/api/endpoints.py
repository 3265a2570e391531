"""What endpoints share: the broker, the caller, a turn, the body and answers in JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated

from fastapi import Depends, Request, Response
from starlette.requests import ClientDisconnect

from orchestrator.broker.api.admission import Callers
from orchestrator.broker.api.problems import ApiError
from orchestrator.broker.client.content_digest import digest_text
from orchestrator.broker.core.access import Forbidden, Identity
from orchestrator.broker.runtime.broker import Broker

__all__ = [
    "IDENTIFIED",
    "IN_TURN",
    "Caller",
    "Operator",
    "ServedBroker",
    "json_response",
    "known_qpu",
    "large_body_turn",
    "read_body",
]

_IN_MEMORY_BYTES = 1 << 20


async def _broker(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


async def _caller(request: Request) -> Identity:
    identity: Identity = request.state.identity  # set by `Admission`
    return identity


ServedBroker = Annotated[Broker, Depends(_broker)]
# For whole routers: each of their endpoints requires authentication.
IDENTIFIED = Depends(_caller)
Caller = Annotated[Identity, IDENTIFIED]


async def _operator(caller: Caller) -> Identity:
    if not caller.is_operator:
        raise Forbidden(f"user {caller.user!r} is not an operator; ask an operator of this site")
    return caller


Operator = Annotated[Identity, Depends(_operator)]


async def _in_turn(request: Request, caller: Caller) -> AsyncIterator[None]:
    async with request.app.state.callers.listings.place(caller.user):
        yield


# For endpoints that read all jobs: two of their answers are made at a time for one user.
IN_TURN = Depends(_in_turn)


def large_body_turn(request: Request, caller: Identity) -> AbstractAsyncContextManager[None]:
    """Return a caller's turn for a body, to take before it is read and keep until it is dropped."""
    callers: Callers = request.app.state.callers
    stated = request.headers.get("content-length")
    if stated is not None and int(stated) <= callers.limits.json_bytes:
        return nullcontext()
    return callers.large_bodies.place(caller.user)


def known_qpu(broker: Broker, qpu: str) -> None:
    """Raise `ApiError` 404 for a QPU that the site does not have."""
    if qpu not in broker.qpus:
        listed = ", ".join(broker.qpus)
        raise ApiError(404, f"no QPU {qpu!r}; there are: {listed}", kind="QpuUnknown")


def json_response(
    document: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answer with JSON that is encoded already: FastAPI would validate each view again."""
    return Response(document, status, headers, "application/json")


async def read_body(request: Request) -> IO[bytes]:
    """Return the body as a file, on disk if it is large, checked against its Content-Digest.

    Raises `ApiError`: 413 if it is too large, 408 too slow, 400 cut short, 415 compressed, 422
    different from its digest, 507 if the disk is full.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "bodies must not be compressed", kind="UnsupportedEncoding")
    digest = sha256()
    try:
        with ExitStack() as to_close:
            body = to_close.enter_context(SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))
            async for chunk in request.stream():
                digest.update(chunk)
                body.write(chunk)
            stated = request.headers.get("content-digest")
            if stated is not None and stated != digest_text(digest.digest()):
                detail = "the body is not what its Content-Digest says"
                raise ApiError(422, detail, kind="DamagedBody")
            body.seek(0)
            to_close.pop_all()  # the caller closes it
            return body
    except ClientDisconnect:
        raise ApiError(400, "the body is cut short", kind="BodyCutShort") from None
    except OSError:  # of the write, or of closing what could not be written
        detail = "the broker's disk has no room for this body; send it again later"
        raise ApiError(507, detail, kind="StorageFull") from None
