"""A process of its own for Dask's scheduler and workers: ends when its parent does."""

from __future__ import annotations

import json
import sys

__all__ = ["main"]


def main() -> None:
    """Start a cluster as the JSON in argv[1] says, print its address, run until stdin closes.

    In a process of its own because the workers are spawned, which would import the user's
    script again, and because a flow killed outright must leave no worker behind.
    """
    spec = json.loads(sys.argv[1])
    import dask.config
    from distributed import LocalCluster

    # A worker that is away when its time is up is given up for good. On a busy machine 15 s are
    # not enough to replace one that died, and with none left the flow would wait for ever.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "365 days"})
    cluster = LocalCluster(
        n_workers=spec["workers"],
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=spec["memory_per_worker"] or "auto",
        silence_logs=40,
    )
    try:
        print(json.dumps({"address": cluster.scheduler_address}), flush=True)
        sys.stdin.read()
    finally:
        cluster.close(timeout=2)


if __name__ == "__main__":
    main()
