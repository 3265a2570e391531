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
    """What the cluster is like.

    beat: the file to touch while it is well. credentials: the PEM file to write for its clients.
    """

    workers: int
    memory_per_worker: str | None
    port: int
    beat: str
    credentials: str


def main() -> None:
    """Run scheduler and workers until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    shape = Shape(**json.loads(sys.argv[1]))
    from orchestrator.compute.nodes import DaskCredentials, open_cluster

    pair = DaskCredentials.make()
    pair.write(Path(shape.credentials))
    with open_cluster(
        shape.workers, shape.memory_per_worker, pair.security(), shape.port
    ) as cluster:
        while not stop.is_set():
            scheduler = cluster.scheduler
            if scheduler is not None and scheduler.status.name == "running":
                Path(shape.beat).write_text(str(time.time()), encoding="ascii")
            stop.wait(_BEAT_EVERY_S)


if __name__ == "__main__":
    main()
