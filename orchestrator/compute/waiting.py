"""Lets go of a Dask worker's slot while its function waits for a QPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["yield_worker_slot"]


@contextmanager
def yield_worker_slot() -> Iterator[None]:
    """Secede from the worker's thread pool for the block; does nothing outside a worker."""
    # Not imported here: another thread may be importing it this moment, and to import one of
    # its modules meanwhile fails. In a worker it is all there.
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
