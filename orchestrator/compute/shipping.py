"""Functions on their way to a Dask worker: shipped by value, run under a stage's context."""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from orchestrator.compute.api import Demand
from orchestrator.compute.visiting import make_room, take_note

__all__ = [
    "Execution",
    "Ran",
    "Shipment",
    "StageContext",
    "dump_by_value",
    "execution",
    "exhausted",
    "guest",
    "run_timed",
    "stage_context",
    "within",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What a function may want to know of the stage it runs in.

    key: stable over reruns. keep_dir: folder for finished items of a fan-out, None if the run
    cannot be resumed. site, qpu: for primitives called inside a worker. demand: what the stage asks for.
    lent: identity of the QPU that a quantum stage was lent, and that its key therefore covers.
    paths: where the user's own modules are; only for workers that several flows share.
    limited: whether the run has a budget.
    """

    run: str
    key: str
    site: Any
    qpu: str | None
    keep_dir: Path | None
    demand: Demand = field(default_factory=Demand)
    lent: str = ""
    paths: tuple[str, ...] = ()
    limited: bool = False


@dataclass(eq=False, slots=True, weakref_slot=True)
class Execution:
    """One go at a shipped function on a worker. ending: what it opened there, closed at its end."""

    context: StageContext
    ending: ExitStack = field(default_factory=ExitStack)


_context: ContextVar[StageContext | None] = ContextVar("hpcqc_stage", default=None)
_execution: ContextVar[Execution | None] = ContextVar("hpcqc_execution", default=None)
_at_work: list[Execution] = []
_registration = threading.Lock()


def stage_context() -> StageContext | None:
    """Return the context of the stage this code runs in, None outside of one."""
    here = _context.get()
    if here is None and _at_work:
        around = execution()
        here = None if around is None else around.context
    return here


def execution() -> Execution | None:
    """Return the execution on a worker that this code is part of, None in the flow's process.

    A thread that a function started by itself knows no context; it belongs to the execution
    that is at work here. Raises ``RuntimeError`` if there are several.
    """
    here = _execution.get()
    if here is not None or not _at_work:
        return here
    several = tuple(_at_work)
    if len(several) > 1:
        raise RuntimeError(
            f"{len(several)} functions are at work on this worker, and this thread does not know "
            "whose it is; start it with contextvars.copy_context().run"
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


def dump_by_value(function: Callable[..., Any]) -> bytes:
    """Pickle a function with its module's own code, so that the worker imports neither.

    A flow's module imports Prefect, and may not be importable on a worker at all. Installed
    modules that the function uses still travel by name.
    """
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    module = sys.modules.get(getattr(inner, "__module__", "") or "")
    by_value = isinstance(module, ModuleType) and not _is_installed(module)
    with _registration:
        # Registered only while pickling: results that Prefect keeps must stay by reference.
        if by_value and module is not None and module.__name__ != "__main__":
            cloudpickle.register_pickle_by_value(module)
        try:
            return bytes(cloudpickle.dumps(function))
        finally:
            if by_value and module is not None and module.__name__ != "__main__":
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
def guest(paths: Sequence[str]) -> Iterator[None]:
    """Run a block, on a worker that flows share, with the modules of one of them as they are now."""
    if not paths:
        yield
        return
    if make_room(paths):
        _load.cache_clear()
    try:
        yield
    finally:
        take_note()


@dataclass(frozen=True, slots=True)
class Shipment:
    """A function as bytes, callable on a worker like the function itself."""

    data: bytes
    context: StageContext

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function under its context, with its share of threads; close what it opened."""
        with guest(self.context.paths):
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
    """Return the list of what a generator yields, since no generator leaves its process."""
    return list(value) if inspect.isgenerator(value) else value


@contextmanager
def _executing(context: StageContext) -> Iterator[None]:
    here = Execution(context)
    token = _execution.set(here)
    _at_work.append(here)
    try:
        with here.ending:
            yield
    finally:
        _at_work.remove(here)
        _execution.reset(token)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a function returned on a worker, which worker it was, and from when to when."""

    value: Any
    worker: str
    started_at: datetime
    ended_at: datetime


def run_timed(shipment: Shipment, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ran:
    """Run a shipment where this is called and tell when: it queues before, its answer after."""
    started_at = datetime.now(UTC)
    value = shipment(*args, **kwargs)
    return Ran(value, f"worker {os.getpid()}", started_at, datetime.now(UTC))
