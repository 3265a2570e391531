"""Functions on their way to a Dask worker: shipped by value, run under a stage's context."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

__all__ = [
    "Ran",
    "Shipment",
    "StageContext",
    "dump_by_value",
    "run_timed",
    "stage_context",
    "within",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What a function may want to know of the stage it runs in.

    key: stable over reruns. keep_dir: folder for finished items of a fan-out, None if the run
    cannot be resumed. site, qpu: for primitives called inside a worker. cores: threads it may use.
    lent: identity of the QPU that a quantum stage was lent, and that its key therefore covers.
    """

    run: str
    key: str
    site: Any
    qpu: str | None
    keep_dir: Path | None
    cores: int = 1
    lent: str = ""


_context: ContextVar[StageContext | None] = ContextVar("hpcqc_stage", default=None)
_registration = threading.Lock()


def stage_context() -> StageContext | None:
    """Return the context of the stage this code runs in, None outside of one."""
    return _context.get()


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
    module = sys.modules.get(getattr(function, "__module__", "") or "")
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


@dataclass(frozen=True, slots=True)
class Shipment:
    """A function as bytes, callable on a worker like the function itself."""

    data: bytes
    context: StageContext | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function under its context, with its share of threads."""
        function = _load(self.data)
        with within(self.context):
            if self.context is None or self.context.cores == 1:
                return function(*args, **kwargs)
            from threadpoolctl import threadpool_limits

            with threadpool_limits(self.context.cores):
                return function(*args, **kwargs)


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
