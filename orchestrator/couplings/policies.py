"""Which allocations a coupling wants in a situation; the same rules in a run and in a prediction (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

__all__ = [
    "COUPLINGS",
    "LONGEST_GATE_S",
    "Policy",
    "RunSituation",
    "Wanted",
    "decide",
    "gives_way",
    "submits_shared",
    "useful_nodes",
]

# A gate opens at the latest after so many seconds: a QPU that is always busy would keep it shut.
LONGEST_GATE_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSituation:
    """A run at a moment, as a coupling sees it.

    classical, quantum: numbers of stages that run, or could if they had what they need; of the
    classical ones, those that share workers.
    useful_nodes: nodes that the classical ones can use together. qpu_free_in_s: how long the QPU
    is busy with others, None if not known. quantum_in_s: how long the classical stages before the
    next quantum one take, None if not known. released: whether the gate was open before.
    waited_s: time since the first classical stage was ready. gives_way: what `gives_way` returns.
    """

    classical: int = 0
    quantum: int = 0
    useful_nodes: int = 0
    nodes_min: int = 0
    nodes_max: int = 1
    qpu_free_in_s: float | None = None
    quantum_in_s: float | None = None
    released: bool = False
    waited_s: float = 0.0
    gives_way: bool = False

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for numbers of nodes that contradict each other."""
        if not 0 <= self.nodes_min <= self.nodes_max:
            raise ValueError(
                f"nodes_min={self.nodes_min} and nodes_max={self.nodes_max}; expected "
                "0 <= nodes_min <= nodes_max"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a run should hold.

    workers: worker jobs of one node each that the stages share. held: whether those that have not
    started stay held. separate: whether each classical stage has an allocation of its own instead.
    together: whether workers and QPU are one job; otherwise the run holds the QPU in quantum stages.
    """

    workers: int = 0
    held: bool = False
    separate: bool = False
    together: bool = False


Policy = Callable[[RunSituation], Wanted]


def decide(coupling: str, situation: RunSituation) -> Wanted:
    """Return what a coupling wants in a situation of a run.

    Args:
        coupling: A key of `COUPLINGS`.
        situation: The run's state.

    Returns:
        The allocations that the run should have now.

    Raises:
        KeyError: There is no such coupling.

    >>> decide("malleable", RunSituation(quantum=1, nodes_min=1, nodes_max=3)).workers
    1
    """
    wanted = COUPLINGS[coupling](situation)
    if situation.gives_way and not situation.classical and not wanted.together:
        return replace(wanted, workers=0)
    return wanted


def _exclusive(situation: RunSituation) -> Wanted:
    """Hold all nodes and the QPU, as one job, from the first stage to the end."""
    return Wanted(workers=situation.nodes_max, together=True)


def _split(situation: RunSituation) -> Wanted:
    """Let each classical stage have its own allocation; hold the QPU in quantum stages only."""
    del situation
    return Wanted(separate=True)


def _multiplexed(situation: RunSituation) -> Wanted:
    """Keep all nodes, and share the QPU."""
    return Wanted(workers=situation.nodes_max)


def _malleable(situation: RunSituation) -> Wanted:
    """Keep as many nodes as the active classical stages can use, within the bounds."""
    useful = max(situation.useful_nodes, min(situation.classical, 1))
    workers = min(max(useful, situation.nodes_min), situation.nodes_max)
    return Wanted(workers=workers)


def _gated(situation: RunSituation) -> Wanted:
    """Hold the worker jobs back until the QPU will be free when the run needs it."""
    busy_s = situation.qpu_free_in_s
    opens = (
        situation.released
        or busy_s is None
        or busy_s <= (situation.quantum_in_s or 0.0)
        or situation.waited_s >= LONGEST_GATE_S
    )
    return Wanted(workers=situation.nodes_max, held=not opens)


COUPLINGS: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "exclusive": _exclusive,
        "split": _split,
        "multiplexed": _multiplexed,
        "malleable": _malleable,
        "gated": _gated,
    }
)


def submits_shared(wanted: Wanted, shares: Iterable[bool]) -> bool:
    """Return whether a run's shared worker jobs are to be submitted by now.

    Where all stages have allocations of their own, shared workers would have nothing to do.

    Args:
        wanted: What the coupling wants.
        shares: For each classical stage that is known by now, because the flow's module declares it
            or because it was ready, whether it shares workers.

    >>> submits_shared(Wanted(workers=2), [False]), submits_shared(Wanted(workers=2), [False, True])
    (False, True)
    """
    return wanted.workers > 0 and (wanted.together or any(shares))


def gives_way(before: bool, sharing: int, own_waits: bool) -> bool:
    """Return whether a run's shared worker jobs end, because it waits for the nodes that they hold.

    They come back with the next stage that shares them, and not as soon as the other one has its
    nodes: after it, another such stage may follow.

    Args:
        before: What this function returned last.
        sharing: How many stages share the worker jobs now, or wait for them.
        own_waits: Whether an allocation of a stage's own waits for nodes.

    >>> gives_way(False, 0, own_waits=True), gives_way(True, 0, own_waits=False)
    (True, True)
    >>> gives_way(True, 1, own_waits=True)
    False
    """
    return not sharing and (before or own_waits)


def useful_nodes(most: Sequence[int], stages_per_node: int) -> int:
    """Return how many nodes stages can use together, each given by the most that it can use.

    >>> useful_nodes([1, 1, 1, 3], 2)
    5
    """
    single = sum(nodes == 1 for nodes in most)
    return sum(nodes for nodes in most if nodes > 1) + math.ceil(single / stages_per_node)
