"""The agent's Dask: the site's default compute, shared by all flows.

``python -m orchestrator.agent.dask_service WORKERS MEMORY PORT BEAT CREDENTIALS``; MEMORY of each
worker may be empty, BEAT is a file to touch while it is well, CREDENTIALS a PEM file for clients.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

__all__ = ["main"]

_BEAT_EVERY_S = 2.0


def main() -> None:
    """Run scheduler and workers until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    workers, memory, port, beat, credentials = sys.argv[1:]
    from orchestrator.compute.cluster_process import WORKER_ENVIRONMENT
    from orchestrator.compute.nodes import DaskCredentials, open_cluster
    from orchestrator.config.environment import hand_down

    hand_down(WORKER_ENVIRONMENT)
    pair = DaskCredentials.make()
    pair.write(Path(credentials))
    with open_cluster(int(workers), memory or None, pair.security(), int(port)) as cluster:
        while not stop.is_set():
            scheduler = cluster.scheduler
            if scheduler is not None and scheduler.status.name == "running":
                Path(beat).write_text(str(time.time()), encoding="ascii")
            stop.wait(_BEAT_EVERY_S)


if __name__ == "__main__":
    main()
