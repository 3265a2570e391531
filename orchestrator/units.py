"""Thousands of small units of one stage on the site's workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from orchestrator.compute.fanout import Spread, fan_out_on
from orchestrator.compute.remote_call import StageContext, deferred, execution, stage_context
from orchestrator.resources import UNITS_TOPIC, Resources, resources

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
    """Apply a function to thousands of small items on the site's workers.

    Call it inside a classical stage, a quantum stage or a flow. Each item is a unit of work that
    goes to Dask without a Prefect task run of its own. Finished units are stored, so that a
    restarted run computes only the rest. A unit that kills its worker fails; a classical stage
    that waits on that worker is executed again.

    Args:
        function: what is applied to each item; it and the items must be picklable.
        items: the inputs.
        retries: how often a failed unit is tried again.
        compute: a compute of the site by name; None is the stage's own, or the site's default.

    Returns:
        The results, in the order of the items.

    Raises:
        FanOutError: a unit failed; every unit was tried before.
        ComputeError: the workers died again and again.
    """
    opened = resources()
    context = stage_context() or _flow_context(opened)
    on_worker = execution() is not None
    reported_s = 0.0

    def report(done: int, total: int) -> None:
        nonlocal reported_s
        if done < total and time.monotonic() - reported_s <= _PROGRESS_EVERY_S:
            return
        reported_s = time.monotonic()
        if on_worker:
            from distributed import get_worker

            message = {"key": context.key, "done": done, "total": total}
            get_worker().log_event(UNITS_TOPIC, message)
        else:
            opened.run.update(context.key, units=(done, total))

    spread = Spread(
        context=context,
        turn_of=lambda content: opened.equal_calls(context.key, ("unit", content)),
        retries=retries,
        progress=report,
    )
    if not on_worker:
        return opened.compute(compute).fan_out(function, items, spread)
    from distributed import worker_client

    with worker_client() as client:
        return fan_out_on(client, function, items, spread)


def _flow_context(opened: Resources) -> StageContext:
    """Return the context of units of the flow itself; they are not stored."""
    return StageContext(
        run=opened.run.id,
        key="flow",
        site=deferred(opened.run.site),
        qpu=opened.run.chosen_qpu,
        keep_dir=None,
        limited=opened.is_limited(),
    )
