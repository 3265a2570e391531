"""What a plan knows of nodes that others hold, on a real Slurm with busy nodes and waiting jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.application.node_wait import cluster_now, qpu_job_wait_s
from orchestrator.config.loading import load_site
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.errors import SlurmRefused
from orchestrator.slurm.options import WorkerOptions
from orchestrator.slurm.outlook import Outlook, outlook
from orchestrator.slurm.script import JobResources, JobScript
from tests.patience import until
from tests.private_slurm import SlurmForTests

pytestmark = pytest.mark.slurm

Submit = Callable[..., int]
# Times pass between a question and its check.
_ABOUT_S = 90.0


@pytest.fixture
def submit(slurm: SlurmForTests) -> Iterator[Submit]:
    """Submit jobs that sleep, and cancel them in the end."""
    ids: list[int] = []

    def submit(*options: str, state: str = "RUNNING") -> int:
        argv = ["sbatch", "--parsable", "--output=/dev/null", "--chdir=/tmp", *options]
        ids.append(int(slurm.run([*argv, "--wrap=sleep 3000"])))
        until(lambda: f"{ids[-1]} {state}" in slurm.run(["squeue", "-ho", "%i %T"]))
        return ids[-1]

    yield submit
    slurm.run(["scancel", *map(str, ids)])
    until(lambda: not slurm.queue())


def look(walltime: timedelta, cores: int = 4) -> Outlook:
    slurm = Slurm()
    return outlook(
        slurm.partitions()["classical"],
        slurm.queue(),
        now=datetime.now(UTC),
        cores=cores,
        walltime=walltime,
        unknown_s=600.0,
    )


def script(tmp_path: Path, **resources: object) -> JobScript:
    return JobScript(
        name="asked",
        tag="asked",
        resources=JobResources(partition="classical", **resources),  # type: ignore[arg-type]
        body=("true",),
        directory=tmp_path,
        output=tmp_path / "out",
    )


def test_nodes_are_free_after_walltimes_and_behind_waiting_jobs(submit, tmp_path) -> None:
    for minutes in (5, 10, 15):
        submit("--exclusive", f"--time={minutes}")
    found = look(timedelta(minutes=30))
    assert [count for _, count in found.busy] == [1, 1, 1]
    for (time_s, _), minutes in zip(found.busy, (5, 10, 15), strict=True):
        assert 60 * minutes - _ABOUT_S < time_s <= 60 * minutes
    assert (found.unknown, found.ahead, found.starts_in_s) == (0, 0, 0.0)
    submit("--nodes=4", "--exclusive", "--time=20", state="PENDING")
    # The wide job begins in 15 minutes; before it there is room for a short one, not for a long one.
    assert look(timedelta(minutes=10)).starts_in_s == 0.0
    behind = look(timedelta(minutes=30))
    assert behind.ahead == 1
    assert 35 * 60 - _ABOUT_S < behind.starts_in_s < 35 * 60 + _ABOUT_S
    submit("--hold", "--nodes=4", state="PENDING")
    submit("--begin=now+1hour", "--nodes=4", state="PENDING")
    until(lambda: look(timedelta(minutes=30)).ahead == 1)  # once Slurm knows for what it waits


def test_a_node_that_others_use_has_room_for_a_small_job(submit) -> None:
    submit("--nodes=4", "--ntasks-per-node=3", "--time=30")
    assert look(timedelta(minutes=5), cores=1).busy == ()
    assert sum(count for _, count in look(timedelta(minutes=5), cores=2).busy) == 4


def test_slurm_says_when_it_would_start_a_job(submit, slurm, tmp_path) -> None:
    before = len(slurm.queue())
    idle = Slurm().expected_start(script(tmp_path, cores=1))
    assert abs((idle - datetime.now(UTC)).total_seconds()) < _ABOUT_S
    submit("--nodes=4", "--exclusive", "--time=30")
    later = Slurm().expected_start(script(tmp_path, cores=1))
    assert 30 * 60 - _ABOUT_S < (later - datetime.now(UTC)).total_seconds() <= 30 * 60 + _ABOUT_S
    assert len(slurm.queue()) == before + 1
    with pytest.raises(SlurmRefused):
        Slurm().expected_start(script(tmp_path, nodes=40))


def test_a_plan_has_the_wait_of_the_present_queue(submit, tmp_path) -> None:
    options = WorkerOptions(partition="classical", cores=4, walltime="30 min", nodes_max=2)
    free, notes = cluster_now(options, tmp_path, None)
    assert (free.nodes, free.busy, free.wait_s) == (4, (), 0.0)
    assert any("at once (sbatch --test-only)" in note for note in notes)
    submit("--nodes=4", "--exclusive", "--time=10")
    busy, _ = cluster_now(options, tmp_path, None)
    ((time_s, count),) = busy.busy
    assert (count, busy.wait_s) == (4, 0.0)
    assert 600 - _ABOUT_S < time_s <= 600 + _ABOUT_S
    submit("--nodes=4", "--exclusive", "--time=20", state="PENDING")
    queued, notes = cluster_now(options, tmp_path, None)
    assert 1800 - _ABOUT_S < queued.wait_s < 1800 + _ABOUT_S
    assert any("1 job in classical before" in note for note in notes)


def test_a_qpu_that_slurm_gave_to_others_is_awaited(submit, tmp_path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        "[qpu.vlq]\nbackend = 'aer'\nslurm = { gres = 'qpu:1', partition = 'quantum' }\n"
    )
    settings = load_site(file).qpu("vlq")
    assert qpu_job_wait_s(settings, tmp_path) == (0.0, [])
    submit("--partition=quantum", "--gres=qpu:1", "--time=10")
    wait_s, notes = qpu_job_wait_s(settings, tmp_path)
    assert 600 - _ABOUT_S < wait_s <= 600 + _ABOUT_S
    assert any("sbatch --test-only" in note for note in notes)
