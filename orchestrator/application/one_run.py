"""One run at a time in a process: what stages and primitives belong to is the process's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator import runs

__all__ = ["one_run"]

_lock = threading.Lock()


@contextmanager
def one_run() -> Iterator[None]:
    """Let no other run begin in this process meanwhile. Raises ``RunBusy`` if there is one."""
    if runs.is_activated() or not _lock.acquire(blocking=False):
        from orchestrator.broker.runtime.embedded import RunBusy

        raise RunBusy(
            "this process is running a flow; wait for its end, or call the flow as a function"
        )
    try:
        yield
    finally:
        _lock.release()
