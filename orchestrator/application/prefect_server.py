"""A temporary Prefect server for one run: quiet, started early, and never left behind.

Prefect would start one itself, but only after it was imported, with its errors on the user's
terminal. Run as a script, this file is that server's process.
"""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["ServerError", "TemporaryServer"]

_HOST = "127.0.0.1"
_START_S = 120.0
_STOP_S = 5.0


class ServerError(RuntimeError):
    """The temporary server did not come up."""


class TemporaryServer:
    """A Prefect server that lives no longer than this process, however that ends.

    password: what it asks of every client. It listens on a socket made here, so its address is
    known, and free, from the start; and it holds the reading end of a pipe, whose end of file
    tells it that this process is gone.
    """

    def __init__(self, extra_environment: Mapping[str, str]) -> None:
        """Prepare a server; `start` starts it."""
        self._extra = dict(extra_environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._life: int | None = None
        self.api_url = ""
        self.password = secrets.token_urlsafe(32)

    def start(self) -> None:
        """Start the process and return at once; `api_url` is set from here on.

        Raises `ServerError` if this machine has no loopback interface.
        """
        from orchestrator.config.environment import process_environment

        try:
            listening = socket.create_server((_HOST, 0))
            socket.create_connection(listening.getsockname(), timeout=_START_S).close()
        except OSError as error:
            raise ServerError(
                f"{_HOST} cannot be reached ({error.strerror}), and Prefect's server, Dask "
                "and the simulators speak over it; bring the loopback interface up (ip link set lo up)"
            ) from error
        listening.set_inheritable(True)
        reading, self._life = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server runs
        numbers = (listening.fileno(), reading)
        page = f"http://{_HOST}:{listening.getsockname()[1]}"
        closed = {
            "PREFECT_SERVER_API_AUTH_STRING": self.password,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": page,
        }
        self._process = subprocess.Popen(
            # -P: a `prefect` or `orchestrator` in the user's folder is not for the server.
            [sys.executable, "-P", str(Path(__file__)), *map(str, numbers)],
            env={**process_environment(), **self._extra, **closed},
            pass_fds=numbers,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the run; it ends the server when it is done
        )
        self.api_url = f"{page}/api"
        listening.close()
        os.close(reading)
        # Registered before Prefect is imported, so it runs after Prefect's own farewells.
        atexit.register(self.stop)

    def wait(self) -> None:
        """Return when the server answers. Raises `ServerError` with the end of its log."""
        # A proxy of the environment cannot reach an address of this machine.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.is_alive():
            try:
                with direct.open(f"{self.api_url}/health", timeout=_START_S):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise ServerError(f"Prefect's temporary server did not start: {self._last_words()}")

    def stop(self) -> None:
        """End the server and wait for its end; stopping twice does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._life is not None:
            os.close(self._life)
        if self._log is not None:
            self._log.close()

    def is_alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def _last_words(self) -> str:
        if self._log is None:
            return "it was not started"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _create_app() -> Any:
    """Return Prefect's application for requests to this machine by its address alone."""
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return TrustedHostMiddleware(create_app(), allowed_hosts=[_HOST])


def _serve(listening: int, life: int) -> None:
    """Serve on an inherited socket until told to stop, or until the run's process is gone."""
    from orchestrator.garbage import collect_seldom

    collect_seldom()
    import uvicorn

    os.umask(0o077)  # what it writes is its owner's alone

    def watch() -> None:
        os.read(life, 1)  # returns at the end of file: nobody writes
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    config = uvicorn.Config(
        _create_app, factory=True, log_level="error", lifespan="on", proxy_headers=False
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listening)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
