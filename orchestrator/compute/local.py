"""Dask workers on this machine, one thread each, in processes that end with this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import IO, TYPE_CHECKING, Any, TypeVar

from orchestrator.compute.api import ComputeError, Demand
from orchestrator.compute.fanout import Spread, fan_out_on, worker_died
from orchestrator.compute.remote_call import RemoteFunction, RemoteResult, run_timed
from orchestrator.config.errors import ConfigError
from orchestrator.config.site import ComputeSettings, size_bytes

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["LocalDask"]

T = TypeVar("T")

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


class LocalDask:
    """A `Compute` of Dask workers on this machine; nothing starts before `start` or `run`."""

    def __init__(
        self, settings: ComputeSettings, on_connect: Callable[[Client], None] | None = None
    ) -> None:
        """Store the settings; ``on_connect`` is called once with the client."""
        if settings.options:
            raise ConfigError(
                f"[compute.{settings.name}] options: kind 'local' takes none, and there are: "
                f"{', '.join(settings.options)}"
            )
        self._settings = settings
        self._on_connect = on_connect
        self._process: subprocess.Popen[str] | None = None
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._closed = False

    @staticmethod
    def lacks(settings: ComputeSettings, demand: Demand) -> dict[str, str]:
        """Return what one machine without a batch system cannot give."""
        lacking = {}
        memory = 0 if demand.memory is None else _memory_per_worker(settings)
        if demand.memory is not None and demand.memory > memory:
            lacking["memory"] = (
                f"a worker has {memory / 2**30:.3g} GiB; set memory_per_worker, or fewer workers"
            )
        if demand.gpus:
            lacking["gpus"] = "its workers have none"
        if demand.nodes > 1:
            lacking["nodes"] = "it is one machine"
        return lacking

    @property
    def workers(self) -> int:
        """Number of worker processes."""
        return _workers(self._settings)

    def start(self) -> None:
        """Begin to start the workers; return at once."""
        with self._lock:
            self._spawn()

    def client(self) -> Client:
        """Block until the scheduler is up and return a client, or raise `ComputeError`."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def run(
        self, remote: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RemoteResult:
        """Run a function on a worker, again a few times if the worker dies; raise its exception."""
        from distributed import KilledWorker

        client = self.client()
        # As two values, or Dask would take a function's `retries=` or `workers=` for its own.
        future = client.submit(run_timed, remote, args, kwargs, pure=False)
        try:
            ran: RemoteResult = future.result()
            return ran
        except KilledWorker as error:
            raise worker_died(error) from error
        except CancelledError as error:
            raise ComputeError("the workers were shut down while this function ran") from error

    def fan_out(
        self, function: Callable[[Any], T], items: Iterable[Any], spread: Spread
    ) -> list[T]:
        """Apply a function to every item on the workers; see `Compute.fan_out`."""
        return fan_out_on(self.client(), function, items, spread)

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
            spec = {"workers": self.workers, "memory_per_worker": self._settings.memory_per_worker}
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

        from orchestrator.compute.nodes import DaskCredentials

        assert process.stdout is not None
        line = _first_line(process.stdout)
        if not line:
            raise ComputeError(
                f"the Dask workers did not start within {_START_S} s; run `hpcqc doctor`"
            )
        connection = json.loads(line)
        address = connection.pop("address")
        security = DaskCredentials(**connection).security()
        client = Client(address, security=security, set_as_default=False, timeout=30)
        if self._on_connect is not None:
            self._on_connect(client)
        return client


def _workers(settings: ComputeSettings) -> int:
    return settings.workers or len(os.sched_getaffinity(0))


def _memory_per_worker(settings: ComputeSettings) -> int:
    if settings.memory_per_worker is not None:
        return size_bytes(settings.memory_per_worker)
    import psutil

    machine: int = psutil.virtual_memory().total
    return machine // _workers(settings)


def _environment() -> dict[str, str]:
    from orchestrator.config.environment import process_environment

    paths = os.pathsep.join(path for path in sys.path if path)
    return {**process_environment(), **dict.fromkeys(_PINNED, "1"), "PYTHONPATH": paths}


def _first_line(stream: IO[str]) -> str:
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(_START_S)
    return lines[0] if lines else ""


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
