"""Dask workers as jobs of Slurm: shared ones, and allocations of a stage's own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from orchestrator.compute.api import ComputeError, ComputeRun, Demand
from orchestrator.compute.cluster_process import ClusterProcess, connect
from orchestrator.compute.connection import CONNECTION_FILE, Connection
from orchestrator.compute.fanout import ClusterLost, Spread, fan_out_on, worker_died
from orchestrator.compute.reconciler import Reconciler
from orchestrator.compute.remote_call import (
    RemoteFunction,
    RemoteResult,
    packed_call,
    run_packed,
)
from orchestrator.compute.worker_jobs import (
    SHARED,
    JobFolder,
    allocation,
    enough_for,
    fits_worker,
    lacking,
)
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.environment import state_dir
from orchestrator.slurm.allocation import AllocationSteps
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.environment import this_job
from orchestrator.slurm.errors import SlurmUnavailable
from orchestrator.slurm.inventory import Partition
from orchestrator.slurm.options import worker_options
from orchestrator.slurm.script import JobResources

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["SlurmDask", "own_allocation"]

T = TypeVar("T")
_PATIENCE_S = 10.0


@dataclass(slots=True)
class _Stages:
    """Stages with equal demands. pools: how many there are. free: those that a stage has left.

    longest_s: of those that ended.
    """

    longest_s: float = 0.0
    waiting: int = 0
    pools: int = 0
    free: list[str] = field(default_factory=list)


class SlurmDask:
    """A `Compute` whose workers are jobs of Slurm; nothing starts before `start` or `run`.

    Shared jobs are submitted when a stage is to use them, or by `start`. `want` says how many jobs the stages share, `separate_stages` that each gets its own. If nobody
    says, stages share ``nodes_max`` jobs.
    """

    def __init__(self, settings: ComputeSettings, run: ComputeRun | None = None) -> None:
        """Read the options, or raise `ConfigError`."""
        self._settings, self._run = settings, run or ComputeRun()
        self._options = worker_options(settings)
        folder = self._run.folder or state_dir() / "slurm" / self._run.id
        self._folder = JobFolder(run=self._run.id, path=folder, options=self._options)
        self._process = ClusterProcess({"workers": 0, "memory_per_worker": None, **self._host()})
        self._reconciler = Reconciler(
            slurm=own_allocation() or Slurm(patience_s=_PATIENCE_S),
            folder=self._folder,
            on_failure=self._on_failure,
            on_notice=self._run.on_notice or _ignore,
        )
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._started = self._closed = self._separate = self._sharing = False
        self._client: Client | None = None
        self._failed_start: ComputeError | None = None
        self._wanted: tuple[int, bool] | None = None
        self._together: tuple[JobResources, ...] | None = None
        self._faults: dict[str, ComputeError] = {}
        # Weak: an outcome that has arrived is nobody's, so that Dask forgets it.
        self._pools: dict[str, WeakSet[Future[Any]]] = {}
        self._allocations = 0
        self._turn = threading.Condition(self._lock)
        self._stages: dict[Demand, _Stages] = {}

    @staticmethod
    def lacks(settings: ComputeSettings, demand: Demand) -> dict[str, str]:
        """Return what neither a worker job nor an allocation of a stage's own can give."""
        options = worker_options(settings)
        steps = own_allocation()
        if steps is not None:
            cores = max(options.cores, demand.cores_per_node)
            gpus = max(options.gpus, demand.gpus)
            return steps.lacks({"nodes": demand.nodes, "cores": cores, "gpus": gpus})
        if fits_worker(options, demand):
            return {}
        try:
            return lacking(options, demand, _partitions())
        except SlurmUnavailable as error:
            raise ComputeError(f"cannot ask Slurm what it has: {error}") from error

    @staticmethod
    def enough_together(settings: ComputeSettings, demand: Demand) -> dict[str, Any]:
        """Return options to change so that the one job of `want_together` is enough for a stage."""
        return enough_for(worker_options(settings), demand)

    def start(self) -> None:
        """Begin to start scheduler and shared worker jobs; return at once."""
        self._share()
        self.start_scheduler()

    def start_scheduler(self) -> None:
        """Begin to start the scheduler alone, for stages with allocations of their own."""
        with self._lock:
            if self._closed:
                raise ComputeError("the workers were shut down")
            if self._started:
                return
            self._folder.prepare()
            (self._folder.path / CONNECTION_FILE).unlink(missing_ok=True)
            self._process.start()
            self._started = True
        threading.Thread(target=self._connect, name="hpcqc-slurm-connect", daemon=True).start()
        if self._sharing:
            self._want_shared()
        self._reconciler.start()

    def want(self, workers: int, *, held: bool = False) -> None:
        """Say how many worker jobs the stages share; they grow or shrink to that meanwhile.

        Args:
            workers: The number of jobs. Those that are too many end when they have nothing to do.
            held: Whether jobs that have not started wait until they are wanted without it.
        """
        self._wanted = workers, held
        if self._started and self._sharing:
            self._want_shared()

    def shares(self, demand: Demand) -> bool:
        """Whether a stage runs on the shared jobs, and not in an allocation of its own."""
        return fits_worker(self._options, demand)

    def on_own_waiting(self, react: Callable[[bool], None]) -> None:
        """Call a function when allocations of stages' own begin or cease to wait for nodes.

        Args:
            react: Called from a thread of this object with whether one waits in Slurm's queue.
        """
        self._reconciler.on_own_waiting = react

    def want_together(self, *also: JobResources) -> None:
        """Make the shared workers one job with all their nodes, and with further components.

        Call it before `start`. Stages of several nodes then run on these nodes, too. A stage that
        needs more than they have would wait for nodes that its own run holds: see `enough_together`.
        """
        self._together = also

    @property
    def in_allocation(self) -> bool:
        """Whether the workers are steps of a job of the user's own, and not jobs."""
        return isinstance(self._reconciler.slurm, AllocationSteps)

    def running_job(self) -> int | None:
        """Return the id of a shared job whose workers have joined, None while there is none."""
        joined = (job for job in self._reconciler.jobs() if job.pool == SHARED)
        return next((job.id for job in joined if job.joined_s is not None), None)

    def fault(self) -> ComputeError | None:
        """Return why there will be no shared workers, None while there is hope."""
        return self._faults.get(SHARED) or self._failed_start

    def separate_stages(self, separate: bool = True) -> None:
        """Give each stage an allocation of its own, or end that.

        It ends with the stage unless an equal one waits, which takes it over. Of allocations that
        are as large as a shared worker job there are ``nodes_max`` at a time.
        """
        self._separate = separate

    def client(self) -> Client:
        """Block until the scheduler is up and return a client, or raise `ComputeError`."""
        self.start_scheduler()
        self._connected.wait()
        if self._failed_start is not None:
            raise self._failed_start
        with self._lock:
            if self._client is None:
                raise ComputeError("the workers were shut down")
            return self._client

    def run(
        self, remote: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RemoteResult:
        """Run a function in a worker job; raise its exception, or `ComputeError`."""
        from distributed import KilledWorker

        self._begin(remote.context.demand)
        with self._pool(remote.context.demand) as pool:
            client = self.client()  # last, so that Slurm starts the job while the scheduler starts
            placed = replace(remote, context=replace(remote.context, pool=pool))
            packed = packed_call(placed, args, kwargs)
            future = client.submit(run_packed, packed, pure=False, resources={pool: 1})
            try:
                self._watch(pool, [future])
                ran: RemoteResult = future.result()
                return ran
            except KilledWorker as error:
                raise worker_died(error) from error
            except CancelledError as error:
                self._raise_fault(pool)
                raise ComputeError("the workers were shut down while this function ran") from error

    def fan_out(
        self, function: Callable[[Any], T], items: Iterable[Any], spread: Spread
    ) -> list[T]:
        """Apply a function to every item in the worker jobs; see `Compute.fan_out`."""
        self._begin(spread.context.demand)
        with self._pool(spread.context.demand) as pool:
            client = self.client()
            placed = replace(
                spread,
                context=replace(spread.context, pool=pool),
                watch=lambda futures: self._watch(pool, futures),
            )
            try:
                return fan_out_on(client, function, items, placed)
            except ClusterLost:
                self._raise_fault(pool)
                raise

    def close(self) -> None:
        """Cancel the worker jobs, end client and scheduler; closing twice does nothing."""
        with self._turn:
            self._closed = True
            client, self._client = self._client, None
            self._turn.notify_all()
        self._reconciler.close()
        self._connected.set()
        if client is not None:
            client.close(timeout=1)
        self._process.close()
        if self._started:
            (self._folder.path / CONNECTION_FILE).unlink(missing_ok=True)

    def left_jobs(self) -> frozenset[int]:
        """Return the Slurm jobs that are left, after `close` because Slurm does not answer."""
        # Inside an allocation the workers are steps, which end with this process.
        is_inside = isinstance(self._reconciler.slurm, AllocationSteps)
        return frozenset() if is_inside else self._reconciler.left()

    def _begin(self, demand: Demand) -> None:
        """Start what a stage needs: no shared jobs for one with an allocation of its own."""
        if self._is_shared(self._placed(demand)):
            self._share()
        self.start_scheduler()

    def _share(self) -> None:
        """Have shared jobs from now on, as many as are wanted."""
        with self._lock:
            begins, self._sharing = not self._sharing, True
        if begins and self._started:
            self._want_shared()

    def _placed(self, demand: Demand) -> Demand:
        """Return a stage's demand: on nodes that are one job, several are there already."""
        if self._together is not None and demand.nodes <= self._options.nodes_max:
            return replace(demand, nodes=1)
        return demand

    def _is_shared(self, demand: Demand) -> bool:
        return not self._separate and fits_worker(self._options, demand)

    def _want_shared(self) -> None:
        jobs, held = self._wanted or (self._options.nodes_max, False)
        shared = allocation(self._options)
        if self._together is not None:
            shared, jobs = shared.together(self._options.nodes_max, self._together), min(jobs, 1)
        self._reconciler.want(shared, jobs, held=held)

    def _host(self) -> dict[str, Any]:
        return {"interface": self._options.interface, "ports": self._options.ports}

    def _connect(self) -> None:
        client: Client | None = None
        try:
            connection: Connection = self._process.connection()
            client = connect(connection)
            if self._run.on_connect is not None:
                self._run.on_connect(client)
            self._reconciler.attach(client)
            with self._lock:
                if not self._closed:
                    connection.write(self._folder.path)
                    self._client = client
        except Exception as error:  # noqa: BLE001  # whoever waits is to hear of it
            self._failed_start = ComputeError(str(error) or repr(error))
        finally:
            if client is not None and self._client is None:
                client.close(timeout=1)
            self._connected.set()

    @contextmanager
    def _pool(self, demand: Demand) -> Iterator[str]:
        """Yield the pool of workers for a stage; one of its own ends with the block."""
        demand = self._placed(demand)
        if self._is_shared(demand):
            with self._lock:
                self._pools.setdefault(SHARED, WeakSet())
                revived = self._faults.pop(SHARED, None) is not None
            if revived:
                self._want_shared()
            yield SHARED
            return
        pool = self._acquire(demand)
        began_s = time.monotonic()
        try:
            yield pool
        finally:
            self._hand_on(demand, pool, began_s)

    def _acquire(self, demand: Demand) -> str:
        """Return a pool for one stage: one that an equal stage has left, or a new one."""
        most = self._options.nodes_max if fits_worker(self._options, demand) else math.inf
        with self._turn:
            stages = self._stages.setdefault(demand, _Stages())
            stages.waiting += 1
            while not (stages.free or stages.pools < most or self._closed):
                self._turn.wait()
            stages.waiting -= 1
            if self._closed:
                raise ComputeError("the workers were shut down")
            if stages.free:
                return stages.free.pop()
            stages.pools += 1
            self._allocations += 1
            pool = f"stage-{self._allocations}"
            self._pools[pool] = WeakSet()
        try:
            wanted = allocation(self._options, demand, pool=pool, partitions=self._cluster())
        except BaseException:
            self._forget(demand, pool)
            raise
        self._reconciler.want(wanted, 1)
        return pool

    def _hand_on(self, demand: Demand, pool: str, began_s: float) -> None:
        """Leave a pool to an equal stage that waits and has time enough there; else, end it."""
        jobs = [job for job in self._reconciler.jobs() if job.pool == pool]
        joined_s = [job.joined_s for job in jobs if job.joined_s is not None]
        took_s = time.monotonic() - max([began_s, *joined_s])
        ends = [job.ends_by for job in jobs if job.ends_by is not None]
        with self._turn:
            stages = self._stages[demand]
            stages.longest_s = max(stages.longest_s, took_s)
            needed = demand.walltime or timedelta(seconds=stages.longest_s)
            lasts = all(datetime.now(UTC) + needed <= end for end in ends)
            if lasts and stages.waiting > len(stages.free) and pool not in self._faults:
                stages.free.append(pool)
                self._turn.notify_all()
                return
        self._reconciler.drop(pool)
        self._forget(demand, pool)

    def _forget(self, demand: Demand, pool: str) -> None:
        with self._turn:
            self._stages[demand].pools -= 1
            del self._pools[pool]
            self._faults.pop(pool, None)
            self._turn.notify_all()

    def _cluster(self) -> Mapping[str, Partition]:
        try:
            return _partitions()
        except SlurmUnavailable as error:
            raise ComputeError(f"cannot ask Slurm what it has: {error}") from error

    def _on_failure(self, pool: str, error: ComputeError) -> None:
        """Fail what waits for workers of a pool."""
        with self._lock:
            self._faults[pool] = error
            waiting = list(self._pools.get(pool, ()))
            client = self._client
        if client is not None:
            client.cancel(waiting)

    def _watch(self, pool: str, futures: Iterable[Future[Any]]) -> None:
        """Let futures fail when their pool is given up; raise if it was."""
        with self._lock:
            self._pools[pool].update(futures)
        self._raise_fault(pool)

    def _raise_fault(self, pool: str) -> None:
        fault = self._faults.get(pool)
        if fault is not None:
            raise ComputeError(str(fault))


def own_allocation() -> AllocationSteps | None:
    """Return the allocation that this process is in, None outside one.

    The driver job of a run is none: it is small, and its workers are other jobs.
    """
    job = this_job()
    if job is None or (job.name.startswith("hpcqc-") and job.name.endswith("-driver")):
        return None
    return AllocationSteps(job)


@lru_cache(maxsize=1)
def _partitions() -> Mapping[str, Partition]:
    """Ask once in the life of this process what the cluster has."""
    return Slurm(patience_s=_PATIENCE_S).partitions()


def _ignore(notice: str) -> None:
    del notice
