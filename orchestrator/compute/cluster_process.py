"""The child process with a flow's Dask scheduler: started, connected to and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from orchestrator.compute.api import ComputeError
from orchestrator.compute.connection import Connection

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["WORKER_ENVIRONMENT", "ClusterProcess", "connect", "import_path"]

_START_S = 120
_STOP_S = 5
# Of every worker, wherever it runs.
WORKER_ENVIRONMENT: Mapping[str, str] = {
    # One thread per worker: several processes with OpenMP teams each fight over the same cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "PJRT_NPROC": "1",  # of XLA, and so of JAX, whose sums depend on it
    # Dask would have glibc return freed memory at once: each array above 128 KiB then costs page
    # faults, and loops of arithmetic take twice as long (docs/decisions/0081).
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
}


@dataclass(eq=False)
class ClusterProcess:
    """A process of ``orchestrator.compute.cluster``; nothing starts before `start`.

    spec: its JSON argument. module: another one that does the same.
    """

    spec: Mapping[str, Any]
    module: str = "orchestrator.compute.cluster"
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def start(self) -> None:
        """Start the process and return at once; a second call does nothing.

        Raises `ComputeError` after `close`.
        """
        self._started()

    def _started(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise ComputeError("the workers were shut down")
            if self._process is not None:
                return self._process
            # -P and our own path order: a user's folder must not shadow the packages we need.
            command = [sys.executable, "-P", "-m", self.module]
            self._process = subprocess.Popen(
                [*command, json.dumps(dict(self.spec))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=_environment(),
                start_new_session=True,  # Ctrl-C reaches only the flow, which ends us in order
            )
            return self._process

    def connection(self) -> Connection:
        """Block until the scheduler is up, once. Raises `ComputeError`."""
        process = self._started()
        assert process.stdout is not None
        line = _first_line(process.stdout)
        if line is None:
            raise ComputeError(
                f"the Dask scheduler did not start within {_START_S} s; run `hpcqc doctor`"
            )
        if not line:
            raise ComputeError("the process of the Dask scheduler ended; run `hpcqc doctor`")
        said = json.loads(line)
        if "error" in said:
            raise ComputeError(f"the Dask scheduler cannot start: {said['error']}")
        return Connection(**said)

    def close(self) -> None:
        """End the process; closing twice does nothing."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            _end(process)


def connect(connection: Connection) -> Client:
    """Return a client of a scheduler."""
    import dask.config
    from distributed import Client

    from orchestrator.compute.nodes import CALM, DaskCredentials

    pair = DaskCredentials(certificate=connection.certificate, key=connection.key)
    with dask.config.set(CALM):
        return Client(
            connection.address, security=pair.security(), set_as_default=False, timeout=30
        )


def import_path() -> str:
    """Return a ``PYTHONPATH`` with which another process can import what this one can."""
    return os.pathsep.join(path for path in sys.path if path)


def _environment() -> dict[str, str]:
    from orchestrator.config.environment import process_environment

    return {**process_environment(), **WORKER_ENVIRONMENT, "PYTHONPATH": import_path()}


def _first_line(stream: IO[str]) -> str | None:
    """Return the first line, empty at the end of the stream; None if it takes too long."""
    lines: list[str] = []

    def read() -> None:
        try:
            lines.append(stream.readline())
        except ValueError:  # it was closed meanwhile
            lines.append("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(_START_S)
    return lines[0] if lines else None


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(_STOP_S)
    if process.stdout is not None:
        process.stdout.close()
