"""Dask workers that run already, under the agent, and that many flows share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import cloudpickle

from orchestrator.compute.api import ComputeError, Demand
from orchestrator.compute.credentials import security_from
from orchestrator.compute.fanout import Spread, died, fan_out_on
from orchestrator.compute.local import LocalDask
from orchestrator.compute.shipping import Ran, Shipment, guest, run_timed
from orchestrator.compute.visiting import own_paths
from orchestrator.config import ComputeSettings, ConfigError, SharedCluster, shared_cluster

if TYPE_CHECKING:
    from distributed import Client, Security

__all__ = ["SharedDask", "SharedKind"]

T = TypeVar("T")

_PATIENCE_S = 180.0
_TRY_S = 10.0
_PAUSE_S = 0.2
# A cluster that is lost under a function so often is lost because of it.
_MOST_LOSSES = 10


class SharedDask:
    """A `Compute` on a running cluster, as one flow sees it.

    The cluster may be started again at any time: functions that were under way run again, and
    the next ones wait until it is back.
    """

    def __init__(
        self,
        cluster: SharedCluster,
        on_connect: Callable[[Client], None] | None = None,
    ) -> None:
        """Take note; ``on_connect`` is called with each client, one per life of the cluster."""
        self._cluster, self._on_connect = cluster, on_connect
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def workers(self) -> int:
        """How many worker processes there are now."""
        return len(self.client().scheduler_info(n_workers=-1)["workers"])

    def start(self) -> None:
        """Do nothing: it runs."""

    def client(self) -> Client:
        """Return the client; waits for a cluster that is being started. Raises `ComputeError`."""
        with self._lock:
            if self._client is not None and self._client.status != "running":
                self._drop(self._client)
            if self._client is None:
                self._client = self._connect()
            return self._client

    def run(self, shipment: Shipment, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ran:
        """Run a function on a worker and wait for its end; its exceptions are raised here.

        A worker that dies is replaced and the function run again, a few times; so it is when
        the whole cluster is lost.
        """
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        paths = own_paths()
        shipment = replace(shipment, context=replace(shipment.context, paths=paths))
        packed = cloudpickle.dumps((shipment, args, kwargs))
        for _ in range(_MOST_LOSSES):
            client = self.client()
            try:
                ran: Ran = client.submit(_run_packed, packed, paths, pure=False).result()
                return ran
            except KilledWorker as error:
                raise died(error) from error
            except (CancelledError, CommClosedError, OSError) as error:
                if isinstance(error, OSError) and client.status == "running":
                    raise  # the function's own
                self._lose(client)
        raise ComputeError(
            f"the Dask cluster at {self._cluster.address} was lost {_MOST_LOSSES} times"
        )

    def fan_out(
        self, function: Callable[[Any], T], items: Iterable[Any], spread: Spread
    ) -> list[T]:
        """Apply a function to every item on the workers; see `Compute.fan_out`."""
        visiting = replace(spread.context, paths=own_paths())
        spread = replace(spread, context=visiting, again=self.client)
        return fan_out_on(self.client(), function, items, spread)

    def close(self) -> None:
        """Let go of the cluster, which goes on; closing twice does nothing."""
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
        from distributed import Client

        if self._closed:
            raise ComputeError("the workers were shut down")
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                client = Client(
                    self._cluster.address,
                    security=self._security(),
                    set_as_default=False,
                    timeout=_TRY_S,
                )
                break
            except (OSError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise ComputeError(
                        f"no Dask scheduler answers at {self._cluster.address}; "
                        "`hpcqc agent status` says how the agent is"
                    ) from error
                time.sleep(_PAUSE_S)
        if self._on_connect is not None:
            self._on_connect(client)
        return client

    def _security(self) -> Security:
        """Return what admits us, read anew: a cluster that is started again has another key."""
        from distributed import Security

        file = self._cluster.credentials
        return Security() if file is None else security_from(file)


class SharedKind:
    """The kind of the cluster that ``HPCQC_DASK_ADDRESS`` names; it has the workers of the table."""

    def __call__(
        self, settings: ComputeSettings, on_connect: Callable[[Client], None] | None = None
    ) -> SharedDask:
        """Return the cluster. Raises `ConfigError` if the environment names none."""
        cluster = shared_cluster()
        if cluster is None:
            raise ConfigError(
                f"[compute.{settings.name}] has kind 'shared', and HPCQC_DASK_ADDRESS names no "
                "cluster; set it, or use kind 'local'"
            )
        return SharedDask(cluster, on_connect)

    def lacks(self, settings: ComputeSettings, demand: Demand) -> dict[str, str]:
        """Return what the cluster's workers cannot give: they are like local ones."""
        return LocalDask.lacks(settings, demand)


def _run_packed(packed: bytes, paths: tuple[str, ...]) -> Ran:
    """Unpack where the visitor's modules can be found, then run."""
    with guest(paths):
        shipment, args, kwargs = cloudpickle.loads(packed)
        return run_timed(shipment, args, kwargs)
