"""Flows as models of what ran, and the recommendation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.couplings.models import (
    ClusterModel,
    CouplingPrediction,
    FlowModel,
    QpuModel,
    quantum_after_s,
)
from orchestrator.couplings.prediction import predict
from orchestrator.couplings.replay import ObservedStage, recommend, stage_models

# Two scans side by side, then a quantum stage, then one more.
RAN = [
    ObservedStage(name="scan", kind="classical", ready_s=0, ended_s=10, seconds=10.0),
    ObservedStage(name="scan", kind="classical", ready_s=0, ended_s=12, seconds=12.0),
    ObservedStage(name="solve", kind="quantum", ready_s=12, ended_s=20, seconds=8.0, qpu_seconds=5),
    ObservedStage(name="judge", kind="classical", ready_s=20, ended_s=25, seconds=5.0),
]


def test_a_stage_waits_for_those_that_had_ended() -> None:
    assert [stage.after for stage in stage_models(RAN)] == [(), (), ("0", "1"), ("2",)]


def test_a_replay_takes_the_time_that_was_observed() -> None:
    flow = FlowModel(name="f", stages=stage_models(RAN), nodes_max=2)
    assert predict([flow], ClusterModel(nodes=2), QpuModel(), "multiplexed").makespan_s == 25


def test_the_work_before_a_quantum_stage_is_its_longest_way() -> None:
    flow = FlowModel(name="f", stages=stage_models(RAN), nodes_max=2)
    assert quantum_after_s(flow) == 12
    after = FlowModel(name="f", stages=stage_models(RAN[3:]), nodes_max=2)
    assert quantum_after_s(after) is None


def test_given_times_replace_those_that_were_observed() -> None:
    models = stage_models(RAN, {"scan": {1: 40.0, 2: 30.0}, "solve": 100.0})
    assert [stage.seconds_on(1) for stage in models] == [40, 40, 100, 5]
    assert models[2].on_qpu_s == 100


def test_given_times_that_grow_with_nodes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="scan"):
        stage_models(RAN, {"scan": {1: 30.0, 2: 40.0}})


def prediction(coupling: str, makespan_s: float, node_seconds: float) -> CouplingPrediction:
    return CouplingPrediction(
        coupling=coupling,
        makespan_s=makespan_s,
        node_seconds=node_seconds,
        qpu_held_s=1.0,
        qpu_used_s=1.0,
        ended_at_s={},
    )


def test_the_recommendation_follows_the_preference() -> None:
    found = {
        one.coupling: one
        for one in (
            prediction("exclusive", 100, 300),
            prediction("split", 90, 100),
            prediction("malleable", 60, 160),
        )
    }
    assert recommend(found, "nodes") == "split"
    assert recommend(found, "time") == "malleable"
    assert recommend(found) == "split"


def test_a_qpu_that_is_held_idle_counts_as_a_node() -> None:
    found = {
        "exclusive": replace(prediction("exclusive", 40, 40), qpu_held_s=40.0),
        "split": replace(prediction("split", 50, 36), qpu_held_s=5.0),
    }
    assert 40 * 40 < 50 * 36  # without the QPU
    assert recommend(found) == "split"
    assert recommend(found, "nodes") == "split"
    of_job = {name: replace(one, qpu_node_s=one.qpu_held_s) for name, one in found.items()}
    of_job["exclusive"] = replace(of_job["exclusive"], node_seconds=30.0)
    assert recommend(of_job, "nodes") == "split"  # 36 + 5 in all, against 30 + 40


def test_a_time_is_preferred_by_what_slurms_accounting_will_have() -> None:
    found = {
        "split": replace(prediction("split", 50, 36), slurm_s=46.0),
        "malleable": replace(prediction("malleable", 48, 72), slurm_s=53.0),
    }
    assert recommend(found, "time") == "split"


def test_of_equal_couplings_the_one_with_the_fewest_jobs_is_taken() -> None:
    one = prediction("split", 100, 100)
    alike = {
        "split": one,
        "gated": replace(one, coupling="gated", makespan_s=100.5),
        "multiplexed": replace(one, coupling="multiplexed", makespan_s=100.9),
    }
    assert recommend(alike) == "multiplexed"


def seen(
    key: str, ready_s: float, ended_s: float, asked_s: float, after: tuple[str, ...] | None = ()
) -> ObservedStage:
    return ObservedStage(
        name=key,
        key=key,
        kind="classical",
        ready_s=ready_s,
        ended_s=ended_s,
        asked_s=asked_s,
        after=after,
        seconds=ended_s - ready_s,
    )


def test_branches_that_were_submitted_together_do_not_wait_for_each_other() -> None:
    ran = [
        seen("a", 0, 10, 0),
        seen("b", 0, 20, 0),
        seen("c", 10.5, 15, 0.1, ("a",)),
        seen("d", 20, 25, 0.1, ("b",)),  # a and c had ended, but it takes nothing of them
        seen("e", 26, 30, 25, ("c",)),  # the flow had waited for d
    ]
    models = stage_models(ran)
    assert [stage.after for stage in models] == [(), (), ("0",), ("1",), ("2", "3")]
    assert [stage.delay_s for stage in models] == pytest.approx([0, 0, 0.5, 0, 1])


def test_a_stage_that_takes_an_unknown_result_waits_for_all_that_had_ended() -> None:
    ran = [seen("a", 0, 10, 0), seen("b", 0, 20, 0), seen("c", 20, 30, 0, None)]
    assert stage_models(ran)[2].after == ("0", "1")


def test_what_the_flow_takes_to_receive_a_result_is_no_work_of_the_worker() -> None:
    ran = [
        replace(seen("a", 0, 10, 0), result_s=3.0, seconds=7.0),
        seen("b", 11, 20, 0, ("a",)),
    ]
    first, second = stage_models(ran)
    assert (first.result_s, second.result_s) == (3, 0)
    assert second.delay_s == 1
    flow = FlowModel(name="f", stages=(first, second))
    assert predict([flow], ClusterModel(nodes=1), QpuModel(), "multiplexed").makespan_s == 20
