"""Dask workers on this machine, one thread each, in processes that end with this one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.compute.api import ComputeError, ComputeRun, Demand
from orchestrator.compute.cluster_process import ClusterProcess, connect
from orchestrator.compute.fanout import Spread, fan_out_on, worker_died
from orchestrator.compute.remote_call import (
    RemoteFunction,
    RemoteResult,
    packed_call,
    run_packed,
)
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.errors import ConfigError
from orchestrator.config.values import size_bytes

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["DryDask", "LocalDask"]

T = TypeVar("T")


class LocalDask:
    """A `Compute` of Dask workers on this machine; nothing starts before `start` or `run`."""

    def __init__(self, settings: ComputeSettings, run: ComputeRun | None = None) -> None:
        """Store the settings; the run hears once of the client."""
        if settings.options:
            raise ConfigError(
                f"[compute.{settings.name}] options: kind 'local' takes none, and there are: "
                f"{', '.join(settings.options)}"
            )
        self._settings = settings
        self._run = run or ComputeRun()
        self._process: ClusterProcess | None = None
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
        future = client.submit(run_packed, packed_call(remote, args, kwargs), pure=False)
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
            process.close()

    def _spawn(self) -> ClusterProcess:
        if self._closed:
            raise ComputeError("the workers were shut down")
        if self._process is None:
            spec = {"workers": self.workers, "memory_per_worker": self._settings.memory_per_worker}
            self._process = ClusterProcess(spec)
            self._process.start()
        return self._process

    def _connect(self) -> Client:
        client = connect(self._spawn().connection())
        if self._run.on_connect is not None:
            self._run.on_connect(client)
        return client


class DryDask(LocalDask):
    """Local workers of a dry run, which stand for whatever its stages ask of a cluster."""

    @staticmethod
    def lacks(settings: ComputeSettings, demand: Demand) -> dict[str, str]:
        """Return nothing: the run itself will ask the cluster."""
        del settings, demand
        return {}


def _workers(settings: ComputeSettings) -> int:
    return settings.workers or len(os.sched_getaffinity(0))


def _memory_per_worker(settings: ComputeSettings) -> int:
    if settings.memory_per_worker is not None:
        return size_bytes(settings.memory_per_worker)
    import psutil

    machine: int = psutil.virtual_memory().total
    return machine // _workers(settings)
