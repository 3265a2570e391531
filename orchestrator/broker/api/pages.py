"""The pages of the broker that a person looks at: its status, and the description of its API."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

__all__ = ["install_pages"]


def install_pages(app: FastAPI) -> None:
    """Add the pages. They hold no data: their scripts ask the API as anyone does."""
    static = Path(str(files("orchestrator.broker.api").joinpath("static")))
    app.mount("/static", StaticFiles(directory=static), name="static")
    app.mount("/swagger", StaticFiles(directory=swagger_ui_path), name="swagger")

    @app.get("/", include_in_schema=False)
    async def status() -> HTMLResponse:
        return HTMLResponse((static / "status.html").read_text(encoding="utf-8"))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="hpcqc broker API",
            swagger_js_url="/swagger/swagger-ui-bundle.js",
            swagger_css_url="/swagger/swagger-ui.css",
            swagger_favicon_url="/swagger/favicon-32x32.png",
        )
