"""What it takes to ask Slurm for 1000 worker jobs; needs a cluster where jobs may be held."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rows import Row, interleaved
from orchestrator.identity import SlurmTag, slurm_job_name
from orchestrator.slurm import JobResources, JobScript, Slurm, SlurmRefused, SlurmUnavailable

__all__ = ["measure"]

_JOBS = 1000
_ROUNDS = 9


def measure() -> list[Row]:
    """Measure with held jobs, which are cancelled; no rows without a Slurm that answers."""
    slurm = Slurm(timeout_s=60, patience_s=0)
    try:
        slurm.version()
    except (SlurmUnavailable, SlurmRefused) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder, _held(slurm, Path(folder)) as jobs:
        programs = _programs_of(lambda: slurm.jobs(jobs))
        ours, theirs = interleaved(
            [lambda: slurm.jobs(jobs), _whole_queue_as_json], rounds=_ROUNDS, warmup=1
        )
    return [
        Row(
            name=f"programs of Slurm for the states of {_JOBS} worker jobs",
            ours=str(programs),
            against="–",
            what="one query for each polling interval",
            ratio=None,
            goal="1",
            met=programs == 1,
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
def _held(slurm: Slurm, folder: Path) -> Iterator[list[int]]:
    run = f"bench-{os.getpid()}"

    def submit(number: int) -> int:
        return slurm.submit(
            JobScript(
                name=slurm_job_name(run, "worker"),
                tag=str(SlurmTag(run, "worker", number)),
                resources=JobResources(),
                body=("true",),
                directory=folder,
                output=folder / "out.txt",
                held=True,
            )
        )

    jobs: list[int] = []
    try:
        with ThreadPoolExecutor(4) as pool:
            jobs += pool.map(submit, range(_JOBS))
        yield jobs
    finally:
        slurm.cancel([job.id for job in slurm.jobs().values() if job.tag and job.tag.run == run])


def _programs_of(call: Callable[[], object]) -> int:
    """Count the programs that a call starts."""
    started = 0

    def see(event: str, _arguments: object) -> None:
        nonlocal started
        started += watching and event == "subprocess.Popen"

    watching = True
    sys.addaudithook(see)  # cannot be removed
    call()
    watching = False
    return started


def _whole_queue_as_json() -> object:
    squeue = shutil.which("squeue") or "squeue"
    done = subprocess.run([squeue, "--json"], capture_output=True, check=True)
    return json.loads(done.stdout)
