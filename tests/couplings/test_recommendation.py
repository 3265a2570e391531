"""The recommended coupling is about the fastest, and none of those holds fewer nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.couplings.policies import COUPLINGS
from orchestrator.couplings.prediction import CouplingPrediction
from orchestrator.couplings.recommendation import recommend


def outcome(coupling: str, makespan_s: float, nodes: float, held_s: float) -> CouplingPrediction:
    return CouplingPrediction(
        coupling=coupling,
        makespan_s=makespan_s,
        node_seconds=nodes,
        qpu_held_s=held_s,
        qpu_used_s=0.0,
        ended_at_s={},
    )


amounts = st.floats(0.0, 1e6) | st.sampled_from([100.0, 102.0, 104.0])


@given(
    st.dictionaries(
        st.sampled_from([*COUPLINGS]), st.tuples(amounts, amounts, amounts), min_size=1
    ),
    st.floats(0, 1),
)
def test_it_is_within_the_slack_and_holds_the_fewest_nodes(given_, slack) -> None:
    outcomes = {name: outcome(name, *numbers) for name, numbers in given_.items()}
    found = recommend(outcomes, slack=slack)
    chosen = outcomes[found.coupling]
    bound_s = min(one.makespan_s for one in outcomes.values()) * (1 + slack) + 1e-9
    assert chosen.makespan_s <= bound_s
    near = [one for one in outcomes.values() if one.makespan_s <= bound_s]
    assert chosen.node_seconds == min(one.node_seconds for one in near)
    equal = [one for one in near if one.node_seconds == chosen.node_seconds]
    assert chosen.qpu_held_s == min(one.qpu_held_s for one in equal)
    assert found.coupling in found.reason


def test_the_published_trade_is_taken() -> None:
    figures = {"exclusive": (2041, 6117), "split": (1228, 2328), "malleable": (1127, 2816)}
    outcomes = {name: outcome(name, *pair, 982) for name, pair in figures.items()}
    assert recommend(outcomes).coupling == "malleable"
    assert recommend(outcomes, slack=0.1).coupling == "split"


def test_nothing_predicted_is_refused() -> None:
    with pytest.raises(ValueError, match="coupling"):
        recommend({})
