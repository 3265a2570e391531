"""Flows, nodes and a QPU as far as their times are concerned, and what is predicted of them (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

__all__ = [
    "ClusterModel",
    "CouplingPrediction",
    "FlowModel",
    "Occupation",
    "QpuModel",
    "StageModel",
    "check_times",
    "quantum_after_s",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageModel:
    """A stage as far as its time is concerned.

    seconds: that it takes once it has what it needs; by number of nodes where that matters.
    nodes, nodes_max: least and most nodes that it can use; one that needs more than one has an
    allocation of its own, unless the coupling is exclusive. alone: whether it has one in every
    coupling, as it asks for what shared workers do not have, such as a GPU. after: names of stages
    of its flow that must have ended. delay_s: what the flow itself takes between their end and this
    stage. result_s: work of the flow's process to receive the result of a classical one, whose worker
    is free meanwhile, but not an allocation of its own; results share it. cold_s: what a classical one takes more as the
    first one that a worker runs, such as for imports.
    qpu_seconds: of a quantum stage, for how much of its time the QPU works; all of it if None. The
    rest is work of the flow's process, which quantum stages of a flow share. tasks: of a quantum stage, in how many parts the QPU does that, each after a part of the rest.
    """

    name: str
    kind: Literal["classical", "quantum"]
    seconds: float | Mapping[int, float]
    nodes: int = 1
    nodes_max: int | None = None
    alone: bool = False
    after: tuple[str, ...] = ()
    delay_s: float = 0.0
    result_s: float = 0.0
    cold_s: float = 0.0
    qpu_seconds: float | None = None
    tasks: int = 1

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for times or numbers that cannot be."""
        times = self.seconds.values() if isinstance(self.seconds, Mapping) else (self.seconds,)
        if not times or not all(0 <= time < math.inf for time in times):
            raise ValueError(f"stage {self.name!r}: seconds={self.seconds}; expected 0 or more")
        if isinstance(self.seconds, Mapping):
            check_times(f"stage {self.name!r}", self.seconds)
        if not 1 <= self.nodes <= self.most_nodes:
            raise ValueError(
                f"stage {self.name!r}: nodes={self.nodes}, nodes_max={self.nodes_max}; expected "
                "1 <= nodes <= nodes_max"
            )
        if self.qpu_seconds is not None and not 0 <= self.qpu_seconds <= self.seconds_on(1):
            raise ValueError(
                f"stage {self.name!r}: qpu_seconds={self.qpu_seconds}; expected 0 up to its seconds"
            )
        more_s = (self.delay_s, self.result_s, self.cold_s)
        if self.tasks < 1 or not all(0 <= s < math.inf for s in more_s):
            raise ValueError(
                f"stage {self.name!r}: tasks={self.tasks}, delay_s={self.delay_s}, "
                f"result_s={self.result_s}, cold_s={self.cold_s}; expected at least 1, 0, 0 and 0"
            )

    @property
    def most_nodes(self) -> int:
        """The most nodes that it can use."""
        return self.nodes if self.nodes_max is None else self.nodes_max

    @property
    def shares(self) -> bool:
        """Whether it runs on workers that stages share, unless each has an allocation of its own."""
        return self.kind == "classical" and self.nodes == 1 and not self.alone

    @property
    def on_qpu_s(self) -> float:
        """Seconds for which the QPU works."""
        return self.seconds_on(1) if self.qpu_seconds is None else self.qpu_seconds

    def seconds_on(self, nodes: int) -> float:
        """Return its time on a number of nodes, linear in ``1 / nodes`` between known numbers.

        Below them, the line goes on up to where nodes share the work without loss, which is also
        what one known number means; above them, more nodes do not help (Amdahl, 1967).

        >>> stage = StageModel(name="C", kind="classical", seconds={2: 82.0, 3: 78.0}, nodes_max=3)
        >>> [round(stage.seconds_on(n), 6) for n in (1, 2, 3, 4)]
        [94.0, 82.0, 78.0, 78.0]
        """
        if not isinstance(self.seconds, Mapping):
            return self.seconds
        known = sorted(self.seconds)
        if nodes in self.seconds:
            return self.seconds[nodes]
        if nodes > known[-1]:
            return self.seconds[known[-1]]
        same_work_s = self.seconds[known[0]] * known[0] / nodes
        if len(known) == 1:
            return same_work_s
        above = next(place for place, n in enumerate(known) if n > nodes)
        low, high = known[max(above - 1, 0)], known[max(above, 1)]
        part = (1 / nodes - 1 / high) / (1 / low - 1 / high)
        line_s = self.seconds[high] + part * (self.seconds[low] - self.seconds[high])
        return min(line_s, same_work_s) if nodes < known[0] else line_s


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowModel:
    """One run of a flow.

    nodes_min, nodes_max: bounds of its shared workers. stages_per_node: how many stages of one
    node a node runs at a time. begins_at_s: when it is started. declared: of each classical
    stage in its module, whether it shares workers; the run asks for these as it starts. None if
    they are the stages above.
    """

    name: str
    stages: tuple[StageModel, ...]
    nodes_min: int = 0
    nodes_max: int = 1
    stages_per_node: int = 1
    begins_at_s: float = 0.0
    declared: tuple[bool, ...] | None = None

    @property
    def shares_at_first(self) -> tuple[bool, ...]:
        """Of each classical stage that is known as the run starts, whether it shares workers."""
        if self.declared is not None:
            return self.declared
        return tuple(stage.shares for stage in self.stages if stage.kind == "classical")

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for stages that wait for one that does not come before them."""
        before: set[str] = set()
        for stage in self.stages:
            missing = [name for name in stage.after if name not in before]
            if missing or stage.name in before:
                raise ValueError(
                    f"flow {self.name!r}: stage {stage.name!r} "
                    + (f"comes after {missing[0]!r}, which does not precede it" * bool(missing))
                    + ("has the name of an earlier stage" * (not missing))
                )
            before.add(stage.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterModel:
    """The nodes that Slurm grants in order of submission.

    start_s: from submission to a job's start on free nodes. boot_s: from there until its worker is
    ready. end_s: for how long a job that has nothing to do keeps its node; retire_s: how much longer
    where other workers of the run stay. wait_s: what a new job waits for others at present, beyond
    the nodes below. busy: nodes that others hold, each with the seconds until they are free.
    """

    nodes: int
    start_s: float = 0.0
    boot_s: float = 0.0
    end_s: float = 0.0
    retire_s: float = 0.0
    wait_s: float = 0.0
    busy: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuModel:
    """The QPU, which runs tasks in order of submission.

    ahead_s: work of others that waits now. start_s: from submission to start of the Slurm job by
    which a run holds the QPU. by_job: whether such a job holds it in every coupling, and not only
    in `split`: from the begin of a quantum stage until no quantum stage of the run is left.
    tasks_at_once: how many tasks it runs beside each other; None for a simulator without a limit,
    whose tasks share the machine with the flow's process. tells_queue: whether a broker service says
    how long it is busy, without which a gate is open. nodes: that a Slurm job has for nothing but
    the QPU while it holds it; nodes_together: that an exclusive job has more for the QPU.
    """

    ahead_s: float = 0.0
    start_s: float = 0.0
    by_job: bool = False
    tasks_at_once: int | None = 1
    tells_queue: bool = True
    nodes: int = 0
    nodes_together: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupation:
    """Something that lasted: a job's nodes, a stage, or the QPU held. nodes: 0 for the QPU."""

    flow: str
    what: Literal["nodes", "classical", "quantum", "qpu"]
    name: str
    start_s: float
    end_s: float
    nodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CouplingPrediction:
    """What a coupling leads to.

    makespan_s: from the first begin to the last end; slurm_s: from the first submission of a job to
    the end of the last one. node_seconds: of jobs with workers from start to end; qpu_node_s: of
    those that are there to hold the QPU.
    qpu_held_s: how long nobody else could use the QPU. qpu_used_s: how long it worked.
    ended_at_s: by flow. occupations: what happened, in order of start, by
    which a prediction can be checked.
    """

    coupling: str
    makespan_s: float
    node_seconds: float
    qpu_held_s: float
    qpu_used_s: float
    ended_at_s: Mapping[str, float]
    slurm_s: float = 0.0
    qpu_node_s: float = 0.0
    occupations: tuple[Occupation, ...] = field(repr=False, default=())

    @property
    def accounted_s(self) -> float:
        """Its makespan as Slurm's accounting has it; the flow's own where it submits no job."""
        return self.slurm_s or self.makespan_s

    @property
    def all_node_s(self) -> float:
        """Node-seconds in all, as Slurm's accounting has them."""
        return self.node_seconds + self.qpu_node_s

    @property
    def qpu_busy(self) -> float:
        """The share of the makespan in which the QPU worked for these flows."""
        return self.qpu_used_s / self.makespan_s if self.makespan_s else 0.0


