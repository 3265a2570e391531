"""Dask's scheduler and workers as we start them: over TLS alone, on loopback, without HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask.config
from distributed import Nanny, Scheduler, Security, SpecCluster, Worker
from distributed.system import MEMORY_LIMIT

__all__ = ["open_cluster"]

_HOST = "127.0.0.1"
_CLOSE_S = 2
_ERROR = 40  # logging.ERROR


class _Scheduler(Scheduler):
    """A scheduler without Dask's HTTP server, which knows no users."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Listen nowhere."""


class _Worker(Worker):
    """A worker without Dask's HTTP server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Listen nowhere."""


@contextmanager
def open_cluster(
    workers: int, memory_limit: str | None, security: Security, port: int = 0
) -> Iterator[SpecCluster]:
    """Run a scheduler, and worker processes of one thread each, for the block.

    memory_limit: of each worker, None for its share of the machine. port: the scheduler's, 0 for
    any free one. What workers spill to disk is in a folder that this user alone can enter.
    """
    # A worker that is away when its time is up is given up for good. On a busy machine 15 s are
    # not enough to replace one that died, and with none left the flow would wait for ever.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "365 days"})
    place = dask.config.get("temporary-directory")
    with tempfile.TemporaryDirectory(
        prefix="hpcqc-dask-", dir=place, ignore_cleanup_errors=True
    ) as scratch:
        node = {"host": _HOST, "protocol": "tls://", "security": security, "dashboard": False}
        worker = {
            "cls": Nanny,
            "options": {
                **node,
                "worker_class": _Worker,
                "nthreads": 1,
                "memory_limit": memory_limit or MEMORY_LIMIT // workers,
                "local_directory": scratch,
                "silence_logs": _ERROR,
            },
        }
        cluster = SpecCluster(
            scheduler={"cls": _Scheduler, "options": {**node, "port": port}},
            workers=dict.fromkeys(range(workers), worker),
            worker=worker,
            security=security,
            silence_logs=_ERROR,
        )
        try:
            yield cluster
        finally:
            cluster.close(timeout=_CLOSE_S)
