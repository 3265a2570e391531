"""A broker's application in this process, with a scripted QPU and tokens for every kind of caller."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import FastAPI

from backends import registry
from backends.api import Backend
from orchestrator.broker.api.admission import RequestLimits
from orchestrator.broker.api.app import ApiSettings, create_app
from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.intake import Intake
from orchestrator.config.qpu_tables import QpuSettings
from tests.patience import PATIENCE_S
from tests.service.calls import job_head

__all__ = ["Asker", "BorrowingIntake", "Room", "open_room"]


class BorrowingIntake(Intake):
    """Readers forked by one process for all rooms, which imports Qiskit once."""

    _lender: ClassVar[Intake | None] = None

    def _start(self) -> None:
        lender = BorrowingIntake._lender
        if lender is None or lender._has_ended:
            if lender is not None:
                lender.close()
            else:
                atexit.register(BorrowingIntake._end)
            lender = BorrowingIntake._lender = Intake()
            lender._start()
        self._forks, self._control = lender._forks, lender._control

    def close(self) -> None:
        self._forks = self._control = None  # the next room has use for them
        super().close()

    @classmethod
    def _end(cls) -> None:
        if cls._lender is not None:
            cls._lender.close()


class Asker:
    """Asks an application in this process, which lives on an event loop of its own thread."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def __enter__(self) -> Asker:
        self._thread.start()
        self._lifespan = self._app.router.lifespan_context(self._app)
        self.wait(self._lifespan.__aenter__())
        return self

    def __exit__(self, *_error: object) -> None:
        self.wait(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def request(
        self, method: str, path: str, *, asked: Mapping[str, Any] | None = None, **options: Any
    ) -> httpx.Response:
        """Send a request. asked: the job of one to POST /v1/jobs."""
        if asked is not None:
            options["headers"] = {**(options.get("headers") or {}), **job_head(**asked)}

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://localhost"
            ) as client:
                return await client.request(method, path, **options)

        answer: httpx.Response = self.wait(ask())
        return answer

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


@dataclass(frozen=True, kw_only=True)
class Room:
    """An application that works, and the headers by which callers are known."""

    app: FastAPI
    http: Asker
    tokens: TokenFile
    state: Path
    headers: dict[str, dict[str, str]]


@contextmanager
def open_room(
    state: Path,
    *,
    limits: RequestLimits | None = None,
    run_s: float = 60.0,
    vendor_says: str = "",
    more: Mapping[str, Any] | None = None,
) -> Iterator[Room]:
    """Open an application whose QPU ``fake`` takes so long for each task.

    vendor_says: adds a QPU ``broken`` that cannot be opened, for this reason. more: options of
    the fake.
    """
    ledger = Ledger.open(state / "ledger.db")
    options = {"run_s": run_s, "durable": True, **(more or {})}
    names = ["fake", "broken"] if vendor_says else ["fake"]

    def open_backend(qpu: str) -> Backend:
        if qpu == "broken":
            raise RuntimeError(vendor_says)
        return registry.create("fake", options, state_dir=state / qpu)

    broker = Broker(
        qpus={name: QpuSettings(name=name, backend="fake", options=options) for name in names},
        ledger=ledger,
        clock=lambda: datetime.now(UTC),
        open_backend=open_backend,
        intake=BorrowingIntake(),
    )
    tokens = TokenFile(state / "tokens.json")
    app = create_app(broker, ApiSettings(tokens=tokens.path, limits=limits or RequestLimits()))
    try:
        with Asker(app) as http:
            yield Room(app=app, http=http, tokens=tokens, state=state, headers=_headers(tokens))
    finally:
        ledger.close()


def _headers(tokens: TokenFile) -> dict[str, dict[str, str]]:
    now = datetime.now(UTC)
    _, owner = tokens.add("ada", "user", ["chem", "qml"], now=now)
    _, other = tokens.add("bob", "user", ["optics"], now=now)
    _, operator = tokens.add("olga", "operator", ["ops"], now=now)
    _, expired = tokens.add("ada", "user", ["chem"], now=now, expires_at=now - timedelta(seconds=5))
    entry, revoked = tokens.add("ada", "operator", ["chem"], now=now)
    tokens.revoke(entry.id)
    secrets = {
        "bad": "hpcqc_" + "x" * 43,
        "expired": expired,
        "revoked": revoked,
        "owner": owner,
        "other": other,
        "operator": operator,
    }
    return {"nobody": {}} | {
        name: {"Authorization": f"Bearer {secret}"} for name, secret in secrets.items()
    }


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """One application for a module; each of its tasks takes a minute."""
    with open_room(tmp_path_factory.mktemp("room")) as opened:
        yield opened
