"""The process that runs a flow's Dask scheduler, and local workers; it ends when its parent does."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack

__all__ = ["main"]


def main() -> None:
    """Start a cluster as the JSON in argv[1] says, print its address, run until stdin closes.

    It prints why, instead, if it cannot start.
    """
    # A process of its own, since spawned workers would import the user's script again, and since no
    # worker may outlive a killed flow. The credentials go through the pipe and are in no file.
    os.umask(0o077)  # what it writes is its owner's alone
    # Only the address goes to the flow, which reads no further: workers inherit stdout, and what
    # functions print there would fill the pipe and block them.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    from orchestrator.compute.nodes import (
        LOOPBACK,
        DaskCredentials,
        free_port,
        open_cluster,
        scheduler_host,
    )

    with answer, ExitStack() as opened:
        try:
            pair = DaskCredentials.make()
            host = scheduler_host(spec["interface"]) if "interface" in spec else LOOPBACK
            port = free_port(host, spec.get("ports"))
            cluster = opened.enter_context(
                open_cluster(
                    spec["workers"], spec["memory_per_worker"], pair.security(), port, host
                )
            )
        except Exception as error:  # noqa: BLE001  # the flow says it to its user
            print(json.dumps({"error": str(error) or repr(error)}), file=answer, flush=True)
            return
        connection = {
            "address": cluster.scheduler_address,
            "certificate": pair.certificate,
            "key": pair.key,
        }
        print(json.dumps(connection), file=answer, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
