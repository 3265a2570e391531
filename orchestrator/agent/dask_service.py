"""The agent's Dask: the site's default compute, shared by all flows.

``python -m orchestrator.agent.dask_service JSON``, with the keys of `Shape`.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Shape", "main"]

_BEAT_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the cluster is like. beat: the file to touch while it is well."""

    workers: int
    memory_per_worker: str | None
    port: int
    dashboard_port: int
    beat: str


def main() -> None:
    """Run scheduler and workers until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    shape = Shape(**json.loads(sys.argv[1]))
    from distributed import LocalCluster

    cluster = LocalCluster(
        n_workers=shape.workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        scheduler_port=shape.port,
        dashboard_address=f"127.0.0.1:{shape.dashboard_port}",
        memory_limit=shape.memory_per_worker or "auto",
        silence_logs=40,
    )
    try:
        while not stop.is_set():
            scheduler = cluster.scheduler
            if scheduler is not None and scheduler.status.name == "running":
                Path(shape.beat).write_text(str(time.time()), encoding="ascii")
            stop.wait(_BEAT_EVERY_S)
    finally:
        cluster.close(timeout=2)


if __name__ == "__main__":
    main()
