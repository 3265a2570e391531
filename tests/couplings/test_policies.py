"""What each coupling wants, for any situation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.couplings.policies import COUPLINGS, LONGEST_GATE_S, RunSituation, decide

SECONDS = st.none() | st.floats(0, 1e6)
NAMES = st.sampled_from(sorted(COUPLINGS))


@st.composite
def situations(draw: st.DrawFn) -> RunSituation:
    nodes_max = draw(st.integers(1, 50))
    return RunSituation(
        classical=draw(st.integers(0, 9)),
        quantum=draw(st.integers(0, 9)),
        useful_nodes=draw(st.integers(0, 100)),
        nodes_min=draw(st.integers(0, nodes_max)),
        nodes_max=nodes_max,
        qpu_free_in_s=draw(SECONDS),
        quantum_in_s=draw(SECONDS),
        released=draw(st.booleans()),
        waited_s=draw(st.floats(0, 2 * LONGEST_GATE_S)),
        gives_way=draw(st.booleans()),
    )


@given(NAMES, situations())
def test_no_coupling_leaves_the_bounds(coupling: str, situation: RunSituation) -> None:
    wanted = decide(coupling, situation)
    assert wanted.workers <= situation.nodes_max
    gives_way = situation.gives_way and not situation.classical and coupling != "exclusive"
    if wanted.separate or gives_way:
        assert wanted.workers == 0
    else:
        assert wanted.workers >= situation.nodes_min


@given(situations(), situations())
def test_exclusive_is_constant(one: RunSituation, other: RunSituation) -> None:
    bounds = {"nodes_min": one.nodes_min, "nodes_max": one.nodes_max}
    assert decide("exclusive", one) == decide("exclusive", replace(other, **bounds))


@given(situations())
def test_a_classical_stage_has_a_node_where_workers_are_shared(situation: RunSituation) -> None:
    active = replace(situation, classical=max(situation.classical, 1))
    assert all(decide(name, active).workers for name in COUPLINGS if name != "split")


@given(situations())
def test_malleable_shrinks_to_the_least_in_quantum_stages(situation: RunSituation) -> None:
    only_quantum = replace(situation, classical=0, useful_nodes=0, quantum=1, gives_way=False)
    assert decide("malleable", only_quantum).workers == situation.nodes_min


@given(situations())
def test_only_a_gate_holds_jobs_and_it_stays_open(situation: RunSituation) -> None:
    assert not any(decide(name, situation).held for name in COUPLINGS if name != "gated")
    assert not decide("gated", replace(situation, released=True)).held
    assert not decide("gated", replace(situation, waited_s=LONGEST_GATE_S)).held


def test_a_gate_opens_when_the_qpu_will_be_free_in_time() -> None:
    busy = RunSituation(classical=1, qpu_free_in_s=100.0, quantum_in_s=78.0)
    assert decide("gated", busy).held
    assert not decide("gated", replace(busy, qpu_free_in_s=78.0)).held
    assert not decide("gated", replace(busy, qpu_free_in_s=None)).held
    assert decide("gated", replace(busy, quantum_in_s=None)).held


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="nodes_min=4"):
        RunSituation(nodes_min=4, nodes_max=3)
