"""Numerical libraries on one thread: for small molecules, threads only wait for each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Limit the threads of BLAS and OpenMP while these tests run."""
    with contextlib.suppress(ImportError):  # an extra; its library must be loaded to be limited
        import pyscf.lib  # noqa: F401
    with threadpool_limits(1):
        yield
