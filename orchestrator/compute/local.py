"""Dask workers on this machine, one thread each, in processes that end with this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import IO, TYPE_CHECKING, Any

from orchestrator.compute.credentials import DaskCredentials
from orchestrator.compute.shipping import Ran, Shipment, run_timed

if TYPE_CHECKING:
    from distributed import Client

    from orchestrator.config import LocalCompute

__all__ = ["ComputeError", "LocalDask", "died"]

_START_S = 120
_STOP_S = 5
# One thread per worker: several processes with OpenMP teams each fight over the same cores.
_PINNED = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)


class ComputeError(RuntimeError):
    """The workers cannot be started, or they died too often under one function."""


def died(error: BaseException) -> ComputeError:
    """Return what to tell when Dask gave a function up because its workers died."""
    return ComputeError(
        "the worker process died every time this function ran; often it needs more "
        f"memory than a worker has. Dask says: {error}"
    )


class LocalDask:
    """A Dask cluster for one `LocalCompute`; nothing starts before `start` or `run`."""

    def __init__(
        self, settings: LocalCompute, on_connect: Callable[[Client], None] | None = None
    ) -> None:
        """Take note of the settings; ``on_connect`` is called once with the client."""
        self._settings = settings
        self._on_connect = on_connect
        self._process: subprocess.Popen[str] | None = None
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def workers(self) -> int:
        """How many worker processes there are."""
        return self._settings.workers or len(os.sched_getaffinity(0))

    def start(self) -> None:
        """Begin to start the workers; return at once."""
        with self._lock:
            self._spawn()

    def client(self) -> Client:
        """Return the client, after waiting for the workers' scheduler if need be.

        Raises `ComputeError` if it does not come up.
        """
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def run(self, shipment: Shipment, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ran:
        """Run a function on a worker and wait for its end; its exceptions are raised here.

        A worker that dies is replaced and the function run again, a few times.
        """
        from distributed import KilledWorker

        client = self.client()
        # As two values, or Dask would take a function's `retries=` or `workers=` for its own.
        future = client.submit(run_timed, shipment, args, kwargs, pure=False)
        try:
            ran: Ran = future.result()
            return ran
        except KilledWorker as error:
            raise died(error) from error
        except CancelledError as error:
            raise ComputeError("the workers were shut down while this function ran") from error

    def close(self) -> None:
        """End client, scheduler and workers; closing twice does nothing."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
            process, self._process = self._process, None
        if client is not None:
            client.close(timeout=1)
        if process is not None:
            _end(process)

    def _spawn(self) -> subprocess.Popen[str]:
        if self._closed:
            raise ComputeError("the workers were shut down")
        if self._process is None:
            spec = {
                "workers": self.workers,
                "memory_per_worker": self._settings.memory_per_worker,
            }
            # -P and our own path order: a user's folder must not shadow the packages we need.
            command = [sys.executable, "-P", "-m", "orchestrator.compute.cluster"]
            self._process = subprocess.Popen(
                [*command, json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=_environment(),
                start_new_session=True,  # Ctrl-C reaches only the flow, which ends us in order
            )
        return self._process

    def _connect(self) -> Client:
        process = self._spawn()
        from distributed import Client

        assert process.stdout is not None
        line = _first_line(process.stdout)
        if not line:
            raise ComputeError(
                f"the Dask workers did not start within {_START_S} s; run `hpcqc doctor`"
            )
        reached = json.loads(line)
        address = reached.pop("address")
        security = DaskCredentials(**reached).security()
        client = Client(address, security=security, set_as_default=False, timeout=30)
        if self._on_connect is not None:
            self._on_connect(client)
        return client


def _environment() -> dict[str, str]:
    from orchestrator.config.environment import process_environment

    paths = os.pathsep.join(path for path in sys.path if path)
    return {**process_environment(), **dict.fromkeys(_PINNED, "1"), "PYTHONPATH": paths}


def _first_line(stream: IO[str]) -> str:
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(_START_S)
    return found[0] if found else ""


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(_STOP_S)
    if process.stdout is not None:
        process.stdout.close()
