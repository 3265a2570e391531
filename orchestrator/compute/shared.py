"""Dask workers that the agent runs and many flows share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.compute.api import ComputeError, ComputeRun
from orchestrator.compute.fanout import Spread, fan_out_on, worker_died
from orchestrator.compute.local import LocalDask
from orchestrator.compute.module_isolation import own_paths
from orchestrator.compute.remote_call import (
    RemoteFunction,
    RemoteResult,
    packed_call,
    run_packed,
)
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.environment import shared_cluster
from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["SharedDask"]

T = TypeVar("T")

_PATIENCE_S = 180.0
_TRY_S = 10.0
_PAUSE_S = 0.2
# A cluster that is lost under a function so often is lost because of it.
_MOST_LOSSES = 10


class SharedDask:
    """A `Compute` on the cluster that ``HPCQC_DASK_ADDRESS`` names, which may restart."""

    def __init__(self, settings: ComputeSettings, run: ComputeRun | None = None) -> None:
        """Read the environment, or raise `ConfigError`; the run hears of each new client."""
        cluster = shared_cluster()
        if cluster is None:
            raise ConfigError(
                f"[compute.{settings.name}] has kind 'shared', and HPCQC_DASK_ADDRESS is not set; "
                "set it, or use kind 'local'"
            )
        self._cluster, self._run = cluster, run or ComputeRun()
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._closed = False

    lacks = staticmethod(LocalDask.lacks)  # its workers are as the table of local ones says

    def start(self) -> None:
        """Do nothing: the cluster is running."""

    def client(self) -> Client:
        """Return the client; waits for a cluster that is starting. Raises `ComputeError`."""
        with self._lock:
            if self._client is not None and self._client.status != "running":
                self._drop(self._client)
            if self._client is None:
                self._client = self._connect()
            return self._client

    def run(
        self, remote: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RemoteResult:
        """Run a function on a worker, again a few times if that or the cluster is lost."""
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        paths = own_paths()
        remote = replace(remote, context=replace(remote.context, paths=paths))
        packed = packed_call(remote, args, kwargs)
        for _ in range(_MOST_LOSSES):
            client = self.client()
            try:
                result: RemoteResult = client.submit(run_packed, packed, paths, pure=False).result()
            except KilledWorker as error:
                raise worker_died(error) from error
            except (CancelledError, CommClosedError, OSError) as error:
                if isinstance(error, OSError) and client.status == "running":
                    raise  # the function's own
                self._lose(client)
            else:
                return result
        raise ComputeError(
            f"the Dask cluster at {self._cluster.address} was lost {_MOST_LOSSES} times"
        )

    def fan_out(
        self, function: Callable[[Any], T], items: Iterable[Any], spread: Spread
    ) -> list[T]:
        """Apply a function to every item on the workers; see `Compute.fan_out`."""
        context = replace(spread.context, paths=own_paths())
        spread = replace(spread, context=context, again=self.client)
        return fan_out_on(self.client(), function, items, spread)

    def close(self) -> None:
        """Disconnect; the cluster keeps running. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._drop(self._client)

    def _lose(self, client: Client) -> None:
        with self._lock:
            if self._closed:
                raise ComputeError("the workers were shut down while this function ran")
            if self._client is client:
                self._drop(client)

    def _drop(self, client: Client) -> None:
        self._client = None
        client.close(timeout=1)

    def _connect(self) -> Client:
        from distributed import Client, Security

        from orchestrator.compute.nodes import security_from

        if self._closed:
            raise ComputeError("the workers were shut down")
        address, file = self._cluster.address, self._cluster.credentials
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                # Read at each try: a restarted cluster has another key.
                security = Security() if file is None else security_from(file)
                client = Client(address, security=security, set_as_default=False, timeout=_TRY_S)
                break
            except (OSError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise ComputeError(
                        f"no Dask scheduler answers at {address}; run `hpcqc agent status`"
                    ) from error
                time.sleep(_PAUSE_S)
        if self._run.on_connect is not None:
            self._run.on_connect(client)
        return client
