"""What control of 1000 worker jobs asks of Slurm; needs a cluster where jobs may be held."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from benchmarks.rows import Row, interleaved
from orchestrator.compute import reconciler as reconciler_module
from orchestrator.compute.api import ComputeError
from orchestrator.compute.reconciler import Reconciler
from orchestrator.compute.worker_jobs import JobFolder, allocation
from orchestrator.slurm import Slurm, SlurmRefused, SlurmUnavailable
from orchestrator.slurm.options import WorkerOptions

__all__ = ["measure"]

_JOBS = 1000
_LOOKS = 50
_ROUNDS = 9
_PATIENCE_S = 600.0


def measure() -> list[Row]:
    """Measure with held jobs, which are cancelled; no rows without a Slurm that answers."""
    slurm = Slurm(timeout_s=60, patience_s=0)
    try:
        slurm.version()
    except (SlurmUnavailable, SlurmRefused) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder, _controlled(slurm, Path(folder)) as reconciler:
        jobs = [job.id for job in reconciler.jobs()]
        programs = _programs_of_looks(reconciler)
        ours, theirs = interleaved(
            [lambda: slurm.jobs(jobs), _whole_queue_as_json], rounds=_ROUNDS, warmup=1
        )
    return [
        Row(
            name=f"programs of Slurm in each polling interval of {_JOBS} worker jobs",
            ours=f"{programs / _LOOKS:.2f}",
            against=str(_JOBS),
            what=f"a query for each job; counted in {_LOOKS} intervals",
            ratio=programs / _LOOKS / _JOBS,
            goal="≤ 1 program",
            met=programs <= _LOOKS,
        ),
        Row(
            name=f"states of {_JOBS} worker jobs, asked and read",
            ours=f"{1000 * ours:.0f} ms",
            against=f"{1000 * theirs:.0f} ms",
            what="squeue --json, read with json",
            ratio=ours / theirs,
            goal="stated",
            met=None,
        ),
    ]


@contextmanager
def _controlled(slurm: Slurm, folder: Path) -> Iterator[Reconciler]:
    """Let a reconciler submit the jobs, held, and keep them."""
    options = WorkerOptions()
    jobs = JobFolder(run=f"bench-{os.getpid()}", path=folder / "slurm" / "run", options=options)
    jobs.prepare()
    faults: list[ComputeError] = []
    reconciler = Reconciler(
        slurm=slurm,
        folder=jobs,
        on_failure=lambda _, error: faults.append(error),
        on_notice=lambda notice: print(notice, file=sys.stderr),
    )
    reconciler.want(allocation(options), _JOBS, held=True)
    reconciler.start()
    try:
        _until(lambda: len(reconciler.jobs()) == _JOBS or bool(faults))
        if faults:
            raise faults[0]
        yield reconciler
    finally:
        reconciler.close()


def _programs_of_looks(reconciler: Reconciler) -> int:
    """Let a reconciler look many times, and return how many programs it started between two looks."""
    started = 0
    at_looks: list[int] = []

    def see(event: str, _arguments: object) -> None:
        nonlocal started
        started += event == "subprocess.Popen"

    def look(*arguments: object) -> object:
        at_looks.append(started)
        reconciler.wake()
        return reconcile(*arguments)

    reconcile: Callable[..., object] = reconciler_module.reconcile
    sys.addaudithook(see)  # cannot be removed
    with patch.object(reconciler_module, "reconcile", look):
        reconciler.wake()
        _until(lambda: len(at_looks) > _LOOKS)
    return at_looks[_LOOKS] - at_looks[0]


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {_PATIENCE_S:g} s")
        time.sleep(0.05)


def _whole_queue_as_json() -> object:
    squeue = shutil.which("squeue") or "squeue"
    done = subprocess.run([squeue, "--json"], capture_output=True, check=True)
    return json.loads(done.stdout)
