"""What a classical stage takes beside its work where its workers are jobs of Slurm; needs a Slurm.

For the private Slurm of ``.ci/slurm``, whose nodes are all on this machine: workers listen on loopback.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client, LocalCluster
from prefect import flow

from benchmarks.rows import Row, interleaved, timed
from benchmarks.setting import ROOT, scratch_run
from hpcqc import classical
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.runs import Run, current_run
from orchestrator.slurm import Slurm, SlurmRefused, SlurmUnavailable

__all__ = ["measure"]

_ROUNDS = 9
_CALLS = 50
_MOST_S = 1.5
_PATIENCE_S = 120.0
_CLUSTER = ComputeSettings(
    name="cluster", kind="slurm", options={"interface": "lo", "nodes_max": 2, "walltime": "10 min"}
)


@classical
def nothing(value: int) -> int:
    """Return the value."""
    return value


@classical(nodes=2)
def nothing_on_two_nodes(value: int) -> int:
    """Return the value."""
    return value


def measure() -> list[Row]:
    """Take stages, bare jobs and plain Dask workers in turn; no rows without a Slurm that answers."""
    slurm = Slurm(timeout_s=60, patience_s=10)
    try:
        slurm.version()
    except (SlurmUnavailable, SlurmRefused) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as name, _scheduler() as plain:
        bench = _Bench(slurm, Path(name), plain)
        with scratch_run("own", computes=[_CLUSTER], coupling="split"):
            own = bench.own()
        with scratch_run("there", computes=[_CLUSTER]):
            there = bench.there()
    return [*own, *there]


class _Bench:
    """What is measured beside each other on one Slurm. plain: a client of a Dask without workers."""

    def __init__(self, slurm: Slurm, folder: Path, plain: Client) -> None:
        self._slurm, self._folder, self._plain = slurm, folder, plain
        self._jobs = 0

    def own(self) -> list[Row]:
        """Measure stages with an allocation of their own."""
        starts_s, ours_s, two_s, theirs_s = [], [], [], []
        held_s, their_held_s = [], []

        @flow
        def rounds() -> None:
            for number in range(_ROUNDS + 1):
                starts_s.append(self._start_latency_s())
                ours_s.append(self._alone(lambda number=number: nothing(number)))
                held_s.append(self._held_s(_last_job(current_run())))
                two_s.append(self._alone(lambda number=number: nothing_on_two_nodes(number)))
                took_s, job = self._dask_worker_s()
                theirs_s.append(took_s)
                their_held_s.append(self._held_s(job))

        rounds()
        start_s, one, two, theirs = (
            statistics.median(times[1:]) for times in (starts_s, ours_s, two_s, theirs_s)
        )
        what = "sbatch of `dask worker`, a function on it"
        beyond = f"beyond Slurm's start latency ({start_s:.2f} s)"
        return [
            Row(
                name=f"no-op stage with an allocation of its own, {beyond}",
                ours=f"{one - start_s:.2f} s",
                against=f"{theirs - start_s:.2f} s",
                what=what,
                ratio=(one - start_s) / (theirs - start_s),
                goal=f"≤ {_MOST_S:g} s",
                met=one - start_s <= _MOST_S,
            ),
            Row(
                name="the same with two nodes, both on this machine",
                ours=f"{two - start_s:.2f} s",
                against=f"{theirs - start_s:.2f} s",
                what=f"{what} (one node)",
                ratio=(two - start_s) / (theirs - start_s),
                goal="stated",
                met=None,
            ),
            Row(
                name="node-seconds of a no-op stage, by sacct, on average",
                ours=f"{statistics.mean(held_s[1:]):.1f} s",
                against=f"{statistics.mean(their_held_s[1:]):.1f} s",
                what=f"{what}, cancelled after it",
                ratio=statistics.mean(held_s[1:]) / statistics.mean(their_held_s[1:]),
                goal="stated",
                met=None,
            ),
        ]

    def there(self) -> list[Row]:
        """Measure stages on a worker that is there already."""

        @flow
        def calls() -> list[float]:
            nothing(-1)
            numbers = iter(range(_CALLS * (_ROUNDS + 1)))
            return interleaved(
                [
                    lambda: [nothing(next(numbers)) for _ in range(_CALLS)],
                    lambda: [self._function() for _ in range(_CALLS)],
                ],
                rounds=_ROUNDS,
                warmup=1,
            )

        job = self._submit_dask_worker()
        try:
            ours_s, theirs_s = (took_s / _CALLS for took_s in calls())
        finally:
            self._slurm.cancel([job])
        return [
            Row(
                name="no-op stage on a worker that is there",
                ours=f"{1000 * ours_s:.1f} ms",
                against=f"{1000 * theirs_s:.1f} ms",
                what="plain Dask on Slurm: submit and result, no flow",
                ratio=ours_s / theirs_s,
                goal=f"≤ {_MOST_S:g} s",
                met=ours_s <= _MOST_S,
            )
        ]

    def _start_latency_s(self) -> float:
        """Return the time from the call of sbatch to the first line of the script."""
        stamp = self._folder / f"start-{self._jobs}"
        self._wait_until_alone()
        began_s = time.time()
        self._sbatch(f"date +%s.%N > {stamp}.new && mv {stamp}.new {stamp}")
        _until(stamp.exists)
        return float(stamp.read_text()) - began_s

    def _dask_worker_s(self) -> tuple[float, int]:
        """Return the time from the call of sbatch to a function's result, and the job."""
        self._wait_until_alone()
        began_s = time.perf_counter()
        job = self._submit_dask_worker()
        self._function()
        took_s = time.perf_counter() - began_s
        self._slurm.cancel([job])
        return took_s, job

    def _submit_dask_worker(self) -> int:
        worker = [sys.executable, "-m", "distributed.cli.dask_worker"]
        options = ["--nthreads=1", "--no-dashboard", "--interface=lo"]
        address = self._plain.scheduler.address
        return self._sbatch(shlex.join([*worker, address, *options]))

    def _function(self) -> int:
        found: int = self._plain.submit(int, "1", pure=False).result()
        return found

    def _sbatch(self, line: str) -> int:
        self._jobs += 1
        argv = ["sbatch", "--parsable", f"--output={self._folder}/%j.out", "--wrap", line]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        return int(done.stdout)

    def _alone(self, work: Callable[[], object]) -> float:
        """Return how long something takes; it begins when no other job is left."""
        self._wait_until_alone()
        return timed(work)

    def _wait_until_alone(self) -> None:
        _until(lambda: all(job.state.is_over for job in self._slurm.jobs().values()))

    def _held_s(self, job: int) -> float:
        """Return for how long a job had its node."""
        found: list[float] = []

        def ended() -> bool:
            rows = self._slurm.accounting(ids=[job])
            found[:] = [row.node_seconds for row in rows if row.ended_at is not None]
            return bool(found)

        _until(ended)
        return sum(found)


@contextmanager
def _scheduler() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _last_job(run: Run) -> int:
    job = run.spans()[-1].slurm_job
    assert job is not None
    return job


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {_PATIENCE_S:g} s")
        time.sleep(0.02)
