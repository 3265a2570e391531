"""The broker's web application: routes, problems and pages, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastapi import FastAPI

from orchestrator.broker.api import budgets, jobs, operations
from orchestrator.broker.api.admission import Admission, local_hosts
from orchestrator.broker.api.guards import Gate, RequestLimits
from orchestrator.broker.api.metrics import install_metrics
from orchestrator.broker.api.pages import install_pages
from orchestrator.broker.api.peers import UnixUsers
from orchestrator.broker.api.problems import ProblemDetails, install_problems
from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.runtime.broker import Broker

__all__ = ["ApiSettings", "create_app"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What an application needs besides its broker.

    tokens: the file they are kept in. on_ready: called once the broker works. hosts: names of the
    broker in Host headers beside those of this machine. unix_groups: the Unix groups that are
    projects.
    """

    tokens: Path
    on_ready: Callable[[], None] = lambda: None
    limits: RequestLimits = field(default_factory=RequestLimits)
    hosts: frozenset[str] = frozenset()
    unix_groups: frozenset[str] = frozenset()


def create_app(broker: Broker, settings: ApiSettings) -> FastAPI:
    """Return the application. The broker is opened when it starts and closed when it ends."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await broker.open()
        await broker.intake.prewarm()
        settings.on_ready()
        watching = asyncio.create_task(metrics.watch_lag())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await broker.close()

    app = FastAPI(
        title="hpcqc broker",
        summary="Queues, starts, meters and accounts for every quantum job of a site.",
        version=_version(),
        lifespan=lifespan,
        docs_url=None,  # Swagger UI from a content network would not load on a closed one
        redoc_url=None,
        redirect_slashes=False,  # a redirect repeats the Host header of the request
    )
    app.state.broker = broker
    gate = Gate(
        tokens=TokenFile(settings.tokens),
        limits=settings.limits,
        clock=broker.clock,
        users=UnixUsers(settings.unix_groups),
    )
    app.state.gate = gate
    for router in (jobs.router, budgets.router, operations.router, operations.health_router):
        app.include_router(router)
    hosts = local_hosts() | {name.lower() for name in settings.hosts}
    app.add_middleware(Admission, gate=gate, hosts=hosts)
    metrics = install_metrics(app, broker)  # outside of it: refusals are counted too
    install_problems(app)
    install_pages(app)
    _declare(app)
    return app


def _declare(app: FastAPI) -> None:
    """Describe problem documents, which no endpoint returns by itself."""
    made = app.openapi

    def described() -> dict[str, object]:
        known = app.openapi_schema is not None
        schema = made()
        if not known:
            parts = schema.setdefault("components", {}).setdefault("schemas", {})
            parts["Problem"] = ProblemDetails.model_json_schema()
            # FastAPI declares its own form for what it refuses; ours is the problem document.
            for name in ("HTTPValidationError", "ValidationError"):
                parts.pop(name, None)
        return schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way


def _version() -> str:
    try:
        return version("hpcqc")
    except PackageNotFoundError:
        return "0"
