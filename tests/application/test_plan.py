"""Times of stages as texts, and what cannot be planned."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect import flow

import hpcqc
from orchestrator.application import plan as plan_module
from orchestrator.application import run as run_module
from orchestrator.application.couplings import gate_of
from orchestrator.application.execution import RunPlan
from orchestrator.application.node_wait import cluster_model
from orchestrator.application.observed import JobLatencies, job_latencies, observed_stages
from orchestrator.application.plan import reason_of, stage_times
from orchestrator.application.target import target_of
from orchestrator.application.wait import ExpectedWait
from orchestrator.compute.api import Demand
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from orchestrator.couplings.models import CouplingPrediction
from orchestrator.couplings.replay import Preference, recommend, stage_models
from orchestrator.provenance.folder import RunFolder
from orchestrator.provenance.markup import duration_text
from orchestrator.provenance.schema import (
    RecordedAttempt,
    RecordedCoupling,
    RecordedJob,
    RecordedStage,
    RecordedUsage,
    RunRecord,
    RunUsage,
)
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.errors import SlurmRefused, SlurmUnavailable
from orchestrator.slurm.inventory import Partition
from orchestrator.slurm.options import WorkerOptions
from orchestrator.slurm.outlook import Outlook, QueueEntry
from orchestrator.slurm.states import SlurmState
from orchestrator.stages import StageNeeds
from tests.application.ran import at_s, job, leave, record, slurm_job, slurm_use, stage


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
        on_qpu(key, begun_s, seconds)
        for key, begun_s, seconds in (
            ("solve-0", 0.0, 1.0),
            ("solve-0@other", 3.0, 2.0),
            ("solve-0~u-0", 5.0, 4.0),
            ("solve-0~u-1~v-0@other", 12.0, 8.0),
            ("solve-01", 0.0, 99.0),
        )
    )
    ran = record(site, [stage("solve", "quantum", 0, 20)], jobs=jobs)
    (seen,), _ = observed_stages(ran, {}, WorkerOptions(), "a run")
    assert seen.qpu_seconds == 15.0
    assert seen.seconds == 20.0


def on_qpu(key: str, begun_s: float, seconds: float, waited_s: float = 0.0) -> RecordedJob:
    """Return a job of one task that waited for the QPU before."""
    return job(
        key,
        seconds,
        submitted_at=at_s(begun_s),
        started_at=at_s(begun_s + waited_s),
        ended_at=at_s(begun_s + waited_s + seconds),
    )


def test_overlapping_quantum_stages_share_the_time_of_the_flows_process(tmp_path) -> None:
    site = load_site(environ={"HOME": str(tmp_path)})
    stages = [
        stage("a", "quantum", 0, 20, ran_from=at_s(4), ran_until=at_s(20)),
        stage("b", "quantum", 0, 16, ran_from=at_s(4), ran_until=at_s(16)),
    ]
    jobs = (on_qpu("a-0", 10, 2, 1), on_qpu("b-0", 10, 1, 0))
    ran = record(site, stages, jobs=jobs)
    first, second = observed_stages(ran, {}, WorkerOptions(), "a run")[0]
    # 4 to 10 and 13 to 16 both work; from 11 to 13 only b does, from 16 to 20 only a.
    assert (first.seconds, second.seconds) == (4.5 + 4 + 2, 4.5 + 2 + 1)
    first, second = observed_stages(ran, {}, WorkerOptions(), "a run", by_simulator=True)[0]
    # The task of a waits from 10 to 11; else both work, or simulate, until 16.
    assert (first.seconds, second.seconds) == (5.5 + 4, 5.5 + 1)


def test_results_that_arrive_together_share_the_time_until_they_are_there(tmp_path) -> None:
    stages = [
        stage("scan", "classical", 0, ended_s, key=f"scan-{n}", ran_until=at_s(until_s))
        for n, (until_s, ended_s) in enumerate([(4, 10), (6, 10), (12, 13)])
    ]
    made = record(load_site(environ={"HOME": str(tmp_path)}), stages)
    seen, _ = observed_stages(made, {}, WorkerOptions(), "a run")
    assert [one.result_s for one in seen] == [2 + 2, 2, 1]


def test_a_stage_that_no_worker_can_run_has_an_allocation_of_its_own(tmp_path) -> None:
    made = record(
        load_site(environ={"HOME": str(tmp_path)}),
        [stage(name, "classical", 0, 1) for name in ("scan", "wide", "train")],
    )
    needs = {
        "wide": StageNeeds(kind="classical", demand=Demand(nodes=2)),
        "train": StageNeeds(kind="classical", demand=Demand(gpus=1)),
    }
    seen, _ = observed_stages(made, needs, WorkerOptions(), "a run")
    assert {one.name: (one.nodes, one.alone) for one in seen} == {
        "scan": (1, False),
        "wide": (2, False),  # but not in an exclusive job
        "train": (1, True),
    }


def test_the_first_stage_of_each_worker_counts_without_what_it_takes_more(tmp_path) -> None:
    def ran(name: str, worker: str, begun_s: float, seconds: float) -> RecordedStage:
        times = {"ran_from": at_s(begun_s), "ran_until": at_s(begun_s + seconds)}
        key = f"{name}-{worker}-{begun_s:g}"
        return stage(
            name,
            "classical",
            0,
            begun_s + seconds,
            worker=worker,
            worked_s=seconds,
            key=key,
            **times,
        )

    stages = [
        ran("scan", "w1", 1, 6),
        ran("scan", "w2", 1, 8),
        ran("scan", "w1", 7, 2),
        ran("scan", "w2", 9, 3),
        ran("rate", "w3", 9, 50),  # alone of its function
    ]
    made = record(load_site(environ={"HOME": str(tmp_path)}), stages)
    seen, _ = observed_stages(made, {}, WorkerOptions(), "a run")
    scans = [one for one in seen if one.name == "scan"]
    assert sorted(one.seconds for one in scans) == [2, 2, 3, 4]
    assert {one.cold_s for one in scans} == {(3 + 5) / 2}
    rate = next(one for one in seen if one.name == "rate")
    assert (rate.seconds, rate.cold_s) == (50, 0)


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


LAB = """
[compute.cluster]
kind = "slurm"
[compute.cluster.options]
nodes_max = 2
[qpu.aer]
backend = "aer"
"""


@flow
def wide_then_quantum() -> None:
    """Stand for the flow that a record is of; it never runs."""


def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: int, *, seconds: float) -> Path:
    """Return the file of a site with eight nodes where a run of two nodes was already."""
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "state"))
    file = tmp_path / "lab.toml"
    file.write_text(LAB)
    partition = Partition(
        name="batch",
        is_default=True,
        nodes=tuple(f"c{n}" for n in range(8)),
        node_count=8,
        idle_nodes=idle,
        cores_per_node=4,
    )
    monkeypatch.setattr(Slurm, "partitions", lambda _: {"batch": partition})
    monkeypatch.setattr(Slurm, "queue", lambda _: [])
    monkeypatch.setattr(Slurm, "expected_start", lambda *_: datetime.now(UTC))
    needs = StageNeeds(kind="classical", demand=Demand(nodes=2, nodes_max=2))
    monkeypatch.setattr(plan_module, "stages_beside", lambda _: {"wide": needs})
    made = record(
        load_site(file),
        [stage("wide", "classical", 0, seconds), stage("solve", "quantum", seconds, seconds + 20)],
        jobs=(job("solve-0", 20.0),),
        target=target_of(wide_then_quantum).text,
    )
    leave(load_site(file), file, made, tmp_path / "run")
    return file


def test_nodes_in_use_make_a_run_wait_and_nothing_impossible(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 1, seconds=100.0)
    made = hpcqc.plan(wide_then_quantum, site=file)
    assert made.source == "run r1"
    assert made.impossible == {}
    by_name = {one.coupling: one for one in made.couplings}
    # 600 s until the nodes are free, 3 s until workers are ready, 100 s and 20 s of work, the job of
    # the classical stage having been asked for long before.
    assert by_name["split"].makespan_s == pytest.approx(600 + 3 + 100 + 20)
    assert any("1 node of 8" in note and "600 s" in note for note in made.notes)


def test_idle_nodes_make_no_run_wait(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    by_name = {one.coupling: one for one in hpcqc.plan(wide_then_quantum, site=file).couplings}
    assert by_name["split"].makespan_s == pytest.approx(1 + 3 + 100 + 20)
    assert by_name["split"].node_seconds == pytest.approx(2 * (3 + 100 + 2))
    assert by_name["split"].cost == {"node-h": pytest.approx(210 / 3600, abs=1e-6), "EUR": 3.0}


def test_jobs_take_as_long_to_start_and_end_as_in_the_run(tmp_path) -> None:
    def ran(name: str, job: int, ready_s: float, from_s: float, until_s: float) -> RecordedStage:
        times = {"ran_from": at_s(from_s), "ran_until": at_s(until_s), "slurm_job": job}
        return stage(name, "classical", ready_s, until_s, **times)

    stages = [
        ran("a", 1, 0, 6.5, 10.5),
        ran("b", 1, 5, 10.5, 20.5),  # waited for the first, not for the job
        ran("c", 2, 0, 9.5, 12.0),
        ran("d", 3, 30, 30.1, 40.0),  # its job had started before
    ]
    jobs = [
        slurm_job(1, "stage", 1, 2, 22),
        slurm_job(2, "stage", 1, 3, 13),
        slurm_job(3, "worker", 1, 1, 43),
        slurm_job(4, "qpu", 1, 0, 90),
    ]
    site = load_site(environ={"HOME": str(tmp_path)})
    found = job_latencies(record(site, stages, slurm=slurm_use(jobs)))
    assert found.boot_s == pytest.approx((4.5 + 6.5) / 2 - 0.5)
    assert found.end_s == pytest.approx((1.5 + 1.0 + 3.0) / 3 + 0.5)
    assert job_latencies(record(site, stages)) == JobLatencies()


def test_the_time_between_attempts_is_no_work_of_the_flow(tmp_path) -> None:
    attempts = (
        RecordedAttempt(started_at=at_s(0), ended_at=at_s(12), status="interrupted"),
        RecordedAttempt(started_at=at_s(1000), ended_at=at_s(1030), status="completed"),
    )
    stages = [
        stage("a", "classical", 2, 10, asked_at=at_s(1), after=()),
        stage("b", "quantum", 1003, 1030, asked_at=at_s(1003), after=("a-0",)),
    ]
    site = load_site(environ={"HOME": str(tmp_path)})
    ran = record(
        site, stages, attempts=attempts, jobs=(on_qpu("b-0", 1005, 4), on_qpu("b-0", 1010, 5))
    )
    seen, _ = observed_stages(ran, {}, WorkerOptions(), "a run")
    first, second = stage_models(seen)
    assert (first.after, first.delay_s, second.after) == ((), 2.0, (first.name,))
    assert second.delay_s == pytest.approx((12 - 10) + (1003 - 1000))
    assert (second.tasks, second.on_qpu_s, second.seconds_on(1)) == (2, 9.0, 27.0)


def test_the_time_counts_from_the_first_worker_job(tmp_path) -> None:
    site = load_site(environ={"HOME": str(tmp_path)})
    stages = [stage("a", "classical", 9, 20)]
    early = slurm_job(1, "worker", 1, 4, 25).model_copy(update={"submitted_at": at_s(3)})
    late = slurm_job(2, "stage", 1, 10, 25).model_copy(update={"submitted_at": at_s(9)})
    for jobs, delay_s in (([early, late], 6), ([late], 9)):
        ran = record(site, stages, slurm=slurm_use(jobs))
        seen, _ = observed_stages(ran, {}, WorkerOptions(), "a run")
        assert stage_models(seen)[0].delay_s == delay_s


def test_a_plan_names_what_it_assumes_of_jobs(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    made = hpcqc.plan(wide_then_quantum, site=file)
    assert any("3.0 s" in note and "2.0 s" in note and "assumed" in note for note in made.notes)


def queue(*jobs: QueueEntry):
    return lambda _: list(jobs)


def on(node: str, seconds: float) -> QueueEntry:
    return QueueEntry(
        state=SlurmState.RUNNING,
        partitions=("batch",),
        nodes=(node,),
        cpus=4,
        ends_at=datetime.now(UTC) + timedelta(seconds=seconds),
    )


def ahead(seconds: float) -> QueueEntry:
    return QueueEntry(
        state=SlurmState.PENDING,
        partitions=("batch",),
        node_count=8,
        cpus=32,
        walltime=timedelta(seconds=seconds),
        priority=5,
        reason="Resources",
    )


def test_a_run_waits_for_walltimes_and_for_jobs_before_its_own(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 0, seconds=100.0)
    held = [on(f"c{n}", 300.0) for n in range(8)]
    later = datetime.now(UTC) + timedelta(seconds=300)
    monkeypatch.setattr(Slurm, "expected_start", lambda *_: later)
    monkeypatch.setattr(Slurm, "queue", queue(*held))
    busy = {one.coupling: one for one in hpcqc.plan(wide_then_quantum, site=file).couplings}
    assert busy["split"].makespan_s == pytest.approx(300 + 3 + 100 + 20, abs=5)
    monkeypatch.setattr(Slurm, "queue", queue(*held, ahead(1000.0)))
    made = hpcqc.plan(wide_then_quantum, site=file)
    split = next(one for one in made.couplings if one.coupling == "split")
    assert split.makespan_s == pytest.approx(300 + 1000 + 3 + 100 + 20, abs=5)
    assert any("1 job in batch" in note and "squeue" in note for note in made.notes)


def test_a_wait_that_is_given_replaces_what_slurm_expects(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    monkeypatch.setattr(Slurm, "queue", queue(ahead(1000.0)))
    monkeypatch.delattr(Slurm, "expected_start")
    made = hpcqc.plan(wide_then_quantum, site=file, wait_s=50.0)
    split = next(one for one in made.couplings if one.coupling == "split")
    assert split.makespan_s == pytest.approx(50 + 1 + 3 + 100 + 20)


def test_a_plan_is_made_without_what_slurm_does_not_say(tmp_path, monkeypatch) -> None:
    def away(*_: object) -> list[QueueEntry]:
        raise SlurmUnavailable("squeue did not answer")

    def refused(*_: object) -> datetime:
        raise SlurmRefused("no account 'x'", words="")

    file = lab(tmp_path, monkeypatch, 1, seconds=100.0)
    monkeypatch.setattr(Slurm, "queue", away)
    monkeypatch.setattr(Slurm, "expected_start", refused)
    made = hpcqc.plan(wide_then_quantum, site=file)
    split = next(one for one in made.couplings if one.coupling == "split")
    assert split.makespan_s == pytest.approx(600 + 3 + 100 + 20)
    for words in ("600 s", "squeue did not answer", "no account 'x'"):
        assert any(words in note for note in made.notes)


def test_no_node_has_room_before_slurm_expects_it(tmp_path) -> None:
    three = Partition(name="batch", node_count=3, idle_nodes=1)
    seen = Outlook(busy=((40.0, 1), (90.0, 1)), unknown=0, ahead=0, starts_in_s=0.0)
    later, _ = cluster_model(three, seen, starts_in_s=70.0)
    assert later.busy == ((70.0, 2), (90.0, 1))  # such as before a reservation
    none_idle = Partition(name="batch", node_count=2, idle_nodes=0)
    sooner, _ = cluster_model(none_idle, seen, starts_in_s=0.0)
    assert sooner.busy == ((90.0, 1),)  # such as by preemption
    assert (later.wait_s, sooner.wait_s) == (0.0, 0.0)


def test_charges_are_those_of_each_copy(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    made = hpcqc.plan(wide_then_quantum, site=file, copies=3)
    assert {one.cost["EUR"] for one in made.couplings} == {9.0}


def test_a_queue_that_is_not_known_is_noted(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    quiet = hpcqc.plan(wide_then_quantum, site=file)
    unknown = ExpectedWait(
        jobs_ahead=3, waiting_s=None, closed_until=None, closure=None, stopped=None
    )
    monkeypatch.setattr(plan_module, "expected_wait", lambda *_, **__: unknown)
    made = hpcqc.plan(wide_then_quantum, site=file)
    assert [note for note in made.notes if note not in quiet.notes] == [
        "how long QPU aer is busy is not known (3 jobs ahead); it counts as free now"
    ]


def test_cost_of_a_qpu_that_nothing_models_is_left_out(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    used = RecordedUsage(qpu_seconds=5.0, charges={"EUR": 7.0})
    monkeypatch.setattr(plan_module, "earlier_run", lambda *_, **__: None)
    for backend, cost in (("aer", {"EUR": 7.0}), ("not-here", {})):
        file.write_text(LAB.replace('backend = "aer"', f'backend = "{backend}"'))
        dry = record(
            load_site(file),
            [stage("solve", "quantum", 0, 20)],
            jobs=(job("solve-0", 5.0),),
            usage=RunUsage(total=used, per_qpu={"aer": used}),
        )
        monkeypatch.setattr(plan_module, "dry_record", lambda *_, dry=dry: dry)
        made = hpcqc.plan(wide_then_quantum, site=file)
        shown = [{k: v for k, v in one.cost.items() if k != "node-h"} for one in made.couplings]
        assert shown == [cost] * len(shown)
        assert any("without it" in note for note in made.notes) == (not cost)


def outcome(coupling: str, makespan_s: float, node_seconds: float) -> CouplingPrediction:
    return CouplingPrediction(
        coupling=coupling,
        makespan_s=makespan_s,
        node_seconds=node_seconds,
        qpu_held_s=0.0,
        qpu_used_s=0.0,
        ended_at_s={},
    )


def test_a_reason_claims_no_more_than_is_so() -> None:
    found = {
        "split": outcome("split", 100, 900),
        "multiplexed": outcome("multiplexed", 101, 990),
        "malleable": outcome("malleable", 300, 100),
    }
    assert recommend(found, "time") == "multiplexed"
    tied = reason_of(found, "multiplexed", "time")
    assert "within 1 %" in tied
    assert tied.endswith("against 1 min 40 s and 900 of split")
    apart = reason_of(found, "malleable", "nodes")  # split is next by node-seconds
    assert "has the fewest node-seconds" in apart
    assert apart.endswith("of split")


@pytest.mark.parametrize("prefer", ["balanced", "time", "nodes"])
def test_a_reason_has_the_figures_of_the_table(tmp_path, monkeypatch, prefer: Preference) -> None:
    made = hpcqc.plan(wide_then_quantum, site=granted(tmp_path, monkeypatch), prefer=prefer)
    by_name = {one.coupling: one for one in made.couplings}
    rival = made.reason.rpartition(" of ")[2]
    for one in (by_name[made.recommended], by_name[rival]):
        shown = [duration_text(one.makespan_s)]
        if prefer == "balanced":
            shown += [f"{one.node_seconds:.0f}", f"{one.qpu_held_s:.1f}"]
        else:
            shown += [f"{one.node_seconds + one.qpu_node_seconds:.0f}"]
        assert all(figure in made.reason for figure in shown), (shown, made.reason)


def granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access: str = 'gres = "qpu:1"'
) -> Path:
    """Return the file of a site whose QPU Slurm grants; by its GRES, on a node of its own."""
    monkeypatch.setattr(sys.modules[__name__], "LAB", f"{LAB}[qpu.aer.slurm]\n{access}\n")
    monkeypatch.setattr(plan_module, "qpu_job_wait_s", lambda *_: (0.0, []))
    return lab(tmp_path, monkeypatch, 8, seconds=100.0)


def test_the_node_of_the_qpus_job_counts_as_in_slurms_accounting(tmp_path, monkeypatch) -> None:
    made = hpcqc.plan(wide_then_quantum, site=granted(tmp_path, monkeypatch))
    for one in made.couplings:
        assert one.qpu_node_seconds == pytest.approx(one.qpu_held_s)
        in_all = one.node_seconds + one.qpu_node_seconds
        assert one.cost["node-h"] == pytest.approx(in_all / 3600, abs=1e-6)
    by_name = {one.coupling: one for one in made.couplings}
    # The exclusive job holds two nodes and the QPU's for as long, until it has ended.
    assert by_name["exclusive"].qpu_node_seconds == pytest.approx(
        by_name["exclusive"].node_seconds / 2
    )
    assert by_name["split"].qpu_node_seconds == pytest.approx(20)


def test_a_licence_of_an_exclusive_job_takes_no_node_more(tmp_path, monkeypatch) -> None:
    site = granted(tmp_path, monkeypatch, 'license = "qpu:1"')
    made = hpcqc.plan(wide_then_quantum, site=site)
    nodes = {one.coupling: one.qpu_node_seconds for one in made.couplings}
    assert nodes["exclusive"] == 0
    assert nodes["split"] == pytest.approx(20)


def test_a_stated_coupling_has_a_prediction_where_an_earlier_run_is_known(
    tmp_path, monkeypatch
) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    coupled = replace(earlier_plan(load_site(file), file, tmp_path), coupling="split")
    checked = run_module.CheckedRun(plan=coupled, flow=wide_then_quantum, parameters={})

    def recorded(before: RunRecord | None = None, **changes: object) -> RecordedCoupling | None:
        changed = replace(checked, parameters=changes)
        return run_module.with_prediction(coupled, changed, before).recorded_coupling

    planned = {one.coupling: one for one in hpcqc.plan(wide_then_quantum, site=file).couplings}
    found = recorded()
    assert found is not None
    assert (found.chosen, found.automatic) == ("split", False)
    assert {name: use.makespan_s for name, use in found.predicted.items()} == {
        name: one.makespan_s for name, one in planned.items()
    }
    assert found.predicted["split"].node_seconds == planned["split"].node_seconds
    assert recorded(n=1) == RecordedCoupling(chosen="split")  # no run had this parameter

    # What was predicted before the first attempt stays.
    first = found.model_copy(update={"predicted": {"split": found.predicted["gated"]}})
    before = record(load_site(file), [], coupling=first)
    assert recorded(before) == RecordedCoupling(chosen="split", predicted=first.predicted)

    def unavailable(_: Slurm) -> dict[str, Partition]:
        raise SlurmUnavailable("it does not answer")

    monkeypatch.setattr(Slurm, "partitions", unavailable)
    assert recorded() == RecordedCoupling(chosen="split")


def test_a_gate_opens_by_the_classical_work_of_an_earlier_run(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    site = load_site(file, ["broker.url=http://127.0.0.1:1"])
    found = earlier_plan(site, file, tmp_path)
    after_s = plan_module.classical_work_before(found, wide_then_quantum, {})
    assert after_s == pytest.approx(100.0)
    assert gate_of(site, "gated", after_s).quantum_after_s == after_s
    assert hpcqc.plan(wide_then_quantum, site=file).quantum_after_s == after_s
    auto = plan_module.automatic(run_module.RunRequest(flow=wide_then_quantum, site=file))
    assert auto.quantum_after_s == after_s
    assert plan_module.classical_work_before(found, wide_then_quantum, {"n": 1}) is None


def test_a_gated_run_knows_its_classical_work(tmp_path, monkeypatch) -> None:
    file = lab(tmp_path, monkeypatch, 8, seconds=100.0)
    site = load_site(file, ["broker.url=http://127.0.0.1:1"])
    found = earlier_plan(site, file, tmp_path)
    checked = run_module.CheckedRun(plan=found, flow=wide_then_quantum, parameters={})

    def known(coupling: str, auto_s: float | None = None) -> float | None:
        choice = RecordedCoupling(chosen=coupling, quantum_after_s=auto_s)
        coupled = replace(found, coupling=coupling, choice=choice)
        return run_module.with_gate(coupled, checked).quantum_after_s

    assert known("gated") == pytest.approx(100.0)
    assert known("gated", 7.0) == 7.0
    assert known("split") is None


def earlier_plan(site: Site, file: Path, tmp_path: Path) -> RunPlan:
    return RunPlan(
        id="r2",
        site=site,
        target=target_of(wide_then_quantum),
        folder=RunFolder(tmp_path / "r2"),
        qpu=None,
        budgets={},
        agent=None,
        scratch=None,
        site_file=file,
    )
