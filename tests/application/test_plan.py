"""Times of stages as texts, and what cannot be planned."""

from __future__ import annotations

from pathlib import Path

import pytest

import hpcqc
from orchestrator.application.plan import observed_stages, stage_times
from orchestrator.compute.api import Demand
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.provenance.schema import RunRecord
from orchestrator.slurm.options import WorkerOptions
from orchestrator.stages import StageNeeds
from tests.application.ran import job, record, slurm_job, slurm_use, stage


@pytest.mark.parametrize("text", ["C", "C=", "C=x", "=3", "C=1.2.3", "C=-1", "C=3@0", "C=3@x"])
def test_a_time_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--time"):
        stage_times([text])


def test_a_later_time_replaces_an_earlier_one() -> None:
    assert stage_times(["C=1", "C=3@2", "C=2@4"]) == {"C": {2: 3.0, 4: 2.0}}
    assert stage_times(["C=2@2", "C=1"]) == {"C": 1.0}


def test_times_that_grow_with_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match="100"):
        stage_times(["C=10@2", "C=100@3"])


def test_without_slurm_there_is_nothing_to_choose(tmp_path) -> None:
    site = tmp_path / "site.toml"
    site.write_text("[qpu.aer]\nbackend = 'aer'\n")
    with pytest.raises(ConfigError, match="slurm"):
        hpcqc.plan("flows.maxcut", site=site)


def test_calls_of_units_and_of_a_qpu_opened_inside_count_for_their_stage(tmp_path) -> None:
    site = load_site(environ={"HOME": str(tmp_path)})
    jobs = tuple(
        job(key, seconds)
        for key, seconds in (
            ("solve-0", 1.0),
            ("solve-0@other", 2.0),
            ("solve-0~u-0", 4.0),
            ("solve-0~u-1~v-0@other", 8.0),
            ("solve-01", 99.0),
        )
    )
    ran = record(site, [stage("solve", "quantum", 0, 20)], jobs=jobs)
    (seen,), _ = observed_stages(ran, {}, WorkerOptions(), "a run")
    assert seen.qpu_seconds == 15.0
    assert seen.seconds == 20.0


def greedy_s(units: int, workers: int) -> float:
    """Return when units of 10 s are done where a free worker takes the next one."""
    free_at = [0.0] * workers
    for _ in range(units):
        free_at.sort()
        free_at[0] += 10.0
    return max(free_at)


def scan(ran_on: tuple[int, int], units: int, kind: str, tmp_path: Path) -> RunRecord:
    """Return a run with a fan-out that ran on so many nodes with so many processes each."""
    nodes, processes = ran_on
    file = tmp_path / "site.toml"
    file.write_text(
        f"[compute.c]\nkind = 'slurm'\n[compute.c.options]\ncores = {processes}\nnodes_max = 9\n"
        "[qpu.aer]\nbackend = 'aer'\n"
    )
    took_s = greedy_s(units, nodes * processes)
    jobs = [
        slurm_job(17, kind, nodes if kind == "stage" else 1, 0, took_s + 50),
        slurm_job(18, kind, 7, took_s + 20, took_s + 30),
        slurm_job(19, "qpu", 5, 0, took_s + 30),
    ]
    if kind == "worker":
        jobs += [slurm_job(n, kind, 1, 0, took_s + 50) for n in range(100, 99 + nodes)]
    ran = stage("scan", "classical", 0, took_s, units=(units, units), where="c", slurm_job=17)
    held = slurm_use(jobs)
    return record(load_site(file), [ran], slurm=held)


@pytest.mark.parametrize("kind", ["worker", "stage"])
@pytest.mark.parametrize("ran_on", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("units", [1, 6, 13])
def test_a_fan_out_takes_what_its_units_take_on_each_number_of_nodes(
    tmp_path, ran_on, units, kind
) -> None:
    needs = {"scan": StageNeeds(kind="classical", demand=Demand(nodes_max=4))}
    ran = scan(ran_on, units, kind, tmp_path)
    (seen,), notes = observed_stages(ran, needs, WorkerOptions(cores=2), "a run")
    assert seen.seconds == {
        nodes: pytest.approx(greedy_s(units, 2 * nodes)) for nodes in range(1, 5)
    }
    assert notes == []


def test_without_slurms_answer_a_fan_outs_time_stays_and_a_note_says_so(tmp_path) -> None:
    needs = {"scan": StageNeeds(kind="classical", demand=Demand(nodes_max=4))}
    ran = scan((2, 2), 8, "worker", tmp_path).model_copy(update={"slurm": None})
    (seen,), notes = observed_stages(ran, needs, WorkerOptions(cores=2), "a run")
    assert seen.seconds == 20.0
    assert len(notes) == 1


def test_a_fan_out_of_a_dry_run_had_the_cores_of_this_machine(tmp_path) -> None:
    site = load_site(environ={"HOME": str(tmp_path)})
    ran = stage("scan", "classical", 0, 20, units=(8, 8), where=site.default_compute)
    machine = {"cores": 4}
    needs = {"scan": StageNeeds(kind="classical", demand=Demand(nodes_max=2))}
    made = record(site, [ran], machine=machine)
    (seen,), _ = observed_stages(made, needs, WorkerOptions(cores=1), "a dry run")
    assert seen.seconds == {1: 80.0, 2: 40.0}
