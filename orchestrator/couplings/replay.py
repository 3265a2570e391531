"""Stages that ran once, as the model of a flow that will run again (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.couplings.models import CouplingPrediction, StageModel, check_times

__all__ = ["ObservedStage", "Preference", "alike", "recommend", "score", "stage_models"]

Preference = Literal["balanced", "time", "nodes"]
# Of couplings that are equally good, the one that starts the fewest jobs.
_ORDER = ("multiplexed", "malleable", "split", "gated", "exclusive")
_ALIKE = 1.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStage:
    """A stage that ran. ready_s, ended_s: on one clock. name: of its function.

    seconds: that it takes, by number of nodes where that matters; qpu_seconds: of them, on the QPU.
    """

    name: str
    kind: Literal["classical", "quantum"]
    ready_s: float
    ended_s: float
    seconds: float | Mapping[int, float]
    qpu_seconds: float | None = None
    nodes: int = 1
    nodes_max: int = 1


def stage_models(
    observed: Sequence[ObservedStage],
    times: Mapping[str, float | Mapping[int, float]] | None = None,
) -> tuple[StageModel, ...]:
    """Return stages that wait for those that had ended before they were ready.

    Args:
        observed: What ran.
        times: Seconds by name of a function, which replace those that were observed; by number of
            nodes where that matters.

    Raises:
        ValueError: Given times grow with the number of nodes.
    """
    given = times or {}
    for name, seconds in given.items():
        if isinstance(seconds, Mapping):
            check_times(f"stage {name!r}", seconds)
    ordered = sorted(observed, key=lambda stage: (stage.ready_s, stage.ended_s))
    models = []
    for number, stage in enumerate(ordered):
        before = [n for n in range(number) if ordered[n].ended_s <= stage.ready_s]
        last_s = max((ordered[n].ready_s for n in before), default=0.0)
        # Those that ended before the last of them was ready come before it, too.
        direct = [n for n in before if ordered[n].ended_s > last_s or ordered[n].ready_s == last_s]
        models.append(
            StageModel(
                name=str(number),
                kind=stage.kind,
                seconds=given.get(stage.name, stage.seconds),
                nodes=stage.nodes,
                nodes_max=stage.nodes_max,
                after=tuple(str(n) for n in direct),
                qpu_seconds=None if stage.name in given else stage.qpu_seconds,
            )
        )
    return tuple(models)


def recommend(
    predictions: Mapping[str, CouplingPrediction], prefer: Preference = "balanced"
) -> str:
    """Return the best coupling; of those within 1 % of it, the one that starts the fewest jobs.

    Args:
        predictions: At least one, by coupling.
        prefer: ``"time"`` for the least makespan, ``"nodes"`` for the fewest node-seconds,
            ``"balanced"`` for the least product of both.

    >>> from dataclasses import replace
    >>> quick = CouplingPrediction(coupling="split", makespan_s=10.0, node_seconds=30.0,
    ...     qpu_held_s=1.0, qpu_used_s=1.0, ended_at_s={})
    >>> recommend({"split": quick, "exclusive": replace(quick, makespan_s=20.0)})
    'split'
    """
    return min(alike(predictions, prefer), key=_ORDER.index)


def alike(predictions: Mapping[str, CouplingPrediction], prefer: Preference) -> list[str]:
    """Return the couplings that are within 1 % of the best one, with it."""
    scores = {name: score(one, prefer) for name, one in predictions.items()}
    least = min(scores.values())
    return [name for name, one in scores.items() if one <= least * _ALIKE]


def score(one: CouplingPrediction, prefer: Preference) -> float:
    """Return what is to be small, by what is preferred."""
    if prefer == "time":
        return one.makespan_s
    return one.node_seconds if prefer == "nodes" else one.makespan_s * one.node_seconds
