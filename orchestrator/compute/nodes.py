"""Dask clusters of hpcqc: TLS with one key pair, without HTTP; on loopback, or a batch system's nodes."""

from __future__ import annotations

import random
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
from distributed import Nanny, Scheduler, Security, SpecCluster, Worker
from distributed.system import MEMORY_LIMIT
from distributed.utils import get_ip, get_ip_interface

from orchestrator.config.private import write_private
from orchestrator.identity import WorkerName

__all__ = [
    "CALM",
    "LOOPBACK",
    "DaskCredentials",
    "free_port",
    "occupation",
    "open_cluster",
    "open_worker",
    "retire",
    "scheduler_host",
    "security_from",
]

LOOPBACK = "127.0.0.1"
# What every process of Dask does when there is nothing to do. With Dask's own values an idle worker takes
# 2 % of a core, which programs beside it feel as noise; with these 0.3 % (docs/explanation/slurm.md).
CALM = {
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.memory.monitor-interval": "250ms",
    "distributed.worker.profile.enabled": False,
}
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
    workers: int,
    memory_limit: str | None,
    security: Security,
    port: int = 0,
    host: str = LOOPBACK,
) -> Iterator[SpecCluster]:
    """Run a scheduler, and workers of one thread each, which spill to a private folder.

    Without workers of its own, it is a scheduler that others join.
    """
    # Dask drops a worker that is not replaced in this time. On a busy machine 15 s are too few, and
    # without workers the flow would wait for ever.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "365 days", **CALM})
    place = dask.config.get("temporary-directory")
    with tempfile.TemporaryDirectory(
        prefix="hpcqc-dask-", dir=place, ignore_cleanup_errors=True
    ) as scratch:
        node = {"host": host, "protocol": "tls://", "security": security, "dashboard": False}
        worker = {
            "cls": Nanny,
            "options": {
                **node,
                "worker_class": _Worker,
                "nthreads": 1,
                "memory_limit": memory_limit or MEMORY_LIMIT // max(1, workers),
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


def scheduler_host(interface: str | None) -> str:
    """Return the address of this machine on a network interface, None for the default route's.

    Raises ``ValueError``, naming the interfaces there are.
    """
    return get_ip() if interface is None else str(get_ip_interface(interface))


def free_port(host: str, ports: str | None) -> int:
    """Return a port of ``FIRST-LAST`` that is free on an address, at random; 0 for any port.

    Raises ``OSError`` if none is free.
    """
    if ports is None:
        return 0
    first, last = map(int, ports.split("-"))
    for port in random.sample(range(first, last + 1), last + 1 - first):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return port
    raise OSError(f"none of the ports {ports} is free on {host}; give more ports")


def open_worker(
    scheduler: str,
    security: Security,
    *,
    name: str,
    resources: Mapping[str, float],
    memory_bytes: int | None,
    interface: str | None,
    ports: str | None,
    scratch: str,
    join_s: float,
) -> Worker:
    """Return a worker of one thread, in this process, for a scheduler elsewhere; awaiting it joins."""
    dask.config.set(CALM)
    return _Worker(
        scheduler,
        name=name,
        nthreads=1,
        resources=dict(resources),
        memory_limit=memory_bytes or 0,  # 0: what the batch system gives is the only limit
        interface=interface,
        port=0 if ports is None else ports.replace("-", ":"),
        local_directory=scratch,
        security=security,
        protocol="tls://",
        dashboard=False,
        death_timeout=join_s,
        silence_logs=_ERROR,
    )


def occupation(dask_scheduler: Scheduler) -> dict[str, bool]:
    """Return, on a scheduler, whether each worker by name executes something."""
    return {
        str(worker.name): bool(worker.executing or worker.long_running)
        for worker in dask_scheduler.workers.values()
    }


async def retire(dask_scheduler: Scheduler, job: int) -> None:
    """On a scheduler, give the workers of a Slurm job no further task.

    What they execute goes on, and what they hold is copied to others where there are any.
    """
    workers = [
        address
        for address, worker in dask_scheduler.workers.items()
        if WorkerName.parse(str(worker.name)).job == job
    ]
    await dask_scheduler.retire_workers(workers=workers, close_workers=False, remove=False)
