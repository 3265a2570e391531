"""The broker's web application: routes, problems and pages, put together."""

from __future__ import annotations

import asyncio
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
from orchestrator.broker.api.guards import Admission, Gate, RequestLimits, local_hosts
from orchestrator.broker.api.metrics import install_metrics
from orchestrator.broker.api.peers import UnixUsers
from orchestrator.broker.api.problems import ProblemDetails, install_problems
from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.runtime.broker import Broker

__all__ = ["ApiSettings", "create_app", "install_pages"]


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


# Nothing but this server's own files is loaded, run or asked, and no other page frames it.
_STRICT = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def install_pages(app: FastAPI) -> None:
    """Add the pages. They hold no data: their scripts ask the API as anyone does."""
    static = Path(str(files("orchestrator.broker.api").joinpath("static")))
    app.mount("/static", StaticFiles(directory=static), name="static")
    app.mount("/swagger", StaticFiles(directory=swagger_ui_path), name="swagger")

    def page(name: str, policy: str) -> HTMLResponse:
        text = (static / name).read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, **_HEADERS})

    @app.get("/", include_in_schema=False)
    async def status() -> HTMLResponse:
        return page("status.html", _STRICT)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Swagger UI writes style attributes, which a script cannot hide in.
        return page("docs.html", f"{_STRICT}; style-src 'self' 'unsafe-inline'")
