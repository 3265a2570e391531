"""Dask workers without encryption, to measure what it costs: hpcqc itself never runs any.

As a program it is what ``orchestrator.compute.cluster`` is, with TCP in the place of TLS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from distributed import Client, Security, SpecCluster

from orchestrator.compute import cluster, local, nodes
from orchestrator.compute.cluster_process import ClusterProcess
from orchestrator.compute.connection import Connection

__all__ = ["main", "without_tls"]


@contextmanager
def without_tls() -> Iterator[None]:
    """Let local computes that connect in this block have plain workers."""
    process = partial(ClusterProcess, module="benchmarks.plain_dask")
    with (
        patch.object(local, "ClusterProcess", process),
        patch.object(local, "connect", _connect),
    ):
        yield


def main() -> None:
    """Run a plain cluster until stdin closes, as ``orchestrator.compute.cluster`` runs another."""
    with patch.object(nodes, "SpecCluster", _plain):
        cluster.main()


def _plain(**asked: Any) -> SpecCluster:
    for part in ("scheduler", "worker"):  # the workers have the options of the last one
        asked[part]["options"].update(protocol="tcp://", security=Security())
    return SpecCluster(**asked | {"security": Security()})


def _connect(connection: Connection) -> Client:
    return Client(connection.address, set_as_default=False, timeout=30)


if __name__ == "__main__":
    main()
