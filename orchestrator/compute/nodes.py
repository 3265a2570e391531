"""Dask clusters of hpcqc: TLS with one key pair, on loopback, without HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
from distributed import Nanny, Scheduler, Security, SpecCluster, Worker
from distributed.system import MEMORY_LIMIT

from orchestrator.config.private import write_private

__all__ = ["DaskCredentials", "open_cluster", "security_from"]

_HOST = "127.0.0.1"
_CLOSE_S = 2
_ERROR = 40  # logging.ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class DaskCredentials:
    """The key and self-signed certificate (PEM) by which a cluster's parts trust each other."""

    certificate: str
    key: str

    @staticmethod
    def make() -> DaskCredentials:
        """Return a new pair, valid for a year."""
        made = Security.temporary()
        return DaskCredentials(certificate=made.tls_ca_file, key=made.tls_client_key)

    def security(self) -> Security:
        """Return Dask's form of the pair, for every role."""
        pair = {
            f"tls_{role}_{part}": value
            for role in ("client", "scheduler", "worker")
            for part, value in (("cert", self.certificate), ("key", self.key))
        }
        return Security(require_encryption=True, tls_ca_file=self.certificate, **pair)

    def write(self, path: Path) -> None:
        """Replace the file; only its owner can read it."""
        write_private(path, self.certificate + self.key)


def security_from(path: Path) -> Security:
    """Return Dask's form of a client's PEM file: its certificate, its key, the authority's."""
    return Security(require_encryption=True, tls_ca_file=str(path), tls_client_cert=str(path))


class _Scheduler(Scheduler):
    """A scheduler without Dask's HTTP server, which does not authenticate users."""

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
    """Run a scheduler, and workers of one thread each, which spill to a private folder."""
    # Dask drops a worker that is not replaced in this time. On a busy machine 15 s are too few, and
    # without workers the flow would wait for ever.
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
