"""Prefect as a run needs it: no telemetry, no chatter on the terminal, a server if there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.application.prefect_server import TemporaryServer
from orchestrator.config.environment import (
    hand_down,
    prefect_api_url,
    prefect_is_configured,
    prepare_prefect,
    silence_telemetry,
)

__all__ = ["launch_server", "logs_to_file", "on_server", "server_if_needed"]

# What Prefect sets for a server that it starts for one process; there is nobody to see a UI.
_SERVER = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


def launch_server(results: Path) -> TemporaryServer | None:
    """Set Prefect's variables and start a server where none is configured. Import no Prefect.

    results: where Prefect keeps what stages returned; beside the ledger, because a run that is
    taken up again needs both.

    Where the user has Prefect settings in files, return None: ask `server_if_needed` later.
    """
    silence_telemetry()
    prepare_prefect(
        {
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "PREFECT_LOCAL_STORAGE_PATH": str(results),
        }
    )
    if prefect_api_url() is not None or prefect_is_configured():
        return None
    return _start()


def server_if_needed() -> TemporaryServer | None:
    """Start a server if Prefect, which knows all settings by now, has found none."""
    from prefect.settings import PREFECT_API_URL

    return _start() if PREFECT_API_URL.value() is None else None


def logs_to_file(path: Path) -> None:
    """Send what Prefect, Dask and warnings log to a file instead of the terminal.

    What the user's own code has set up for its logs stays.
    """
    sink = logging.FileHandler(path, encoding="utf-8")
    sink.setFormatter(logging.Formatter("%(asctime)s | %(levelname)-7s | %(name)s | %(message)s"))
    named = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    for logger in (logging.root, *named):
        for held in tuple(logger.handlers):
            if type(held).__module__ == "prefect.logging.handlers" and hasattr(held, "stream"):
                logger.removeHandler(held)
    prefect = logging.getLogger("prefect")
    prefect.propagate = False
    for logger in (logging.root, prefect, logging.getLogger("prefect._internal")):
        logger.addHandler(sink)
    logging.captureWarnings(capture=True)


@contextmanager
def on_server(server: TemporaryServer | None, *, of_agent: bool) -> Iterator[None]:
    """Run a block against a temporary server; None leaves the server as it is configured.

    On a temporary server and on an agent's, the run is spared the second that ending Prefect's
    heartbeat takes: nobody watches for it.
    """
    if server is None and not of_agent:
        yield
        return
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    updates: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    if server is not None:
        updates |= {
            PREFECT_API_URL: server.api_url,
            PREFECT_API_AUTH_STRING: server.password,
            PREFECT_LOGGING_TO_API_ENABLED: False,
        }
    with temporary_settings(updates=updates):
        yield


def _start() -> TemporaryServer:
    server = TemporaryServer(_SERVER)
    server.start()
    # The logs are in the run's folder; nobody would ever read them from this server.
    prepare_prefect({"PREFECT_API_URL": server.api_url, "PREFECT_LOGGING_TO_API_ENABLED": "false"})
    hand_down({"PREFECT_API_AUTH_STRING": server.password})
    return server
