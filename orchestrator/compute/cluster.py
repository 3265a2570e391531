"""The process that runs a flow's Dask scheduler and workers; it ends when its parent does."""

from __future__ import annotations

import json
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Start a cluster as the JSON in argv[1] says, print how to reach it, run until stdin closes.

    In a process of its own because the workers are spawned, which would import the user's
    script again, and because no worker may outlive a flow that is killed. The credentials
    go through the pipe to the parent and are in no file.
    """
    os.umask(0o077)  # what it writes is its owner's alone
    spec = json.loads(sys.argv[1])
    from orchestrator.compute.nodes import DaskCredentials, open_cluster

    pair = DaskCredentials.make()
    with open_cluster(spec["workers"], spec["memory_per_worker"], pair.security()) as cluster:
        connection = {
            "address": cluster.scheduler_address,
            "certificate": pair.certificate,
            "key": pair.key,
        }
        print(json.dumps(connection), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
