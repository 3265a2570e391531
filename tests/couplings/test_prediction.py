"""The couplings under a virtual clock: the published experiment, and what holds for any flow."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.published_experiment import PUBLISHED, Phases, model
from orchestrator.couplings.models import (
    ClusterModel,
    CouplingPrediction,
    FlowModel,
    QpuModel,
    StageModel,
    quantum_after_s,
)
from orchestrator.couplings.policies import COUPLINGS
from orchestrator.couplings.prediction import CouplingCannot, compare, predict

THREE_NODES = ClusterModel(nodes=3, start_s=0.75, boot_s=0.75)


def clustering(name: str, iterations: int = 4) -> FlowModel:
    """Return the published loop: clustering, independent set on the QPU, silhouette."""
    return model(name, Phases(), iterations=iterations)


@pytest.fixture(scope="module")
def published() -> dict[str, CouplingPrediction]:
    return compare([clustering("a"), clustering("b")], THREE_NODES, QpuModel(start_s=0.75))


@pytest.mark.parametrize("coupling", PUBLISHED)
def test_the_published_experiment_is_met(
    coupling: str, published: dict[str, CouplingPrediction]
) -> None:
    theirs = PUBLISHED[coupling]
    assert published[coupling].makespan_s == pytest.approx(theirs.makespan_s, rel=0.05)
    assert published[coupling].node_seconds == pytest.approx(theirs.node_seconds, rel=0.02)
    assert published[coupling].qpu_busy == pytest.approx(theirs.qpu_busy, abs=0.04)
    assert published[coupling].qpu_used_s == pytest.approx(8 * 120)


def test_the_published_savings_are_reached(published: dict[str, CouplingPrediction]) -> None:
    base = published["exclusive"]
    for coupling, saved, shorter in (("split", 0.60, 0.62), ("malleable", 0.52, 0.57)):
        one = published[coupling]
        assert 1 - one.node_seconds / base.node_seconds >= saved
        assert one.makespan_s / base.makespan_s <= shorter


def test_a_stage_of_several_nodes_keeps_no_shared_node_in_malleable() -> None:
    stages = (StageModel(name="solve", kind="classical", seconds=100.0, nodes=2),)
    alone = FlowModel(name="a", stages=stages, nodes_min=0, nodes_max=3)
    found = predict([alone], ClusterModel(nodes=3), QpuModel(), "malleable")
    assert found.node_seconds == pytest.approx(200.0)


def test_exclusive_holds_the_qpu_for_all_its_time() -> None:
    alone = predict([clustering("a", 2)], THREE_NODES, QpuModel(), "exclusive")
    assert alone.qpu_held_s == pytest.approx(2 * (78 + 122.8 + 54) + 0.75)
    assert alone.node_seconds == pytest.approx(3 * alone.qpu_held_s)


def test_a_worker_is_retired_only_when_it_has_nothing_to_do() -> None:
    both = FlowModel(
        name="f",
        stages=(
            StageModel(name="short", kind="classical", seconds=10.0),
            StageModel(name="long", kind="classical", seconds=100.0),
        ),
        nodes_max=2,
    )
    found = predict([both], ClusterModel(nodes=2), QpuModel(), "malleable")
    assert (found.makespan_s, found.node_seconds) == (100.0, 110.0)


def test_stages_share_a_node_that_has_room_for_them() -> None:
    stages = tuple(StageModel(name=str(n), kind="classical", seconds=10.0) for n in range(8))
    flow = FlowModel(name="f", stages=stages, nodes_max=1, stages_per_node=4)
    found = predict([flow], ClusterModel(nodes=1), QpuModel(), "multiplexed")
    assert found.makespan_s == pytest.approx(20.0)


def test_a_stage_speeds_up_when_nodes_join_it() -> None:
    stage = StageModel(name="C", kind="classical", seconds={1: 100.0, 2: 50.0}, nodes_max=2)
    flow = FlowModel(name="f", stages=(stage,), nodes_max=2)
    cluster = ClusterModel(nodes=2, busy=((60.0, 1),))
    found = predict([flow], cluster, QpuModel(), "multiplexed")
    assert found.makespan_s == pytest.approx(80.0)  # 60 s alone leave 40 of 100, halved by two
    assert found.node_seconds == pytest.approx(100.0)


def test_gated_jobs_start_when_the_qpu_will_be_free() -> None:
    flow = clustering("a", 1)
    gated = predict([flow], ClusterModel(nodes=3), QpuModel(ahead_s=500.0), "gated")
    first = next(o for o in gated.occupations if o.what == "nodes")
    assert first.start_s == pytest.approx(500.0 - 78.0)
    kept = predict([flow], ClusterModel(nodes=3), QpuModel(ahead_s=500.0), "multiplexed")
    assert gated.node_seconds < kept.node_seconds - 3 * 400
    assert gated.makespan_s == pytest.approx(kept.makespan_s, abs=5)


def test_a_job_holds_the_qpu_for_all_of_a_quantum_stage() -> None:
    flow = clustering("a", 2)
    cluster = ClusterModel(nodes=3)
    for coupling in ("split", "multiplexed", "malleable"):
        held = predict([flow], cluster, QpuModel(start_s=1.0, by_job=True), coupling)
        assert held.qpu_held_s == pytest.approx(2 * 122.8)
        assert held.makespan_s == pytest.approx(2 * (78 + 1 + 122.8 + 54), abs=8)
    assert predict([flow], cluster, QpuModel(), "malleable").qpu_held_s == pytest.approx(240)


def test_a_new_job_waits_behind_those_of_others_in_each_stage_when_split() -> None:
    flow = clustering("a", 2)
    waiting = ClusterModel(nodes=3, wait_s=60.0)
    split = predict([flow], waiting, QpuModel(), "split")
    kept = predict([flow], waiting, QpuModel(), "multiplexed")
    assert split.makespan_s - kept.makespan_s == pytest.approx(3 * 60.0)


def test_what_the_cluster_does_not_have_is_refused() -> None:
    flow = clustering("a")
    with pytest.raises(CouplingCannot):
        predict([flow], ClusterModel(nodes=2), QpuModel(), "exclusive")
    assert "exclusive" not in compare([flow], ClusterModel(nodes=2), QpuModel())
    wide = FlowModel(
        name="f",
        stages=(StageModel(name="w", kind="classical", seconds=1.0, nodes=2),),
        nodes_max=2,
    )
    with pytest.raises(CouplingCannot):
        predict([wide], ClusterModel(nodes=1), QpuModel(), "split")


@pytest.mark.parametrize("coupling", ["multiplexed", "malleable", "gated"])
def test_shared_workers_give_way_to_an_allocation_that_waits_for_their_nodes(coupling) -> None:
    stages = [StageModel(name="0", kind="classical", seconds=10.0)]
    for n, nodes in enumerate((2, 2, 1), start=1):
        stages.append(
            StageModel(
                name=str(n), kind="classical", seconds=10.0, nodes=nodes, after=(str(n - 1),)
            )
        )
    flow = FlowModel(name="f", stages=tuple(stages), nodes_min=2, nodes_max=2)
    made = predict([flow], ClusterModel(nodes=2), QpuModel(tells_queue=False), coupling)
    shared = [one for one in made.occupations if one.what == "nodes" and one.name == "shared"]
    assert sorted((one.start_s, one.end_s) for one in shared) == [(0, 10)] * 2 + [(30, 40)] * 2
    assert made.makespan_s == pytest.approx(40.0)
    roomy = predict([flow], ClusterModel(nodes=4), QpuModel(tells_queue=False), coupling)
    assert roomy.node_seconds == pytest.approx(made.node_seconds + 2 * 20)


@pytest.mark.parametrize("coupling", ["multiplexed", "malleable", "gated"])
def test_shared_workers_that_a_stage_uses_do_not_give_way(coupling) -> None:
    stages = (
        StageModel(name="narrow", kind="classical", seconds=10.0),
        StageModel(name="wide", kind="classical", seconds=5.0, nodes=2),
    )
    flow = FlowModel(name="f", stages=stages, nodes_min=2, nodes_max=2)
    made = predict([flow], ClusterModel(nodes=2), QpuModel(tells_queue=False), coupling)
    assert made.makespan_s == pytest.approx(15.0)


@pytest.mark.parametrize("coupling", ["multiplexed", "malleable", "gated"])
@pytest.mark.parametrize("alone", [{"nodes": 2}, {"alone": True}])
def test_where_no_stage_shares_workers_none_are_submitted(coupling, alone) -> None:
    wide = StageModel(name="w", kind="classical", seconds=10.0, **alone)
    solve = StageModel(name="s", kind="quantum", seconds=5.0, after=("w",))
    flow = FlowModel(name="f", stages=(wide, solve), nodes_min=1, nodes_max=2)
    cluster = ClusterModel(nodes=4)
    assert predict([flow], cluster, QpuModel(), coupling).node_seconds == 10 * wide.nodes
    declared = predict([replace(flow, declared=(False, True))], cluster, QpuModel(), coupling)
    shared = 1 if coupling == "malleable" else 2
    assert declared.node_seconds == 10 * wide.nodes + 15 * shared


def test_shared_workers_that_the_module_does_not_declare_start_with_the_first_stage() -> None:
    stage = StageModel(name="a", kind="classical", seconds=10.0, delay_s=7.0)
    flow = FlowModel(name="f", stages=(stage,))
    early = predict([flow], ClusterModel(nodes=1), QpuModel(), "multiplexed")
    late = predict([replace(flow, declared=())], ClusterModel(nodes=1), QpuModel(), "multiplexed")
    assert (early.node_seconds, late.node_seconds) == (17, 10)


def test_a_stage_with_a_gpu_has_an_allocation_beside_an_exclusive_job() -> None:
    alone = StageModel(name="g", kind="classical", seconds=10.0, alone=True)
    flow = FlowModel(name="f", stages=(alone,), nodes_max=2)
    found = predict([flow], ClusterModel(nodes=3), QpuModel(), "exclusive")
    assert found.node_seconds == 10 * (2 + 1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: StageModel(name="s", kind="classical", seconds=-1.0),
        lambda: StageModel(name="s", kind="classical", seconds={}),
        lambda: StageModel(name="s", kind="classical", seconds=math.inf),
        lambda: StageModel(name="s", kind="classical", seconds={2: 10.0, 3: 100.0}, nodes_max=3),
        lambda: StageModel(name="s", kind="classical", seconds=1.0, nodes=3, nodes_max=2),
        lambda: StageModel(name="s", kind="quantum", seconds=1.0, qpu_seconds=2.0),
        lambda: FlowModel(
            name="f",
            stages=(StageModel(name="s", kind="classical", seconds=1.0, after=("t",)),),
        ),
    ],
)
def test_models_that_cannot_be_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"expected|precede"):
        wrong()  # type: ignore[operator]


@given(
    st.dictionaries(st.integers(1, 9), st.floats(0, 1e3), min_size=1, max_size=4),
    st.integers(1, 12),
)
def test_no_node_takes_time_and_none_makes_more_than_its_part(
    times: dict[int, float], nodes: int
) -> None:
    falling = dict(zip(sorted(times), sorted(times.values(), reverse=True), strict=True))
    stage = StageModel(name="s", kind="classical", seconds=falling, nodes_max=12)
    fewest = min(falling)
    assert 0 <= stage.seconds_on(nodes + 1) <= stage.seconds_on(nodes) + 1e-9
    if nodes < fewest:
        assert stage.seconds_on(nodes) <= falling[fewest] * fewest / nodes + 1e-9


@st.composite
def flow_models(draw: st.DrawFn, name: str = "f") -> FlowModel:
    stages: list[StageModel] = []
    for n in range(draw(st.integers(1, 7))):
        kind: Literal["classical", "quantum"] = draw(st.sampled_from(("classical", "quantum")))
        nodes = draw(st.integers(1, 3)) if kind == "classical" else 1
        most = draw(st.integers(nodes, 4)) if kind == "classical" else 1
        seconds = draw(st.floats(0, 100))
        before = draw(st.sets(st.sampled_from([s.name for s in stages]))) if stages else set()
        times = {k: seconds / k for k in range(1, most + 1)} if kind == "classical" else seconds
        stages.append(
            StageModel(
                name=str(n),
                kind=kind,
                seconds=times,
                nodes=nodes,
                nodes_max=most,
                after=tuple(sorted(before)),
            )
        )
    nodes_max = draw(st.integers(3, 4))
    return FlowModel(
        name=name,
        stages=tuple(stages),
        nodes_min=draw(st.integers(0, nodes_max)),
        nodes_max=nodes_max,
        stages_per_node=draw(st.integers(1, 3)),
        begins_at_s=draw(st.floats(0, 50)),
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(flow_models(), min_size=1, max_size=3),
    st.sampled_from(sorted(COUPLINGS)),
    st.floats(0, 5),
    st.floats(0, 100),
)
def test_nodes_and_qpu_are_never_given_twice(
    flows: list[FlowModel], coupling: str, latency_s: float, ahead_s: float
) -> None:
    named = [
        FlowModel(
            name=f"f{n}",
            stages=flow.stages,
            nodes_min=0,
            nodes_max=flow.nodes_max,
            stages_per_node=flow.stages_per_node,
            begins_at_s=flow.begins_at_s,
        )
        for n, flow in enumerate(flows)
    ]
    cluster = ClusterModel(nodes=25, start_s=latency_s, boot_s=latency_s)
    found = predict(named, cluster, QpuModel(ahead_s=ahead_s), coupling)

    def at_once(what: str, moment_s: float) -> int:
        return sum(
            max(one.nodes, 1)
            for one in found.occupations
            if one.what == what and one.start_s + 1e-6 < moment_s < one.end_s - 1e-6
        )

    borders = sorted({b for one in found.occupations for b in (one.start_s, one.end_s)})
    for a, b in pairwise(borders):
        assert at_once("nodes", (a + b) / 2) <= 25
        assert at_once("qpu", (a + b) / 2) <= 1
    stages = sum(len(flow.stages) for flow in named)
    assert sum(o.what in ("classical", "quantum") for o in found.occupations) == stages
    used = sum(s.on_qpu_s for flow in named for s in flow.stages if s.kind == "quantum")
    assert found.qpu_used_s == pytest.approx(used)
    assert found.qpu_held_s >= used - 1e-6
    nodes = [one for one in found.occupations if one.what == "nodes"]
    assert found.node_seconds == pytest.approx(sum(o.nodes * (o.end_s - o.start_s) for o in nodes))


@settings(max_examples=60, deadline=None)
@given(flow_models(), st.sampled_from(sorted(COUPLINGS)))
def test_no_prediction_is_shorter_than_the_longest_path(flow: FlowModel, coupling: str) -> None:
    found = predict([flow], ClusterModel(nodes=8), QpuModel(), coupling)
    until: dict[str, float] = {}
    for stage in flow.stages:
        before = max((until[name] for name in stage.after), default=0.0)
        until[stage.name] = before + stage.seconds_on(8)
    assert found.makespan_s >= max(until.values()) - 1e-6


def branches(count: int, *, tasks: int = 1) -> FlowModel:
    """Return quantum stages side by side, each of 4 s, of which the QPU works 1."""
    stages = tuple(
        StageModel(name=str(n), kind="quantum", seconds=4.0, qpu_seconds=1.0, tasks=tasks)
        for n in range(count)
    )
    return FlowModel(name="f", stages=stages)


def test_quantum_stages_of_a_run_share_the_job_that_holds_the_qpu() -> None:
    one_by_one = predict([branches(5)], ClusterModel(nodes=1), QpuModel(start_s=1.0), "split")
    assert one_by_one.makespan_s == pytest.approx(1 + 5 * 3 + 5 * 1)  # of one flow's process
    assert one_by_one.qpu_held_s == pytest.approx(5 * 3 + 5 * 1)
    at_once = QpuModel(start_s=1.0, tasks_at_once=None)
    together = predict([branches(5)], ClusterModel(nodes=1), at_once, "split")
    assert together.makespan_s == pytest.approx(1 + 5 * 4)  # a simulator on the flow's machine
    assert (together.qpu_held_s, together.qpu_used_s) == pytest.approx((20, 5))


@pytest.mark.parametrize("by_job", [True, False])
def test_tasks_of_a_stage_leave_the_qpu_to_others_between_them(by_job: bool) -> None:
    qpu = QpuModel(by_job=by_job)
    found = predict([branches(3, tasks=3)], ClusterModel(nodes=1), qpu, "multiplexed")
    assert 3 * 3 + 1 / 3 <= found.makespan_s < 3 * 3 + 3 - 1
    assert found.qpu_used_s == pytest.approx(3)
    assert found.qpu_held_s == pytest.approx(found.makespan_s if by_job else 3)


@pytest.mark.parametrize("coupling", ["multiplexed", "malleable", "split"])
def test_the_first_stage_of_each_worker_takes_longer(coupling: str) -> None:
    cluster = ClusterModel(nodes=2)
    wide = fan(6, 10.0)
    cold = replace(wide, stages=tuple(replace(stage, cold_s=4.0) for stage in wide.stages))
    found = predict([cold], cluster, QpuModel(), coupling)
    assert found.makespan_s == pytest.approx(4 + 3 * 10)
    apart = (
        StageModel(name="a", kind="classical", seconds=0.0, cold_s=4.0),
        StageModel(name="b", kind="classical", seconds=1.0, after=("a",), cold_s=3.0),
    )
    chain = predict([FlowModel(name="f", stages=apart, nodes_max=2)], cluster, QpuModel(), coupling)
    assert chain.makespan_s == pytest.approx(4 + 1 + (3 if coupling == "split" else 0))


@pytest.mark.parametrize("coupling", ["multiplexed", "exclusive"])
def test_the_first_stage_on_several_nodes_warms_all_of_them(coupling: str) -> None:
    stages = tuple(
        StageModel(
            name=name,
            kind="classical",
            seconds=10.0,
            nodes_max=2,
            cold_s=4.0,
            after=after,
        )
        for name, after in (("a", ()), ("b", ("a",)))
    )
    flow = FlowModel(name="f", stages=stages, nodes_max=2)
    found = predict([flow], ClusterModel(nodes=2), QpuModel(), coupling)
    assert found.makespan_s == pytest.approx(10 + 4 + 10)


def test_a_worker_goes_on_while_the_flow_receives_a_result_and_an_own_allocation_waits() -> None:
    stages = tuple(
        StageModel(name=name, kind="classical", seconds=10.0, result_s=3.0) for name in ("a", "b")
    )
    flow = FlowModel(name="f", stages=stages)
    kept = predict([flow], ClusterModel(nodes=1), QpuModel(), "multiplexed")
    assert (kept.makespan_s, kept.node_seconds) == pytest.approx((10 + 10 + 3, 10 + 10 + 3))
    split = predict([flow], ClusterModel(nodes=1), QpuModel(), "split")
    assert (split.makespan_s, split.node_seconds) == pytest.approx((26, 26))
    assert quantum_after_s(flow) is None
    after = StageModel(name="c", kind="quantum", seconds=1.0, after=("a",), delay_s=2.0)
    assert quantum_after_s(FlowModel(name="f", stages=(*stages, after))) == 10 + 3 + 2


def test_results_that_arrive_together_share_the_flows_process() -> None:
    stages = tuple(
        StageModel(name=name, kind="classical", seconds=10.0, result_s=result_s)
        for name, result_s in (("a", 2.0), ("b", 5.0))
    )
    flow = FlowModel(name="f", stages=stages, nodes_max=2)
    found = predict([flow], ClusterModel(nodes=2), QpuModel(), "split")
    # The first result is there after 4 s, and 2 of the other one's 5 s are done by then.
    assert (found.makespan_s, found.node_seconds) == pytest.approx((17, 14 + 17))


def test_a_worker_that_is_retired_keeps_its_node_a_little_longer() -> None:
    stages = (
        StageModel(name="a", kind="classical", seconds=10.0),
        StageModel(name="b", kind="quantum", seconds=10.0, after=("a",)),
    )
    flow = FlowModel(name="f", stages=stages)
    cluster = ClusterModel(nodes=1, end_s=1.0, retire_s=2.0)
    assert predict([flow], cluster, QpuModel(), "malleable").node_seconds == pytest.approx(13)
    assert predict([flow], cluster, QpuModel(), "multiplexed").node_seconds == pytest.approx(21)


def test_without_a_queue_to_look_at_a_gate_is_open() -> None:
    flow = FlowModel(
        name="f", stages=(StageModel(name="a", kind="classical", seconds=10.0, delay_s=4.0),)
    )
    shut = predict([flow], ClusterModel(nodes=1), QpuModel(ahead_s=5.0), "gated")
    assert shut.node_seconds == pytest.approx(10)  # its job starts with the first stage
    blind = predict([flow], ClusterModel(nodes=1), QpuModel(tells_queue=False), "gated")
    assert blind.node_seconds == pytest.approx(4 + 10)


def test_slurm_sees_a_run_from_its_first_submission_to_the_end_of_its_last_job() -> None:
    stages = (
        StageModel(name="a", kind="classical", seconds=10.0, delay_s=4.0),
        StageModel(name="b", kind="quantum", seconds=5.0, after=("a",)),
        StageModel(name="c", kind="classical", seconds=10.0, after=("b",)),
    )
    cluster = ClusterModel(nodes=2, start_s=1.0, end_s=2.0)
    flow = FlowModel(name="f", stages=stages)
    split = predict([flow], cluster, QpuModel(start_s=1.0), "split")
    assert split.slurm_s == pytest.approx(split.makespan_s - 4 + 2)
    kept = predict([flow], cluster, QpuModel(start_s=1.0), "multiplexed")
    assert kept.slurm_s == pytest.approx(kept.makespan_s + 2)


def test_a_run_gives_the_qpu_back_between_its_quantum_stages() -> None:
    stages = [StageModel(name="a", kind="quantum", seconds=10.0)]
    stages.append(StageModel(name="b", kind="quantum", seconds=10.0, after=("a",), delay_s=5.0))
    flows = [FlowModel(name=n, stages=tuple(stages)) for n in ("f", "g")]
    found = predict(flows, ClusterModel(nodes=1), QpuModel(by_job=True), "multiplexed")
    held = [(o.flow, o.start_s) for o in found.occupations if o.what == "qpu"]
    assert held == [("f", 0.0), ("g", 10.0), ("f", 20.0), ("g", 30.0)]


def fan(count: int, seconds: float) -> FlowModel:
    """Return classical stages side by side, on at most two nodes."""
    stages = tuple(StageModel(name=str(n), kind="classical", seconds=seconds) for n in range(count))
    return FlowModel(name="f", stages=stages, nodes_max=2)


def test_allocations_of_split_stages_are_handed_on_and_are_no_more_than_nodes_max() -> None:
    cluster = ClusterModel(nodes=8, start_s=1.0, boot_s=2.0, end_s=1.0)
    found = predict([fan(6, 10.0)], cluster, QpuModel(), "split")
    assert found.makespan_s == pytest.approx(1 + 2 + 3 * 10)
    nodes = [one for one in found.occupations if one.what == "nodes"]
    assert [one.nodes for one in nodes] == [1, 1]
    assert found.node_seconds == pytest.approx(2 * (2 + 3 * 10 + 1))


def test_a_flow_takes_time_itself_before_and_between_its_stages() -> None:
    stages = (
        StageModel(name="a", kind="classical", seconds=10.0, delay_s=4.0),
        StageModel(name="b", kind="classical", seconds=10.0, delay_s=3.0, after=("a",)),
    )
    flow = FlowModel(name="f", stages=stages)
    cluster = ClusterModel(nodes=1, start_s=1.0, boot_s=2.0)
    kept = predict([flow], cluster, QpuModel(), "malleable")
    assert kept.makespan_s == pytest.approx(4 + 3 + 10 + 3 + 10)  # the node stays between them
    held = predict([flow], cluster, QpuModel(), "multiplexed")
    assert held.makespan_s == pytest.approx(4 + 10 + 3 + 10)  # its node is ready after 3 s
    split = predict([flow], cluster, QpuModel(), "split")
    assert split.makespan_s == pytest.approx(4 + 3 + 10 + 3 + 3 + 10)
