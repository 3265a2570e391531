"""Lets go of a Dask worker's slot while its function waits for a QPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["yield_worker_slot"]


@contextmanager
def yield_worker_slot() -> Iterator[None]:
    """Secede from the worker's thread pool for the block; does nothing outside a worker."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        yield
        return
    from distributed.worker import thread_state

    if not hasattr(thread_state, "execution_state"):
        yield
        return
    distributed.secede()
    try:
        yield
    finally:
        distributed.rejoin()
