"""Worker jobs: their options, what they ask Slurm for, and which stages share them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.compute.api import Demand, DemandNotMet
from orchestrator.compute.kinds import check_demand, check_fits_one_job
from orchestrator.compute.worker import WorkerSpec
from orchestrator.compute.worker_jobs import JobFolder, allocation, enough_for, fits_worker, lacking
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.durations import duration
from orchestrator.config.errors import ConfigError
from orchestrator.identity import SlurmTag
from orchestrator.slurm import Partition, impossible
from orchestrator.slurm.options import WorkerOptions, worker_options

PARTITIONS = {
    "batch": Partition(
        name="batch",
        is_default=True,
        node_count=4,
        cores_per_node=8,
        memory_per_node_bytes=16 << 30,
        max_walltime=timedelta(hours=2),
    ),
    "gpu": Partition(name="gpu", node_count=1, cores_per_node=8, gres={"gpu": 2}),
}


def options(**given) -> WorkerOptions:
    return worker_options(ComputeSettings(name="big", kind="slurm", options=given))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90 min", 5400),
        ("1 h 30 min", 5400),
        ("1-12:00", 129600),
        ("1-12", 129600),
        ("1-12:00:05", 129605),
        ("0:10:00", 600),
        ("100:00:00", 360000),
        ("2d", 172800),
        ("3 days", 259200),
        ("1 day 2 hours 1 minute 5 seconds", 93665),
        ("1.5 hours", 5400),
    ],
)
def test_times_are_read(text, seconds) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "soon", "10", "0 min", "1 h later", "-5 min", "2 dayss", "3 mins"]
)
def test_what_is_no_time_is_refused(text) -> None:
    with pytest.raises(ValueError, match="such as"):
        duration(text)


# To Slurm 30 minutes, to others 30 hours.
@pytest.mark.parametrize("text", ["30:00", "1:30", "12:00\n:00", "1-"])
def test_a_time_with_two_meanings_is_refused(text) -> None:
    with pytest.raises(ValueError, match="such as"):
        duration(text)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"partion": "x"}, ["'partion'", "did you mean 'partition'"]),
        ({"cores": 0}, ["cores = 0"]),
        ({"cores": "4"}, ["cores = '4'"]),
        ({"walltime": 60}, ["walltime = 60", "90 min"]),
        ({"memory": "much"}, ["memory = 'much'", "8 GiB"]),
        ({"nodes_min": 3, "nodes_max": 2}, ["nodes_min = 3", "nodes_max = 2"]),
        ({"cores": 2, "processes": 4}, ["processes = 4", "cores = 2"]),
        ({"prologue": ["a\nb"]}, ["prologue"]),
        ({"ports": "9000"}, ["ports = '9000'", "9000-9200"]),
        ({"ports": "9200-9000"}, ["ports = '9200-9000'"]),
        ({"ports": "80-9000"}, ["ports = '80-9000'"]),
        ({"ports": "9000-90000"}, ["ports = '9000-90000'"]),
    ],
)
def test_wrong_options_are_named(given, words) -> None:
    with pytest.raises(ConfigError) as caught:
        options(**given)
    assert all(word in str(caught.value) for word in ["[compute.big]", *words]), str(caught.value)


def test_options_of_local_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="nodes_max"):
        worker_options(ComputeSettings(name="big", kind="slurm", workers=2))


def test_processes_share_a_job_evenly() -> None:
    shared = allocation(options(cores=4, memory="8 GiB"))
    assert (shared.processes, shared.memory_bytes) == (4, 2 << 30)
    assert (shared.resources.cores, shared.resources.memory_bytes) == (4, 8 << 30)


@pytest.mark.parametrize(
    ("given", "demand", "fits"),
    [
        ({}, Demand(), True),
        ({"cores": 4}, Demand(cores=2), False),
        ({"cores": 4, "processes": 2}, Demand(cores=2), True),
        ({"cores": 4, "memory": "8 GiB"}, Demand(memory=2 << 30), True),
        ({"cores": 4, "memory": "8 GiB"}, Demand(memory=3 << 30), False),
        ({}, Demand(memory=1), False),
        ({"walltime": "1 h"}, Demand(walltime=timedelta(hours=1)), True),
        ({"walltime": "1 h"}, Demand(walltime=timedelta(hours=2)), False),
        ({}, Demand(nodes=2), False),
        ({}, Demand(gpus=1), False),
        ({"gpus": 1}, Demand(gpus=1), True),
    ],
)
def test_a_stage_shares_workers_that_give_it_enough(given, demand, fits) -> None:
    assert fits_worker(options(**given), demand) is fits


def test_a_stage_of_its_own_gets_what_it_asks_for() -> None:
    demand = Demand(cores=6, memory=12 << 30, nodes=2, walltime=timedelta(hours=2))
    own = allocation(options(partition="batch", cores=2, memory="4 GiB"), demand, pool="stage-1")
    asked = own.resources
    assert (asked.nodes, asked.cores, asked.memory_bytes) == (2, 6, 12 << 30)
    assert asked.partition == "batch"
    assert (own.purpose, own.memory_bytes) == ("stage", 12 << 30)


def test_a_range_of_nodes_is_slurms_to_choose(tmp_path) -> None:
    folder = JobFolder(run="r", path=tmp_path, options=options())
    text = folder.script(allocation(options(), Demand(nodes=1, nodes_max=3), pool="s"), 0).text()
    assert "#SBATCH --nodes=1-3" in text
    assert "ntasks-per-node" not in text  # with it, Slurm would give one node
    assert "exec srun" in text
    alone = folder.script(allocation(options(), Demand(), pool="s"), 0).text()
    assert "#SBATCH --nodes=1\n" in alone
    assert "srun" not in alone


def test_a_stage_with_a_range_of_nodes_shares_workers_that_are_enough() -> None:
    assert fits_worker(options(), Demand(nodes=1, nodes_max=3))


def test_the_walltime_of_a_job_leaves_time_to_start_it_up_to_the_partitions_limit() -> None:
    for asked, granted in ((60, 61), (120, 120)):
        demand = Demand(walltime=timedelta(minutes=asked))
        own = allocation(options(), demand, pool="s", partitions=PARTITIONS)
        assert own.resources.walltime == timedelta(minutes=granted)
    assert not lacking(options(), Demand(walltime=timedelta(hours=2)), PARTITIONS)


@pytest.mark.parametrize(
    ("given", "partition"),
    [
        ({}, "gpu"),
        ({"partition": "batch"}, "gpu"),
        ({"partition": "batch,gpu"}, "batch,gpu"),
        ({"gpu_partition": "other"}, "other"),
    ],
)
def test_a_stage_that_asks_for_gpus_lands_where_they_are(given, partition) -> None:
    own = allocation(options(**given), Demand(gpus=2), pool="s", partitions=PARTITIONS)
    assert own.resources.partition == partition


def test_a_partition_that_is_not_offered_must_be_named() -> None:
    hidden = replace(PARTITIONS["gpu"], name="secret", is_offered=False)
    known = {"batch": PARTITIONS["batch"], "secret": hidden}
    demand = Demand(gpus=2)
    assert allocation(options(), demand, partitions=known).resources.partition == "batch"
    given = options(gpu_partition="secret")
    assert not lacking(given, demand, known)
    assert lacking(options(), demand, known).keys() == {"gpus"}
    assert allocation(options(), demand, partitions=known | PARTITIONS).resources.partition == "gpu"


@pytest.mark.parametrize(
    "amounts",
    [
        {"nodes": 5},
        {"cores": 9},
        {"memory": 17 << 30},
        {"gpus": 3},
        {"walltime": timedelta(hours=3)},
        {"nodes": 5, "gpus": 3},
    ],
)
def test_what_no_partition_has_is_lacking_by_name(amounts) -> None:
    found = lacking(options(), Demand(**amounts), PARTITIONS)
    assert found.keys() == amounts.keys()
    assert all(found.values())


def test_what_a_partition_has_is_not_lacking() -> None:
    assert not lacking(options(), Demand(nodes=4, cores=8, memory=16 << 30), PARTITIONS)
    assert not lacking(options(), Demand(gpus=2), PARTITIONS)


@pytest.mark.parametrize(
    ("amounts", "lacks"),
    [
        ({"cores": 32, "memory": 64 << 30, "walltime": timedelta(hours=10)}, set()),
        ({"nodes": 3}, {"nodes"}),
        ({"cores": 65}, {"cores"}),
        ({"walltime": timedelta(days=3)}, {"walltime"}),
    ],
)
def test_a_stage_with_gpus_is_measured_by_the_partition_that_has_them(amounts, lacks) -> None:
    large = Partition(
        name="gpu",
        node_count=2,
        cores_per_node=64,
        memory_per_node_bytes=512 << 30,
        max_walltime=timedelta(days=2),
        gres={"gpu": 2},
    )
    found = lacking(options(), Demand(gpus=1, **amounts), {**PARTITIONS, "gpu": large})
    assert found.keys() == lacks
    assert all("'gpu'" in reason for reason in found.values())


def test_numbers_of_jobs_are_never_used_twice(tmp_path) -> None:
    folder = JobFolder(run="r", path=tmp_path / "slurm" / "r", options=options())
    folder.prepare()
    assert [folder.next_number("worker") for _ in range(3)] == [0, 1, 2]
    later = JobFolder(run="r", path=folder.path, options=options())
    assert (later.next_number("worker"), later.next_number("stage")) == (3, 0)


def test_a_job_of_an_earlier_attempt_is_known_by_what_it_is(tmp_path) -> None:
    folder = JobFolder(run="r", path=tmp_path / "r", options=options(cores=2))
    folder.prepare()
    shared = allocation(folder.options)
    folder.remember(shared, folder.next_number("worker"))
    assert folder.is_of(shared, 0)
    assert not folder.is_of(allocation(options(cores=3)), 0)
    assert not folder.is_of(shared, 1)


def test_a_script_runs_a_worker_without_secrets(tmp_path) -> None:
    place = tmp_path / "a b'c"
    folder = JobFolder(run="nächte:1", path=place, options=options(scratch="/tmp/x y"))
    script = folder.script(allocation(folder.options), 3, held=True)
    text = script.text()
    assert "orchestrator.compute.worker" in text
    assert "#SBATCH --hold" in text
    assert "#SBATCH --no-requeue" in text
    assert SlurmTag.parse(script.tag) == folder.owner.tag("worker", 3)
    elsewhere = JobFolder(run=folder.run, path=tmp_path / "b" / "slurm" / "r", options=options())
    assert not elsewhere.owner.has(SlurmTag.parse(script.tag))


def test_a_spec_survives_its_way_through_a_command_line() -> None:
    spec = WorkerSpec(
        folder=Path("/a b/'c'"),
        pool="shared",
        processes=3,
        memory_bytes=7,
        scratch="/x",
        linger_s=1,
    )
    assert WorkerSpec.parse(*spec.arguments()) == spec


def test_a_shortage_of_gpus_names_the_partition_that_has_some() -> None:
    many = lacking(options(), Demand(gpus=3), PARTITIONS)
    assert [word in many["gpus"] for word in ("'gpu'", "2 'gpu'", "3 asked for")] == [True] * 3
    (reason,) = impossible(allocation(options(gpus=3)).resources, PARTITIONS)
    assert reason.endswith("gpu has 2")
    without = {name: replace(one, gres={}) for name, one in PARTITIONS.items()}
    assert allocation(options(), Demand(gpus=3), partitions=without).resources.partition == next(
        name for name, one in without.items() if one.is_default
    )


def test_too_many_tasks_are_named_as_such() -> None:
    found = lacking(options(), Demand(tasks_per_node=99), PARTITIONS)
    assert found.keys() == {"tasks_per_node"}
    assert "99 asked for" in found["tasks_per_node"]
    assert lacking(options(), Demand(cores=99), PARTITIONS).keys() == {"cores"}


def test_memory_that_is_not_there_is_named_in_units() -> None:
    settings = ComputeSettings(name="c", kind="local", memory_per_worker="1 GiB")
    with pytest.raises(DemandNotMet, match="memory = 64 GiB"):
        check_demand("s", Demand(memory=64 << 30), settings)


SIZES = st.none() | st.sampled_from([1 << 29, 1 << 30, 3 << 30, 8 << 30])
TIMES = st.none() | st.sampled_from([timedelta(minutes=m) for m in (10, 60, 600)])
OPTIONS = st.builds(
    lambda cores, less, **more: WorkerOptions(
        cores=cores, processes=None if less is None else max(1, cores - less), **more
    ),
    st.integers(1, 8),
    st.none() | st.integers(0, 7),
    nodes_max=st.integers(1, 4),
    gpus=st.integers(0, 3),
    memory=SIZES,
    walltime=TIMES,
)
DEMANDS = st.builds(
    Demand,
    nodes=st.integers(1, 5),
    cores=st.integers(1, 4),
    tasks_per_node=st.integers(1, 4),
    gpus=st.integers(0, 2),
    memory=SIZES,
    walltime=TIMES,
)


@given(OPTIONS, DEMANDS)
def test_a_job_is_enough_for_a_stage_once_it_is_changed_as_said(has, demand) -> None:
    """Nothing is to be changed where the stage fits as it is; the other half of a deadlock."""

    def fits(job: WorkerOptions) -> bool:
        on_a_node = replace(demand, nodes=1, nodes_max=1)
        return demand.nodes <= job.nodes_max and fits_worker(job, on_a_node)

    changes = enough_for(has, demand)
    assert bool(changes) != fits(has)
    assert fits(has.model_copy(update=changes))


def test_a_stage_without_room_in_the_one_job_of_its_run_is_refused() -> None:
    settings = ComputeSettings(name="big", kind="slurm", options={"cores": 3, "nodes_max": 4})
    demand = Demand(nodes=2, tasks_per_node=4, walltime=timedelta(hours=1))
    with pytest.raises(DemandNotMet) as caught:
        check_fits_one_job("relax", demand, settings)
    text = str(caught.value)
    for part in (
        "'relax'",
        "nodes = 2, tasks_per_node = 4, walltime = 1:00:00",
        "compute.big.options.cores = 4",
        "compute.big.options.processes = 1",
        'compute.big.options.walltime = "60 min"',
    ):
        assert part in text
    assert "nodes_max" not in text
    enough = {"cores": 4, "processes": 1, "nodes_max": 4, "walltime": "60 min"}
    check_fits_one_job("relax", demand, settings.model_copy(update={"options": enough}))
    check_fits_one_job("relax", demand, ComputeSettings(name="here", kind="local"))
