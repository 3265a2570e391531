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
    """A stage that ran. name: of its function. ready_s, ended_s: on one clock, from the run's start.

    key: of this execution. result_s: what the flow's process took to receive its result. asked_s: when the flow submitted it; after: keys of the stages whose
    results it takes; None where that is not known.
    seconds: that it takes, by number of nodes where that matters; cold_s: and as the first one on a
    worker, more; qpu_seconds: of them, on the QPU,
    in so many tasks.
    """

    name: str
    kind: Literal["classical", "quantum"]
    ready_s: float
    ended_s: float
    seconds: float | Mapping[int, float]
    qpu_seconds: float | None = None
    tasks: int = 1
    nodes: int = 1
    nodes_max: int = 1
    alone: bool = False
    key: str = ""
    asked_s: float | None = None
    after: tuple[str, ...] | None = None
    result_s: float = 0.0
    cold_s: float = 0.0


def stage_models(
    observed: Sequence[ObservedStage],
    times: Mapping[str, float | Mapping[int, float]] | None = None,
) -> tuple[StageModel, ...]:
    """Return stages that wait for those whose results they take, and for those before them.

    A flow submits a stage after all those that it has waited for, which are among those that had
    ended; where it is not known when it did so, they are those that had ended when it was ready.

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
    number_of = {stage.key: number for number, stage in enumerate(ordered) if stage.key}
    models: list[StageModel] = []
    before: list[set[int]] = []  # of each stage, all that must have ended
    for number, stage in enumerate(ordered):
        direct = _predecessors(ordered[:number], stage, number_of)
        before.append(direct.union(*(before[n] for n in direct)))
        direct -= set[int]().union(*(before[n] for n in direct))
        ended_s = max((ordered[n].ended_s for n in direct), default=0.0)
        models.append(
            StageModel(
                name=str(number),
                kind=stage.kind,
                seconds=given.get(stage.name, stage.seconds),
                nodes=stage.nodes,
                nodes_max=stage.nodes_max,
                alone=stage.alone,
                after=tuple(str(n) for n in sorted(direct)),
                delay_s=max(stage.ready_s - ended_s, 0.0),
                result_s=stage.result_s,
                cold_s=stage.cold_s,
                qpu_seconds=None if stage.name in given else stage.qpu_seconds,
                tasks=stage.tasks,
            )
        )
    return tuple(models)


def _predecessors(
    earlier: Sequence[ObservedStage], stage: ObservedStage, number_of: Mapping[str, int]
) -> set[int]:
    """Return the numbers of the earlier stages that must have ended before a stage."""
    is_known = stage.asked_s is not None and stage.after is not None
    asked_s = stage.asked_s if stage.asked_s is not None and is_known else stage.ready_s
    found = {n for n, one in enumerate(earlier) if one.ended_s <= asked_s}
    of_results = {number_of[key] for key in stage.after or () if key in number_of}
    return found | {n for n in of_results if n < len(earlier)}


def recommend(
    predictions: Mapping[str, CouplingPrediction], prefer: Preference = "balanced"
) -> str:
    """Return the best coupling; of those within 1 % of it, the one that starts the fewest jobs.

    Args:
        predictions: At least one, by coupling.
        prefer: What `score` counts.

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
    """Return what is to be small.

    Args:
        one: What a coupling leads to.
        prefer: ``"time"`` for the makespan, ``"nodes"`` for the node-seconds in all, ``"balanced"``
            for the product of the makespan with the node-seconds of workers and the QPU-seconds
            held, so that a QPU counts as a node while it is held.

    >>> held = CouplingPrediction(coupling="exclusive", makespan_s=10.0, node_seconds=30.0,
    ...     qpu_held_s=10.0, qpu_used_s=1.0, ended_at_s={}, slurm_s=12.0, qpu_node_s=12.0)
    >>> [score(held, prefer) for prefer in ("time", "nodes", "balanced")]
    [12.0, 42.0, 480.0]
    """
    if prefer == "time":
        return one.accounted_s
    if prefer == "nodes":
        return one.all_node_s
    return one.accounted_s * (one.node_seconds + one.qpu_held_s)
