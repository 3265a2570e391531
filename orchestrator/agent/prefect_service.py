"""The agent's Prefect server: on a socket it inherits, with its database in the agent's folder.

``python -m orchestrator.agent.prefect_service DESCRIPTOR``
"""

from __future__ import annotations

import socket
import sys

__all__ = ["main"]


def main() -> None:
    """Serve until SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=2,  # a browser's event stream would keep it for ever
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
