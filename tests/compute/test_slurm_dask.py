"""Slurm's compute where its scheduler cannot start, or its worker jobs never come."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.compute.api import ComputeError, ComputeRun, Demand
from orchestrator.compute.cluster_process import ClusterProcess
from orchestrator.compute.fanout import Spread
from orchestrator.compute.remote_call import StageContext
from orchestrator.compute.slurm import SlurmDask
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.identity import SlurmTag
from orchestrator.slurm.errors import SlurmRefused
from orchestrator.slurm.states import SlurmState
from tests.forgetful_slurm import ForgetfulSlurm
from tests.patience import until


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens computes on a Slurm of the test's own, and closes them."""
    made = []
    slurm = ForgetfulSlurm()
    monkeypatch.setattr("orchestrator.compute.slurm.Slurm", lambda **_: slurm)
    monkeypatch.setattr("orchestrator.compute.slurm._partitions", dict)

    def compute(*, folder=tmp_path / "r", interface="lo", on_connect=None, **options):
        settings = ComputeSettings(
            name="c", kind="slurm", options={"interface": interface, **options}
        )
        made.append(SlurmDask(settings, ComputeRun(id="r", folder=folder, on_connect=on_connect)))
        made[-1].slurm = slurm
        return made[-1]

    yield compute
    for one in made:
        one.close()


def spread(demand: Demand | None = None) -> Spread:
    context = StageContext(
        run="r", key="s", site=None, qpu=None, keep_dir=None, demand=demand or Demand()
    )
    return Spread(context=context, turn_of=lambda _: 0)


@pytest.mark.parametrize("demand", [Demand(), Demand(cores=2)], ids=["shared", "own"])
def test_units_end_when_their_worker_jobs_are_given_up(opened, demand) -> None:
    compute = opened()
    compute.slurm.faults["submit"] = [SlurmRefused("no such account")] * 9
    with pytest.raises(ComputeError, match="no such account"):
        compute.fan_out(abs, range(3), spread(demand))


def test_a_scheduler_that_cannot_start_says_why(opened) -> None:
    with pytest.raises(ComputeError, match="no-such0"):
        opened(interface="no-such0").client()


def test_a_folder_that_cannot_be_made_fails_every_call(opened, tmp_path) -> None:
    (tmp_path / "file").touch()
    compute = opened(folder=tmp_path / "file" / "r")
    for _ in range(2):
        with pytest.raises(OSError, match="file"):
            compute.client()


def test_whoever_waits_hears_that_the_run_could_not_take_the_client(opened) -> None:
    def fail(client) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(ComputeError, match="disk full"):
        opened(on_connect=fail).client()


def test_a_run_that_ends_while_it_connects_leaves_no_connection(opened, tmp_path) -> None:
    compute = opened(on_connect=lambda _: compute.close())
    with pytest.raises(ComputeError, match="shut down"):
        compute.client()
    until(lambda: "hpcqc-slurm-connect" not in {one.name for one in threading.enumerate()})
    assert not (tmp_path / "r" / "connection.json").exists()


def test_a_closed_scheduler_is_not_started_again() -> None:
    process = ClusterProcess({"workers": 0, "memory_per_worker": None})
    process.close()
    with pytest.raises(ComputeError, match="shut down"):
        process.connection()


@pytest.mark.parametrize(
    ("left", "handed_on"), [(timedelta(minutes=9), False), (timedelta(minutes=11), True)]
)
def test_an_allocation_is_handed_on_if_enough_of_its_walltime_is_left(
    opened, left, handed_on
) -> None:
    compute = opened(walltime="20 min", nodes_max=1)
    compute.separate_stages()
    compute.want(0)
    compute.start()
    demand = Demand(walltime=timedelta(minutes=10))
    used = []

    def stage() -> None:
        with compute._pool(demand) as pool:
            used.append(pool)

    with compute._pool(demand) as first:
        until(compute.slurm.waiting)
        (job,) = compute.slurm.waiting()
        compute.slurm.change(job, state=SlurmState.RUNNING, ends_by=datetime.now(UTC) + left)
        until(lambda: any(one.ends_by for one in compute._reconciler.jobs()))
        waiting = threading.Thread(target=stage)
        waiting.start()
        until(lambda: compute._stages[demand].waiting)
    waiting.join()
    assert (used == [first]) is handed_on


def test_no_shared_job_is_submitted_for_stages_with_allocations_of_their_own(opened) -> None:
    compute = opened(nodes_max=3)
    compute.want(3)
    own = threading.Thread(target=_failing, args=(compute, Demand(cores=2)))
    own.start()
    until(lambda: len(compute.slurm.tags) == 1)
    compute.want(2)
    shared = threading.Thread(target=_failing, args=(compute, Demand()))
    shared.start()
    until(lambda: len(compute.slurm.tags) == 3)
    purposes = [SlurmTag.parse(tag).purpose for tag in compute.slurm.tags]
    assert purposes == ["stage", "worker", "worker"]
    compute.close()
    own.join()
    shared.join()


def _failing(compute: SlurmDask, demand: Demand) -> None:
    """Run until the compute is closed."""
    with pytest.raises(ComputeError):
        compute.fan_out(abs, range(3), spread(demand))
