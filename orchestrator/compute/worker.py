"""The process of a worker job: Dask workers that join their run, and end when it does not return."""

from __future__ import annotations

import asyncio
import ctypes
import json
import mmap
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Worker

    from orchestrator.compute.connection import Connection

__all__ = ["WorkerSpec", "main"]

_LOOK_S, _LONG_S = 0.25, 60.0
_JOIN_S = 60
_CLOSE_S = 5.0
_MOST_OF_MEMORY = 0.95
# A function that waits for its units keeps its share of the resource; none may wait for that.
_PLENTY = 1e9
_SET_PDEATHSIG = 1
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
# What a worker's process says of itself in the byte that it shares with its parent.
_STARTING, _JOINED, _LEFT = 0, 1, 2
_MOST_EARLY_DEATHS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What the workers of a job are. Travels on the job's command line, so it holds no secret.

    folder: of the run, with its connection file. pool: Dask resource of the tasks that may run
    here. memory_bytes: of each process, None for no limit of Dask's own. ports: on which they may
    listen, ``FIRST-LAST``; None for any. linger_s: how long to
    wait for a run that was killed.
    """

    folder: Path
    pool: str
    processes: int = 1
    memory_bytes: int | None = None
    interface: str | None = None
    ports: str | None = None
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
            "ports": self.ports,
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
    spec = WorkerSpec.parse(sys.argv[1])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # Loaded here once, and not by each worker: that is most of the time until one has joined.
    import orchestrator.compute.nodes
    import orchestrator.compute.remote_call
    import orchestrator.slurm.environment  # noqa: F401

    _serve(spec, before)
    # Nothing is left to do, and Slurm would wait while the interpreter dismantles what it loaded.
    sys.stdout.flush()
    os._exit(0)


def _serve(spec: WorkerSpec, mask: Collection[int]) -> None:
    left: Connection | None = None
    with tempfile.TemporaryDirectory(
        prefix="hpcqc-dask-", dir=spec.scratch, ignore_cleanup_errors=True
    ) as scratch:
        while True:
            try:
                left = _connection(spec, left)
                if left is None:
                    print("no run to work for; this worker job ends", flush=True)  # noqa: T201
                    return
                _work(_Place(spec=spec, connection=left, scratch=scratch, mask=mask))
            except _Stopped:
                return


class _Stopped(Exception):
    """Slurm, or the run, ends this job."""


def _wait(longest_s: float) -> None:
    """Wait until a process ended, or so long; raise `_Stopped` when this job is to end."""
    received = signal.sigtimedwait(_SIGNALS, longest_s)
    if received is not None and received.si_signo != signal.SIGCHLD:
        raise _Stopped


def _connection(spec: WorkerSpec, left: Connection | None) -> Connection | None:
    """Wait for a scheduler other than the one that was left; None if none came in time."""
    from orchestrator.compute.connection import Connection

    deadline = time.monotonic() + spec.linger_s
    while time.monotonic() < deadline:
        found = Connection.read(spec.folder)
        if found is not None and found != left:
            return found
        if not spec.folder.is_dir():  # the run was removed
            return None
        _wait(_LOOK_S)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where workers join, and the signals that they do not block."""

    spec: WorkerSpec
    connection: Connection
    scratch: str
    mask: Collection[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """A worker's process. number: in its name. state: one byte of memory that it shares with us."""

    pid: int
    number: int
    state: mmap.mmap


def _work(place: _Place) -> None:
    """Run workers until they have left their scheduler, and replace those that die meanwhile."""
    running = [_start(place, number) for number in range(place.spec.processes)]
    early = 0  # deaths before a worker said that it had joined; it may have had a function by then
    try:
        while running:
            # Without a limit there is nothing to look at, and a signal says when a process ended.
            _wait(_LONG_S if place.spec.memory_bytes is None else _LOOK_S)
            _end_too_large(running, place.spec.memory_bytes)
            for ended, code in _ended(running):
                running.remove(ended)
                early += ended.state[0] == _STARTING
                if ended.state[0] != _LEFT and early <= _MOST_EARLY_DEATHS:
                    print(f"a worker process ended with {code}; another one starts", flush=True)  # noqa: T201
                    # A name of its own: the scheduler may not know yet that the other one is gone.
                    running.append(_start(place, ended.number + place.spec.processes))
    finally:
        _end(running)


def _start(place: _Place, number: int) -> _Process:
    """Fork a process that is a worker."""
    state = mmap.mmap(-1, 1)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return _Process(pid=pid, number=number, state=state)
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, place.mask)
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:  # it has not died just before
            code = asyncio.run(_be_worker(place, number, state))
    except BaseException:  # noqa: BLE001  # nothing of the parent's may run here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


async def _be_worker(place: _Place, number: int, state: mmap.mmap) -> int:
    """Work for a scheduler until it ends; return the exit code.

    SIGTERM has its usual effect, also on processes that a function forks.
    """
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()  # all workers would have the same numbers; Python's own are seeded anew
    worker = _worker(place, number)
    try:
        await worker
    except Exception as fault:  # noqa: BLE001  # whatever it is, the job's output says it
        print(f"cannot join {place.connection.address}: {fault}", flush=True)  # noqa: T201
        state[0] = _LEFT
        return 1
    state[0] = _JOINED
    await worker.finished()
    state[0] = _LEFT
    return 0


def _worker(place: _Place, number: int) -> Worker:
    from orchestrator.compute.nodes import DaskCredentials, open_worker
    from orchestrator.identity import WorkerName
    from orchestrator.slurm.environment import this_job

    spec, connection = place.spec, place.connection
    pair = DaskCredentials(certificate=connection.certificate, key=connection.key)
    here = this_job()
    job, restarts, node = (here.worker or here.id, here.restarts, here.node) if here else (0, 0, 0)
    return open_worker(
        connection.address,
        pair.security(),
        name=str(WorkerName(job=job, restarts=restarts, node=node, process=number)),
        resources={spec.pool: _PLENTY},
        memory_bytes=spec.memory_bytes,
        interface=spec.interface,
        ports=spec.ports,
        scratch=place.scratch,
        join_s=_JOIN_S,
    )


def _ended(running: Iterable[_Process]) -> list[tuple[_Process, int]]:
    """Return the processes that ended, with their exit codes."""
    ended = []
    for one in running:
        pid, status = os.waitpid(one.pid, os.WNOHANG)
        if pid:
            ended.append((one, os.waitstatus_to_exitcode(status)))
    return ended


def _end_too_large(running: Iterable[_Process], memory_bytes: int | None) -> None:
    """Kill workers that have nearly all the memory that Slurm gives them, before it ends the job."""
    if memory_bytes is None:
        return
    for one in running:
        used = _resident_bytes(one.pid)
        if used > _MOST_OF_MEMORY * memory_bytes:
            print(  # noqa: T201
                f"a worker process is killed: it uses {used} of {memory_bytes} bytes", flush=True
            )
            os.kill(one.pid, signal.SIGKILL)


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _end(running: Sequence[_Process]) -> None:
    """End processes, and kill those that take long."""
    left = list(running)
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for one in left:
            os.kill(one.pid, signum)
        deadline = time.monotonic() + _CLOSE_S
        while left and time.monotonic() < deadline:
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK_S)
            ended = [one for one, _ in _ended(left)]
            left = [one for one in left if one not in ended]


if __name__ == "__main__":
    main()
