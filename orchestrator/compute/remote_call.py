"""Calls of a stage's functions on Dask workers: functions travel by value, with a context."""

from __future__ import annotations

import ctypes
import inspect
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import cloudpickle

from orchestrator.compute.api import Demand
from orchestrator.compute.module_isolation import activate_paths, note_file_times

if TYPE_CHECKING:
    from orchestrator.config.site import Site

__all__ = [
    "Execution",
    "RemoteFunction",
    "RemoteResult",
    "StageContext",
    "deferred",
    "dump_by_value",
    "execution",
    "exhausted",
    "isolated_modules",
    "packed_call",
    "return_freed_memory",
    "run_packed",
    "run_timed",
    "stage_context",
    "within",
    "yield_worker_slot",
]


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """The stage that a function runs in. site: `deferred`; for primitives called on a worker."""

    run: str
    key: str  # stable over reruns
    site: Callable[[], Site] | None
    qpu: str | None
    keep_dir: Path | None  # for finished units, None if the run cannot be resumed
    demand: Demand = field(default_factory=Demand)
    labels: tuple[str, ...] = ()  # of the data that it sends to a QPU
    failover: str = ""  # QPU for what is left of its jobs if their own QPU fails
    qpu_identity: str = ""  # of a quantum stage's QPU; part of its key
    paths: tuple[str, ...] = ()  # of the user's modules, on workers that flows share
    limited: bool = False  # whether the run has a budget
    pool: str = ""  # Dask resource of the workers that may run it and its units; empty: any


@dataclass(eq=False, slots=True, weakref_slot=True)
class Execution:
    """One execution of a function on a worker. ending: closes what the function opened there.

    leftovers: of each program, how many processes it left behind. labels: of the data of stages that
    it called, for threads of theirs that know no stage.
    """

    context: StageContext
    started_s: float = field(default_factory=time.monotonic)
    ending: ExitStack = field(default_factory=ExitStack)
    leftovers: list[int] = field(default_factory=list)
    labels: frozenset[str] = frozenset()


_context: ContextVar[StageContext | None] = ContextVar("hpcqc_stage", default=None)
_execution: ContextVar[Execution | None] = ContextVar("hpcqc_execution", default=None)
_leftovers: ContextVar[list[int] | None] = ContextVar("hpcqc_leftovers", default=None)
_running: list[Execution] = []
_registration = threading.Lock()


def stage_context() -> StageContext | None:
    """Return the context of the stage this code runs in, None outside of one."""
    here = _context.get()
    if here is None and _running:
        around = execution()
        if around is not None:
            labels = tuple(sorted(around.labels | set(around.context.labels)))
            here = replace(around.context, labels=labels)
    return here


def execution() -> Execution | None:
    """Return the execution that this code is part of, None in the flow's process."""
    # A thread that a function started has no context: it belongs to the only execution here.
    here = _execution.get()
    if here is not None or not _running:
        return here
    several = tuple(_running)
    if len(several) > 1:
        raise RuntimeError(
            f"{len(several)} functions are running on this worker, and this thread has no context "
            "that tells them apart; start it with contextvars.copy_context().run"
        )
    return several[0] if several else None


@contextmanager
def within(context: StageContext | None) -> Iterator[None]:
    """Run a block as part of a stage."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def deferred(value: T) -> Callable[[], T]:
    """Return a function for a value that another process unpickles when it calls it, not before.

    A worker that never calls it does not load what the value is made of.
    """
    return partial(pickle.loads, pickle.dumps(value))


def dump_by_value(function: Callable[..., Any]) -> bytes:
    """Pickle a function with its module's code: workers need not import that, or Prefect."""
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    module = sys.modules.get(getattr(inner, "__module__", "") or "")
    with _registration:
        if module is None or module.__name__ == "__main__" or _is_installed(module):
            return bytes(cloudpickle.dumps(function))
        # Registered only while pickling: results that Prefect keeps must stay by reference.
        cloudpickle.register_pickle_by_value(module)
        try:
            return bytes(cloudpickle.dumps(function))
        finally:
            cloudpickle.unregister_pickle_by_value(module)


