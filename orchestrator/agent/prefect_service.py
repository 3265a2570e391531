"""A Prefect server on a socket that it inherits: the agent's, or a temporary one for one process.

``python -m orchestrator.agent.prefect_service DESCRIPTOR``. Its password comes by the environment.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.garbage import collect_seldom

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HOST", "OPENING_PATH", "create_app", "main"]

HOST = "127.0.0.1"
OPENING_PATH = "/hpcqc"
# Passes the password after the link's #, which browsers send to nobody, to Prefect's own page:
# it keeps one under this name, in base 64.
_OPENING_PAGE = """<!doctype html><meta charset="utf-8"><title>Prefect of the hpcqc agent</title>
<meta name="referrer" content="no-referrer"><script>
localStorage.setItem("prefect-password", btoa(location.hash.slice(1)));
location.replace("/");
</script>"""


def create_app() -> ASGIApp:
    """Return Prefect's application, which answers this machine's names only (DNS rebinding)."""
    from prefect.server.api.server import create_app as prefect_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse

    inner = prefect_app()
    opening = HTMLResponse(_OPENING_PAGE, headers={"cache-control": "no-store"})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wanted: Any = opening if scope.get("path") == OPENING_PATH else inner
        await wanted(scope, receive, send)

    return TrustedHostMiddleware(app, allowed_hosts=[HOST, "localhost"])


def main() -> None:
    """Serve until SIGTERM."""
    collect_seldom()
    import uvicorn

    config = uvicorn.Config(
        "orchestrator.agent.prefect_service:create_app",
        factory=True,
        log_level="error",
        lifespan="on",
        proxy_headers=False,
        timeout_graceful_shutdown=2,  # a browser's event stream would keep it for ever
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
