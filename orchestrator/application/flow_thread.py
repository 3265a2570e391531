"""A flow that runs in a thread of its own, so that Ctrl-C is ours to answer."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator import runs

__all__ = ["FlowThread"]

_LOOK_EVERY_S = 0.1
_STOP_S = 10.0


class FlowThread:
    """Runs a Prefect flow. Its value or its error is there when it is done."""

    def __init__(self, flow: Any, parameters: Mapping[str, Any], run: runs.Run) -> None:
        """Prepare; `start` starts it. Stages that the flow calls belong to the run alone."""
        self.value: Any = None
        self.error: BaseException | None = None
        self._call = (flow, dict(parameters))
        # A thread whose `join` was interrupted counts as dead in Python 3.11, whatever it does.
        self._ended = threading.Event()
        # Prefect keeps its settings in context variables, which a new thread would not have.
        context = contextvars.copy_context()
        context.run(runs.bind, run)
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name="flow", daemon=True
        )

    def start(self) -> None:
        """Start the flow."""
        self._thread.start()

    def wait(self, tick: Callable[[], None]) -> None:
        """Return when the flow is done, calling ``tick`` meanwhile. Ctrl-C gets through."""
        while not self._ended.wait(_LOOK_EVERY_S):
            tick()

    def stop(self, grace_s: float = 1.0, stop_s: float = _STOP_S) -> None:
        """Return when the flow has ended, or after a while: a call into C cannot be interrupted.

        Its quantum jobs and workers have been ended, so it ends by itself unless it is computing;
        after the grace time a KeyboardInterrupt is raised in it.
        """
        ident = self._thread.ident
        if ident is None:
            return
        deadline = time.monotonic() + stop_s
        # More than one: code that cleans up may swallow it.
        while not self._ended.wait(grace_s) and time.monotonic() < deadline:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt)
            )

    def _work(self) -> None:
        flow, parameters = self._call
        try:
            known = inspect.signature(flow.fn).parameters.values()
            unnamed = [p for p in known if p.kind is p.POSITIONAL_ONLY]
            given = [parameters.pop(p.name, p.default) for p in unnamed]
            value = flow(*given, **parameters)
            if inspect.isawaitable(value):
                value = asyncio.run(_awaited(value))
            self.value = value
        except BaseException as error:  # noqa: BLE001 - handed over to the waiting thread
            self.error = error
        finally:
            self._ended.set()


async def _awaited(value: Any) -> Any:
    return await value
