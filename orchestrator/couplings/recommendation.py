"""Which coupling to use, from what each is predicted to lead to (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.couplings.prediction import CouplingPrediction

__all__ = ["SLACK", "CouplingRecommendation", "recommend"]

# A run may end so much later than in the fastest coupling where that saves nodes.
SLACK = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class CouplingRecommendation:
    """A coupling, and why in a sentence."""

    coupling: str
    reason: str


def recommend(
    outcomes: Mapping[str, CouplingPrediction], *, slack: float = SLACK
) -> CouplingRecommendation:
    """Return the coupling that holds the fewest nodes among those that are about the fastest.

    Args:
        outcomes: Predictions by coupling, as `compare` returns them.
        slack: By how large a part the makespan may exceed the least one.

    Returns:
        A coupling; of two that are equal in makespan and node-seconds, the one that holds the QPU
        for a shorter time.

    Raises:
        ValueError: There is no prediction.
    """
    if not outcomes:
        raise ValueError("no coupling was predicted; expected one at least")
    least_s = min(outcome.makespan_s for outcome in outcomes.values())
    near = {
        name: outcome
        for name, outcome in outcomes.items()
        if outcome.makespan_s <= least_s * (1 + slack) + 1e-9
    }
    chosen = min(
        near,
        key=lambda name: (near[name].node_seconds, near[name].qpu_held_s, near[name].makespan_s),
    )
    outcome = outcomes[chosen]
    speed = "the fastest"
    if outcome.makespan_s > least_s * (1 + 1e-9):
        speed = f"within {slack:.0%} of the fastest"
    others = len(near) - 1
    saving = f"; with {outcome.node_seconds:,.0f} node-seconds the cheapest of such" * (others > 0)
    return CouplingRecommendation(
        coupling=chosen,
        reason=f"{chosen} is {speed}, {outcome.makespan_s:,.0f} s{saving}",
    )
