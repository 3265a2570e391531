"""Prefect as a run needs it: no telemetry, no output on the terminal, a server if there is none."""

from __future__ import annotations

import atexit
import logging
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import IO, Any, TextIO

from orchestrator.agent.lifeline import start_module
from orchestrator.agent.prefect_service import HOST
from orchestrator.config.environment import (
    hand_down,
    prefect_is_configured,
    prepare_prefect,
    process_environment,
    silence_telemetry,
    variable,
)
from orchestrator.wording import visible

__all__ = [
    "ServerError",
    "TemporaryServer",
    "launch_server",
    "logs_to_file",
    "on_server",
    "prepare",
    "server_if_needed",
    "visible_logs",
]

_START_S = 120.0
_STOP_S = 5.0
# What Prefect sets for a server that it starts for one process; there is nobody to see a UI.
_SERVER = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class ServerError(RuntimeError):
    """The temporary server did not start."""


# Prefect would start one itself, only after its import, and print errors on the terminal.
class TemporaryServer:
    """A Prefect server that ends with this process, however that ends."""

    def __init__(self, extra_environment: Mapping[str, str]) -> None:
        self._extra = dict(extra_environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.api_url = ""
        self.password = secrets.token_urlsafe(32)

    def start(self) -> None:
        """Start the process without waiting for it. Raises `ServerError` without loopback."""
        try:
            listening = socket.create_server((HOST, 0))
            socket.create_connection(listening.getsockname(), timeout=_START_S).close()
        except OSError as error:
            raise ServerError(
                f"{HOST} cannot be reached ({error.strerror}), and Prefect's server, Dask "
                "and the simulators need it; bring the loopback interface up (ip link set lo up)"
            ) from error
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server runs
        page = f"http://{HOST}:{listening.getsockname()[1]}"
        private = {
            "PREFECT_SERVER_API_AUTH_STRING": self.password,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": page,
        }
        # In a session of its own: Ctrl-C is for the run, which ends the server when it is done.
        self._process = start_module(
            "orchestrator.agent.prefect_service",
            [str(listening.fileno())],
            environment={**process_environment(), **self._extra, **private},
            output=self._log,
            sockets=(listening.fileno(),),
            grace_s=0.0,
        )
        self.api_url = f"{page}/api"
        listening.close()
        # Registered before Prefect is imported, so it runs after Prefect's own exit handlers.
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
        if self._log is not None:
            self._log.close()

    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def _last_words(self) -> str:
        if self._log is None:
            return "it was not started"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its log is empty"


# The servers of this process; another is started if the last one has died.
_started: list[TemporaryServer] = []


def prepare() -> None:
    """Set the variables that Prefect reads when it is imported, unless the user has set them."""
    silence_telemetry()
    prepare_prefect({"PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore"})


def launch_server() -> TemporaryServer | None:
    """Start this process's server, unless one is or may be configured."""
    # Where only Prefect can tell, from the user's files, `server_if_needed` decides later.
    prepare()
    if "prefect" in sys.modules:
        return server_if_needed()
    url = variable("PREFECT_API_URL")
    if url not in (None, *_own_urls()) or (url is None and prefect_is_configured()):
        return None
    return _running()


def server_if_needed() -> TemporaryServer | None:
    """Start a server if Prefect, which knows all settings by now, has found none."""
    from prefect.settings import PREFECT_API_URL

    return _running() if PREFECT_API_URL.value() in (None, *_own_urls()) else None


class _Visible(logging.Formatter):
    """Another formatter's text, with what would act on a terminal escaped.

    Vendors and other users choose words of errors, which tracebacks repeat.
    """

    def __init__(self, form: logging.Formatter) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record and of its traceback."""
        return visible(self._form.format(record))


class _OfTask(logging.Formatter):
    """Names the task run that a message is about, as Prefect does where it prints."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of a record."""
        task = getattr(record, "task_run_name", None)
        if task:
            record = copy(record)
            record.message = f"task run {task!r}: {record.message}"
        return super().formatMessage(record)


def _printing_sinks() -> list[tuple[logging.Logger, logging.Handler]]:
    """Return Prefect's handlers that print, with the loggers that have them."""
    named = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    return [
        (logger, handler)
        for logger in (logging.root, *named)
        for handler in tuple(logger.handlers)
        if type(handler).__module__ == "prefect.logging.handlers" and hasattr(handler, "stream")
    ]


class _Causes(logging.Filter):
    """Leaves out the errors of stages and workers that are being ended, which all have one cause."""

    def __init__(self, is_closing: Callable[[], bool]) -> None:
        super().__init__()
        self._is_closing = is_closing

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record."""
        library = record.name.partition(".")[0]
        return not (
            self._is_closing()
            and (
                library == "distributed"
                or (library == "prefect" and record.levelno >= logging.ERROR)
            )
        )


def _never() -> bool:
    return False


@contextmanager
def visible_logs(is_closing: Callable[[], bool] = _never) -> Iterator[None]:
    """Let Prefect print its log with what would act on a terminal escaped.

    is_closing: whether stages and workers are being ended; their errors are then left out.
    """
    handlers = {id(handler): handler for _, handler in _printing_sinks()}
    formatters = [(handler, handler.formatter) for handler in handlers.values()]
    causes = _Causes(is_closing)
    for handler, form in formatters:
        handler.setFormatter(_Visible(form or logging.Formatter()))
        handler.addFilter(causes)
    try:
        yield
    finally:
        for handler, form in formatters:
            handler.setFormatter(form)
            handler.removeFilter(causes)


@contextmanager
def logs_to_file(
    path: Path, *, for_good: bool = False, is_closing: Callable[[], bool] = _never
) -> Iterator[None]:
    """Send what Prefect, Dask and warnings log to a file. for_good: also after the block.

    is_closing: as of `visible_logs`.
    """
    sink = logging.FileHandler(path, encoding="utf-8")
    sink.addFilter(_Causes(is_closing))
    form = _OfTask("%(asctime)s | %(levelname)-7s | %(name)s | %(message)s")
    sink.setFormatter(_Visible(form))
    removed = _printing_sinks()
    for logger, handler in removed:
        logger.removeHandler(handler)
    prefect = logging.getLogger("prefect")
    propagated, prefect.propagate = prefect.propagate, False
    filed = (logging.root, prefect, logging.getLogger("prefect._internal"))
    for logger in filed:
        logger.addHandler(sink)
    # `logging.captureWarnings` would do nothing where an earlier run had called it for good and
    # somebody, such as `warnings.catch_warnings`, has set another function since.
    shown = warnings.showwarning
    warnings.showwarning = _log_warning
    try:
        yield
    finally:
        if not for_good:
            for logger in filed:
                logger.removeHandler(sink)
            sink.close()
            for logger, handler in removed:
                logger.addHandler(handler)
            prefect.propagate = propagated
            warnings.showwarning = shown


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning that Python would print."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if file is None:
        logging.getLogger("py.warnings").warning("%s", text)
    else:
        file.write(text)


@contextmanager
def on_server(
    server: TemporaryServer | None,
    *,
    agent: Mapping[str, str] | None,
    results: Path,
    keep_chosen: bool,
) -> Iterator[None]:
    """Run a block against a temporary server, or an agent's; None leaves the server as it is.

    results: where Prefect keeps what stages return, beside the ledger, because a run that is
    continued needs both. keep_chosen: unless the user has chosen another place.

    On a temporary server and on an agent's, the run is spared the second that ending Prefect's
    heartbeat takes: nobody watches for it.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_LOGGING_TO_API_ENABLED,
        get_current_settings,
        temporary_settings,
    )

    updates: dict[Any, Any] = {}
    chosen = "local_storage_path" in get_current_settings().results.model_fields_set
    if not (chosen and keep_chosen):
        updates[PREFECT_LOCAL_STORAGE_PATH] = results
    if server is not None:
        updates |= {
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            PREFECT_API_URL: server.api_url,
            PREFECT_API_AUTH_STRING: server.password,
            PREFECT_LOGGING_TO_API_ENABLED: False,
        }
    elif agent is not None:
        updates |= {
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            PREFECT_API_URL: agent["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: agent.get("PREFECT_API_AUTH_STRING") or None,
        }
    with temporary_settings(updates=updates):
        yield


def _own_urls() -> list[str]:
    return [server.api_url for server in _started]


def _running() -> TemporaryServer:
    """Return the server of this process; start one if there is none or it has died."""
    if _started and _started[-1].is_alive():
        server = _started[-1]
    else:
        server = TemporaryServer(_SERVER)
        server.start()
        _started.append(server)
    # The logs are in the run's folder; nobody would ever read them from this server.
    prepare_prefect({"PREFECT_LOGGING_TO_API_ENABLED": "false"})
    hand_down({"PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": server.password})
    return server
