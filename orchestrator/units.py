"""Thousands of small units of one stage on the site's workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from orchestrator.compute.fanout import Progress, fan_out_on
from orchestrator.compute.shipping import stage_context
from orchestrator.resources import UNITS_TOPIC, resources

__all__ = ["fan_out"]

T = TypeVar("T")
_PROGRESS_EVERY_S = 0.2


def fan_out(
    function: Callable[[Any], T],
    items: Iterable[Any],
    *,
    retries: int = 0,
    compute: str | None = None,
) -> list[T]:
    """Apply a function to thousands of small items on the site's workers, in order.

    Call it inside a classical stage, a quantum stage or a flow. Units go straight to Dask,
    without a task run each; a failing unit is tried ``retries`` times more; finished units
    are kept, so that a restarted run computes only the rest. Raises ``FanOutError`` with the
    first failure once every unit was tried.
    """
    context = stage_context()
    if context is not None and _on_worker():
        from distributed import worker_client

        with worker_client() as client:
            note = _throttled(lambda d, t: _tell_flow(context.key, d, t))
            return fan_out_on(client, function, items, retries=retries, progress=note)
    held = resources()
    progress: Progress | None = None
    if context is not None:
        key = context.key
        progress = _throttled(lambda done, total: held.run.progress(key, done, total))
    client = held.compute(compute).client()
    return fan_out_on(client, function, items, retries=retries, progress=progress)


def _throttled(tell: Progress) -> Progress:
    last = 0.0

    def note(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > _PROGRESS_EVERY_S:
            last = time.monotonic()
            tell(done, total)

    return note


def _tell_flow(key: str, done: int, total: int) -> None:
    from distributed import get_worker

    get_worker().log_event(UNITS_TOPIC, {"key": key, "done": done, "total": total})


def _on_worker() -> bool:
    from distributed.worker import thread_state

    return hasattr(thread_state, "execution_state")
