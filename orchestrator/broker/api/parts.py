"""What endpoints are given: the broker behind them and the caller in front."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request, Response

from orchestrator.broker.api.problems import ApiError
from orchestrator.broker.core.access import Identity
from orchestrator.broker.runtime.broker import Broker

__all__ = ["IDENTIFIED", "IN_TURN", "Caller", "ServedBroker", "known_qpu", "written"]


async def _broker(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


async def _caller(request: Request) -> Identity:
    identity: Identity = request.state.identity  # set by `Admission`
    return identity


ServedBroker = Annotated[Broker, Depends(_broker)]
# For whole routers: no endpoint of theirs is reached by a stranger.
IDENTIFIED = Depends(_caller)
Caller = Annotated[Identity, IDENTIFIED]


async def _in_turn(request: Request, caller: Caller) -> AsyncIterator[None]:
    async with request.app.state.gate.listings.place(caller.user):
        yield


# For endpoints that look through all jobs: a user has two of their answers made at a time.
IN_TURN = Depends(_in_turn)


def known_qpu(broker: Broker, qpu: str) -> None:
    """Raise `ApiError` 404 for a QPU that the site does not have."""
    if qpu not in broker.qpus:
        listed = ", ".join(broker.qpus)
        raise ApiError(404, f"no QPU {qpu!r}; there are: {listed}", kind="QpuUnknown")


def written(document: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON that is written already: FastAPI would take each view apart once more."""
    return Response(document, status, headers, "application/json")
