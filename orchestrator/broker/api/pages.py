"""The pages of the broker that a person looks at: its status, and the description of its API."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

__all__ = ["install_pages"]

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
