"""The process of a worker job: Dask workers that join their run, and end when it does not return."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Nanny

    from orchestrator.compute.connection import Connection

__all__ = ["WorkerSpec", "main"]


_LOOK_S = 0.2
_JOIN_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What the workers of a job are. Travels on the job's command line, so it holds no secret.

    folder: of the run, with its connection file. pool: Dask resource of the tasks that may run
    here. memory_bytes: of each process, None for no limit of Dask's own. linger_s: how long to
    wait for a run that was killed.
    """

    folder: Path
    pool: str
    processes: int = 1
    memory_bytes: int | None = None
    interface: str | None = None
    scratch: str | None = None
    linger_s: float = 60.0

    def arguments(self) -> tuple[str, ...]:
        """Return the arguments of the process."""
        given = {
            "folder": str(self.folder),
            "pool": self.pool,
            "processes": self.processes,
            "memory_bytes": self.memory_bytes,
            "interface": self.interface,
            "scratch": self.scratch,
            "linger_s": self.linger_s,
        }
        return (json.dumps({key: value for key, value in given.items() if value is not None}),)

    @staticmethod
    def parse(text: str) -> WorkerSpec:
        """Read what `arguments` wrote."""
        given = json.loads(text)
        return WorkerSpec(**given | {"folder": Path(given["folder"])})


def main() -> None:
    """Join the run that ``argv[1]`` names, and stay until it is over."""
    os.umask(0o077)  # what it writes is its owner's alone
    sys.exit(asyncio.run(_serve(WorkerSpec.parse(sys.argv[1]))))


async def _serve(spec: WorkerSpec) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    left: Connection | None = None
    with tempfile.TemporaryDirectory(
        prefix="hpcqc-dask-", dir=spec.scratch, ignore_cleanup_errors=True
    ) as scratch:
        while not stopping.is_set():
            connection = await _connection(spec, left, stopping)
            if connection is None:
                print("no run to work for; this worker job ends", flush=True)  # noqa: T201
                return 0
            await _work(spec, connection, scratch, stopping)
            left = connection
    return 0


async def _connection(
    spec: WorkerSpec, left: Connection | None, stopping: asyncio.Event
) -> Connection | None:
    """Wait for a scheduler other than the one that was left; None if none came in time."""
    from orchestrator.compute.connection import Connection

    deadline = time.monotonic() + spec.linger_s
    while not stopping.is_set() and time.monotonic() < deadline:
        found = Connection.read(spec.folder)
        if found is not None and found != left:
            return found
        if not spec.folder.is_dir():  # the run was removed
            return None
        await asyncio.sleep(_LOOK_S)
    return None


async def _work(
    spec: WorkerSpec, connection: Connection, scratch: str, stopping: asyncio.Event
) -> None:
    """Work for a scheduler until it, or this job, ends."""
    nannies = _nannies(spec, connection, scratch)
    stop = asyncio.create_task(stopping.wait())
    working = [asyncio.create_task(_stay(nanny)) for nanny in nannies]
    try:
        running = set(working)
        while running and not stop.done():
            await asyncio.wait([stop, *running], return_when=asyncio.FIRST_COMPLETED)
            running = {one for one in running if not one.done()}
        faults = [one.exception() for one in working if one.done()]
        for fault in dict.fromkeys(str(fault) for fault in faults if fault is not None):
            print(f"cannot join {connection.address}: {fault}", flush=True)  # noqa: T201
    finally:
        for task in (stop, *working):
            task.cancel()
        await asyncio.wait([stop, *working])
        with suppress(Exception):
            await asyncio.gather(*(one.close(timeout=5) for one in nannies))


async def _stay(nanny: Nanny) -> None:
    """Join a scheduler, and wait until its end."""
    await nanny
    await nanny.finished()


def _nannies(spec: WorkerSpec, connection: Connection, scratch: str) -> list[Nanny]:
    from orchestrator.compute.nodes import DaskCredentials, open_nanny
    from orchestrator.identity import WorkerName
    from orchestrator.slurm.environment import this_job

    pair = DaskCredentials(certificate=connection.certificate, key=connection.key)
    here = this_job()
    job, restarts, node = (here.worker or here.id, here.restarts, here.node) if here else (0, 0, 0)
    return [
        open_nanny(
            connection.address,
            pair.security(),
            name=str(WorkerName(job=job, restarts=restarts, node=node, process=number)),
            resources={spec.pool: _PLENTY},
            memory_bytes=spec.memory_bytes,
            interface=spec.interface,
            scratch=scratch,
            join_s=_JOIN_S,
        )
        for number in range(spec.processes)
    ]


# A function that waits for its units keeps its share of the resource; none may wait for that.
_PLENTY = 1e9

if __name__ == "__main__":
    main()