def quantum_after_s(flow: FlowModel) -> float | None:
    """Return for how long a flow works before its first quantum stage, None if it has none.

    Its classical stages are taken to have all the nodes that they can use.
    """
    until: dict[str, float] = {}
    found: list[float] = []
    for stage in flow.stages:
        # A flow's start is not counted: a gate is looked at from the first classical stage on.
        delay_s = stage.delay_s if stage.after else 0.0
        before_s = max((until[name] for name in stage.after), default=0.0) + delay_s
        if stage.kind == "quantum":
            found.append(before_s)
            until[stage.name] = math.inf
            continue
        most = min(stage.most_nodes, max(flow.nodes_max, stage.nodes))
        until[stage.name] = before_s + stage.seconds_on(most) + stage.result_s
    return min(found, default=None)


def check_times(what: str, seconds: Mapping[int, float]) -> None:
    """Raise ``ValueError`` for times that grow with the number of nodes. what: that takes them.

    >>> check_times("C", {2: 82.0, 3: 78.0})
    """
    for fewer, more in pairwise(sorted(seconds)):
        if seconds[more] > seconds[fewer]:
            raise ValueError(
                f"{what}: {seconds[fewer]:g} s on {fewer} nodes, but {seconds[more]:g} s on {more}; "
                f"expected at most {seconds[fewer]:g} s on {more}, as more nodes need not be used"
            )
