"""Workers as jobs of a real Slurm: the conformance suite, and what the reconciler repairs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrator.compute.api import ComputeError, ComputeRun, Demand
from orchestrator.compute.slurm import SlurmDask
from orchestrator.compute.testing import ComputeConformance
from orchestrator.config.compute_tables import ComputeSettings
from tests.patience import until
from tests.worker_jobs import OPTIONS, job_id, ran

pytestmark = pytest.mark.slurm


class TestSlurmWorkers(ComputeConformance):
    kind = SlurmDask
    settings: ClassVar = ComputeSettings(
        name="cluster", kind="slurm", options={**OPTIONS, "nodes_max": 2}
    )

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def cluster(cls, slurm_cluster):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in slurm_cluster.environment.items():
                if name.startswith("SLURM_"):
                    patch.setenv(name, value)
            yield


@pytest.fixture
def opened(slurm, tmp_path):
    """Opens computes of one run, and closes them."""
    made = []

    def compute(**options) -> SlurmDask:
        settings = ComputeSettings(name="c", kind="slurm", options={**OPTIONS, **options})
        run = ComputeRun(id=f"r {tmp_path.name}", folder=tmp_path / "a b'c" / "run")
        made.append(SlurmDask(settings, run))
        return made[-1]

    yield compute
    for one in made:
        one.close()
    assert until(lambda: not ours(slurm, "PENDING", "RUNNING"), slurm.queue)


def ours(slurm, *states) -> list[int]:
    text = slurm.run(["squeue", "--noheader", "--format=%i %T %j"])
    lines = [line.split(" ", 2) for line in text.splitlines()]
    return [int(id_) for id_, state, name in lines if state in states and "hpcqc-r_" in name]


def in_dask(compute) -> int:
    return len(compute.client().scheduler_info(n_workers=-1)["workers"])


def test_a_job_that_is_killed_from_outside_is_replaced(opened, slurm) -> None:
    compute = opened(nodes_max=2)
    first = ran(compute, job_id)
    until(lambda: in_dask(compute) == 2)
    slurm.run(["scancel", str(first)])
    until(lambda: in_dask(compute) == 2 and first not in ours(slurm, "RUNNING", "COMPLETING"))
    assert ran(compute, job_id) != first


def test_a_function_whose_job_is_killed_runs_again(opened, slurm, tmp_path) -> None:
    compute = opened()
    place = str(tmp_path / "starts")

    def slow() -> int:
        import time

        with open(place, "a") as file:  # noqa: PTH123
            file.write("x")
        time.sleep(2)
        return int(os.environ["SLURM_JOB_ID"])

    killed = []

    def kill() -> None:
        until(lambda: os.path.exists(place))  # noqa: PTH110
        killed.extend(ours(slurm, "RUNNING"))
        slurm.run(["scancel", *map(str, killed)])

    killer = threading.Thread(target=kill)
    killer.start()
    found = ran(compute, slow)
    killer.join()
    assert found not in killed
    assert (tmp_path / "starts").read_text() == "xx"


def test_it_grows_and_shrinks_as_it_is_wanted(opened, slurm) -> None:
    compute = opened(nodes_max=3)
    compute.want(1)
    ran(compute, job_id)
    compute.want(3)
    until(lambda: in_dask(compute) == 3)
    compute.want(1)
    until(lambda: in_dask(compute) == 1 and len(ours(slurm, "RUNNING")) == 1)
    compute.want(0)
    until(lambda: not ours(slurm, "RUNNING", "PENDING"))
    compute.want(1)
    assert ran(compute, job_id) > 0


def test_a_busy_job_finishes_before_it_is_given_back(opened, slurm) -> None:
    compute = opened(nodes_max=1)
    ran(compute, job_id)
    began = threading.Event()
    values: list[int] = []

    def sleep() -> int:
        import time

        time.sleep(4)
        return 7

    def work() -> None:
        began.set()
        values.append(ran(compute, sleep))

    worker = threading.Thread(target=work)
    worker.start()
    began.wait()
    until(lambda: any(compute.client().processing().values()))
    compute.want(0)
    worker.join()
    assert values == [7]
    until(lambda: not ours(slurm, "RUNNING", "PENDING"))


def test_held_jobs_wait_until_they_are_released(opened, slurm) -> None:
    compute = opened(nodes_max=1)
    compute.want(1, held=True)
    compute.start()
    until(lambda: "JobHeldUser" in slurm.run(["squeue", "--noheader", "--format=%r"]))
    compute.want(1)
    assert ran(compute, job_id) > 0


def test_each_stage_can_have_an_allocation_that_ends_with_it(opened, slurm) -> None:
    compute = opened()
    compute.separate_stages()
    compute.want(0)
    assert ran(compute, job_id) != ran(compute, job_id)
    until(lambda: not ours(slurm, "RUNNING", "PENDING"))


def test_stages_that_wait_take_over_allocations(opened, slurm) -> None:
    compute = opened(nodes_max=2)
    compute.separate_stages()
    compute.want(0)
    with ThreadPoolExecutor(6) as pool:
        used = list(pool.map(lambda _: ran(compute, job_id), range(6)))
    assert len(set(used)) == 2
    until(lambda: not ours(slurm, "RUNNING", "PENDING"))


def test_a_stage_that_waits_for_an_allocation_ends_with_the_workers(opened, slurm) -> None:
    compute = opened(nodes_max=1)
    compute.separate_stages()
    compute.want(0)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ran, compute, time.sleep, 600) for _ in range(2)]
        until(lambda: ours(slurm, "RUNNING"))
        compute.close()
        for call in calls:
            with pytest.raises(ComputeError):
                call.result()


def test_a_stage_that_no_shared_worker_can_serve_gets_its_own_allocation(opened) -> None:
    compute = opened()
    shared, own = ran(compute, job_id), ran(compute, job_id, demand=Demand(cores=2))
    assert shared != own
    assert ran(compute, job_id) == shared


def test_what_slurm_refuses_is_an_error_in_its_words(opened) -> None:
    with pytest.raises(ComputeError, match=r"(?s)Invalid.*qos|QOS|qos"):
        ran(opened(qos="no-such-qos", extra=["--reservation=no-such"]), job_id)
    with pytest.raises(ComputeError, match="partition"):
        ran(opened(partition="no-such-partition"), job_id)


def test_jobs_that_die_at_once_are_given_up_with_their_output(opened, slurm) -> None:
    compute = opened(prologue=["echo the module is missing; exit 3"])
    with pytest.raises(ComputeError, match=r"(?s)exit code 3.*the module is missing"):
        ran(compute, job_id)


def test_what_no_node_has_is_refused_by_name(slurm) -> None:
    settings = ComputeSettings(name="c", kind="slurm", options=OPTIONS)
    assert SlurmDask.lacks(settings, Demand(nodes=1000)).keys() == {"nodes"}
    assert SlurmDask.lacks(settings, Demand(gpus=99)).keys() == {"gpus"}
    assert not SlurmDask.lacks(settings, Demand(nodes=2))


def test_a_stage_with_gpus_lands_in_the_partition_that_has_them(opened, slurm) -> None:
    def partition() -> str:
        return os.environ["SLURM_JOB_PARTITION"]

    assert ran(opened(), partition, demand=Demand(gpus=1)) == "gpu"


def test_other_users_can_read_nothing_of_it(opened, tmp_path) -> None:
    compute = opened()
    ran(compute, job_id)
    place = tmp_path / "a b'c" / "run"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "connection.json").stat().st_mode) == 0o600
    key = json.loads((place / "connection.json").read_text())["key"]
    assert not [file for file in place.glob("*.out") if key in file.read_text()]


DRIVER = """
import sys, time
from pathlib import Path
from tests.worker_jobs import OPTIONS, job_id, ran
from orchestrator.compute.api import ComputeRun
from orchestrator.compute.slurm import SlurmDask
from orchestrator.config.compute_tables import ComputeSettings

