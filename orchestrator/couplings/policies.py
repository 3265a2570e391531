"""Which allocations a coupling wants in a situation; the same rules in a run and in a prediction (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["COUPLINGS", "LONGEST_GATE_S", "Policy", "RunSituation", "Wanted", "decide"]

# A gate opens at the latest after so many seconds: a QPU that is always busy would keep it shut.
LONGEST_GATE_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSituation:
    """A run at a moment, as a coupling sees it.

    classical, quantum: numbers of stages that run, or could if they had what they need.
    useful_nodes: nodes that the classical ones can use together. qpu_free_in_s: how long the QPU
    is busy with others, None if not known. quantum_in_s: how long the classical stages before the
    next quantum one take, None if not known. released: whether the gate was open before.
    waited_s: time since the first classical stage was ready.
    """

    classical: int = 0
    quantum: int = 0
    useful_nodes: int = 0
    nodes_min: int = 0
    nodes_max: int = 1
    begun: bool = True
    ended: bool = False
    qpu_free_in_s: float | None = None
    quantum_in_s: float | None = None
    released: bool = False
    waited_s: float = 0.0

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
    started stay held. qpu: whether the run holds the QPU. separate: whether each classical stage
    has an allocation of its own instead. together: whether workers and QPU are one job.
    """

    workers: int = 0
    held: bool = False
    qpu: bool = False
    separate: bool = False
    together: bool = False


Policy = Callable[[RunSituation], Wanted]


def decide(coupling: str, situation: RunSituation) -> Wanted:
    """Return what a coupling wants in a situation; nothing before the run begins and after its end.

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
    policy = COUPLINGS[coupling]
    if situation.ended or not situation.begun:
        return Wanted()
    return policy(situation)


def _exclusive(situation: RunSituation) -> Wanted:
    """Hold all nodes and the QPU, as one job, from the first stage to the end."""
    return Wanted(workers=situation.nodes_max, qpu=True, together=True)


def _split(situation: RunSituation) -> Wanted:
    """Let each classical stage have its own allocation; hold the QPU in quantum stages only."""
    return Wanted(qpu=situation.quantum > 0, separate=True)


def _multiplexed(situation: RunSituation) -> Wanted:
    """Keep all nodes, and share the QPU."""
    return Wanted(workers=situation.nodes_max, qpu=situation.quantum > 0)


def _malleable(situation: RunSituation) -> Wanted:
    """Keep as many nodes as the active classical stages can use, within the bounds."""
    useful = max(situation.useful_nodes, min(situation.classical, 1))
    workers = min(max(useful, situation.nodes_min), situation.nodes_max)
    return Wanted(workers=workers, qpu=situation.quantum > 0)


def _gated(situation: RunSituation) -> Wanted:
    """Hold the worker jobs back until the QPU will be free when the run needs it."""
    busy_s = situation.qpu_free_in_s
    opens = (
        situation.released
        or busy_s is None
        or busy_s <= (situation.quantum_in_s or 0.0)
        or situation.waited_s >= LONGEST_GATE_S
    )
    return Wanted(workers=situation.nodes_max, held=not opens, qpu=situation.quantum > 0)


COUPLINGS: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "exclusive": _exclusive,
        "split": _split,
        "multiplexed": _multiplexed,
        "malleable": _malleable,
        "gated": _gated,
    }
)