def _is_installed(module: ModuleType) -> bool:
    path = getattr(module, "__file__", None) or ""
    if module.__name__.partition(".")[0] in sys.stdlib_module_names:
        return True
    third_party = "site-packages" in path or "dist-packages" in path or not path
    # A module that imports Prefect is worth shipping by value even when it is installed.
    return third_party and not any(
        getattr(value, "__module__", "").startswith("prefect.")
        for value in vars(module).values()
        if callable(value)
    )


@lru_cache(maxsize=256)
def _load(data: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = cloudpickle.loads(data)
    return function


@contextmanager
def isolated_modules(paths: Sequence[str]) -> Iterator[None]:
    """Run a block with the modules in these folders as they are now; without folders, as it is."""
    if not paths:
        yield
        return
    if activate_paths(paths):
        _load.cache_clear()
    try:
        yield
    finally:
        note_file_times()


@dataclass(frozen=True, slots=True)
class RemoteFunction:
    """A function as bytes, callable on a worker like the function itself."""

    data: bytes
    context: StageContext

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function under its context, with its share of threads; close what it opened."""
        with isolated_modules(self.context.paths):
            return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        function = _load(self.data)
        with _executing(self.context), within(self.context):
            if self.context.demand.cores == 1:
                return exhausted(function(*args, **kwargs))
            from threadpoolctl import threadpool_limits

            with threadpool_limits(self.context.demand.cores):
                return exhausted(function(*args, **kwargs))


def exhausted(value: Any) -> Any:
    """Return a generator's items as a list, since generators cannot be pickled."""
    return list(value) if inspect.isgenerator(value) else value


@contextmanager
def _executing(context: StageContext) -> Iterator[None]:
    here = Execution(context)
    counted = _leftovers.get()
    if counted is not None:
        here.leftovers = counted
    token = _execution.set(here)
    _running.append(here)
    try:
        with here.ending:
            yield
    finally:
        _running.remove(here)
        _execution.reset(token)


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """What a function returned on a worker, and where and when it ran.

    slurm_job: of the worker. leftover: processes that its programs left behind.
    """

    value: Any
    worker: str
    started_at: datetime
    ended_at: datetime
    slurm_job: int | None = None
    leftover: int = 0


def run_timed(
    remote: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> RemoteResult:
    """Run a function here and note when, without its time in queues."""
    started_at = datetime.now(UTC)
    counted: list[int] = []
    token = _leftovers.set(counted)
    try:
        value = remote(*args, **kwargs)
    finally:
        _leftovers.reset(token)
    return RemoteResult(
        value,
        f"worker {os.getpid()}",
        started_at,
        datetime.now(UTC),
        slurm_job=_slurm_job(),
        leftover=sum(counted),
    )


def packed_call(remote: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return a call for `run_packed`.

    Dask's scheduler unpickles what it is given; of bytes it loads nothing, neither data nor libraries.
    """
    return bytes(cloudpickle.dumps((remote, args, kwargs)))


def run_packed(packed: bytes, paths: Sequence[str] = ()) -> RemoteResult:
    """Unpack a call and run it, with the modules in these folders."""
    try:
        with isolated_modules(paths):
            return run_timed(*cloudpickle.loads(packed))
    finally:
        return_freed_memory()


def return_freed_memory() -> None:
    """Return what glibc keeps of freed memory, within 0.02 ms if that is nothing.

    A worker keeps it while a function runs, and would keep all that lies below a block still in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)


def _slurm_job() -> int | None:
    from orchestrator.slurm.environment import this_job  # a laptop's run loads it after its work

    job = this_job()
    return None if job is None else job.id


@contextmanager
def yield_worker_slot() -> Iterator[None]:
    """Secede from the worker's thread pool for the block; does nothing outside a worker."""
    # Another thread may be importing distributed this moment, and importing one of its modules
    # meanwhile fails. A worker has imported all of it.
    thread_state = getattr(sys.modules.get("distributed.worker"), "thread_state", None)
    if not hasattr(thread_state, "execution_state"):
        yield
        return
    import distributed

    distributed.secede()
    try:
        yield
    finally:
        distributed.rejoin()