settings = ComputeSettings(name="c", kind="slurm", options=OPTIONS)
compute = SlurmDask(settings, ComputeRun(id=sys.argv[1], folder=Path(sys.argv[2])))
print(ran(compute, job_id), flush=True)
time.sleep(600)
"""


@contextmanager
def driver(slurm, run: str, folder: Path):
    """Yield the job in which a function of a run in a process of its own ran; then kill that."""
    command = [sys.executable, "-c", DRIVER, run, str(folder)]
    process = subprocess.Popen(command, env=slurm.environment, stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_killed_runs_jobs_are_adopted_by_its_next_attempt(slurm, tmp_path) -> None:
    with driver(slurm, "r adopted", tmp_path / "run") as first:
        pass
    with driver(slurm, "r adopted", tmp_path / "run") as second:
        assert ours(slurm, "RUNNING", "PENDING") == [first]
    assert second == first
    until(lambda: not ours(slurm, "RUNNING", "PENDING"))  # nobody comes back


def test_a_killed_runs_other_jobs_are_cancelled_by_its_next_attempt(
    slurm, opened, tmp_path
) -> None:
    with driver(slurm, f"r {tmp_path.name}", tmp_path / "a b'c" / "run") as first:
        pass
    compute = opened(cores=2)  # what the earlier job does not have
    assert ran(compute, job_id) != first
    until(lambda: first not in ours(slurm, "RUNNING", "PENDING"))
