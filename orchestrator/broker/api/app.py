"""The broker's web application: routes, problems and pages, put together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from orchestrator.broker.api import budgets, jobs, operations
from orchestrator.broker.api.admission import Admission, Callers, RequestLimits
from orchestrator.broker.api.metrics import install_metrics
from orchestrator.broker.api.peers import UnixUsers
from orchestrator.broker.api.problems import ProblemDetails, install_problems
from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.quotas import PerUserSemaphore

__all__ = ["ApiSettings", "create_app"]

# A page loads, runs and calls nothing but this server's own files, and no other page frames it.
_STRICT = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What an application needs besides its broker."""

    tokens: Path  # the file with their hashes
    on_ready: Callable[[], None] = lambda: None  # called once the broker works
    limits: RequestLimits = field(default_factory=RequestLimits)
    hosts: frozenset[str] = frozenset()  # names in Host headers beside those of this machine
    unix_groups: frozenset[str] = frozenset()  # the Unix groups that are projects


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
    callers = app.state.callers = Callers(
        tokens=TokenFile(settings.tokens),
        limits=settings.limits,
        clock=broker.clock,
        users=UnixUsers(settings.unix_groups),
        listings=PerUserSemaphore(2),
        large_bodies=PerUserSemaphore(settings.limits.large_bodies),
    )
    for router in (jobs.router, budgets.router, operations.router, operations.health_router):
        app.include_router(router)
    local = ("localhost", "127.0.0.1", "[::1]", socket.gethostname())
    hosts = frozenset(name.lower() for name in (*local, *settings.hosts))
    app.add_middleware(Admission, callers=callers, hosts=hosts)
    metrics = install_metrics(app, broker)  # outside of it: refusals are counted too
    install_problems(app)
    _install_pages(app)
    # No endpoint returns problem documents by itself, so FastAPI does not describe them.
    app.openapi()["components"]["schemas"]["Problem"] = ProblemDetails.model_json_schema()
    return app


def _install_pages(app: FastAPI) -> None:
    """Add the pages, which hold no data: their scripts call the API as any client does."""
    static = Path(str(files("orchestrator.broker.api").joinpath("static")))
    app.mount("/static", StaticFiles(directory=static), name="static")
    app.mount("/swagger", StaticFiles(directory=swagger_ui_path), name="swagger")

    def page(name: str, policy: str) -> HTMLResponse:
        text = (static / name).read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, **_PAGE_HEADERS})

    @app.get("/", include_in_schema=False)
    async def status() -> HTMLResponse:
        return page("status.html", _STRICT)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Swagger UI writes style attributes, which a script cannot hide in.
        return page("docs.html", f"{_STRICT}; style-src 'self' 'unsafe-inline'")


def _version() -> str:
    try:
        return version("hpcqc")
    except PackageNotFoundError:
        return "0"
