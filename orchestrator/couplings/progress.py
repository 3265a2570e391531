"""What is under way in a predicted run: Slurm jobs, stages, flows and work in the QPU's queue (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from orchestrator.couplings.models import FlowModel, StageModel

__all__ = ["EPSILON_S", "FlowRun", "PredictedHold", "PredictedJob", "QueuedTask", "StageRun"]

EPSILON_S = 1e-9  # what is shorter is over


@dataclass(slots=True, eq=False)
class PredictedJob:
    """A Slurm job.

    stage: of an allocation of its own; together: with the QPU. was_short: whether nodes were missing
    when it could have started.
    """

    number: int
    run: FlowRun
    least: int
    most: int
    since_s: float
    held: bool = False
    together: bool = False
    stage: StageRun | None = None
    was_short: bool = False
    nodes: int = 0
    cold: int = 0  # workers that have not run a stage
    started_s: float = math.inf
    ready_s: float = math.inf


@dataclass(slots=True, eq=False)
class StageRun:
    """A stage that is ready, runs or has ended."""

    model: StageModel
    run: FlowRun
    ready_s: float
    left: float = 1.0  # part of its work, of a classical one
    cold_s: float = 0.0  # left of what its worker needs before
    width: int = 0  # nodes on which it runs, 0 if it waits
    began_s: float = math.inf
    job: PredictedJob | None = None
    tasks_left: int = 0  # of a quantum one, with the task that runs
    own_s: float = 0.0  # what it does without the QPU before each task
    task_s: float = 0.0
    own_left_s: float = math.inf  # of the flow's process, until its next task or for its result
    queued_s: float = math.inf  # when that reaches the QPU's queue at the earliest
    task: QueuedTask | None = None
    is_over: bool = False  # its last task has ended

    @property
    def is_classical(self) -> bool:
        """Whether it runs on nodes, and not on the QPU."""
        return self.model.kind == "classical"

    @property
    def prepares(self) -> bool:
        """Whether it is work of the flow's process now."""
        return EPSILON_S < self.own_left_s < math.inf

    def needs_s(self, now_s: float) -> float:
        """Return how long a quantum stage goes on if its tasks wait for nothing."""
        later_s = max(self.tasks_left - 1, 0) * (self.own_s + self.task_s)
        if self.task is not None:
            return later_s + min(self.task.until_s - now_s, self.task_s)
        return later_s + min(self.own_left_s, self.own_s) + self.task_s

    def shares_with(self, other: StageRun) -> bool:
        """Whether an allocation of the other's own can be handed on to this one."""
        mine, theirs = self.model, other.model
        return mine.alone == theirs.alone and (
            (mine.nodes, mine.most_nodes) == (theirs.nodes, theirs.most_nodes)
        )


@dataclass(slots=True, eq=False)
class FlowRun:
    """A flow in progress. quantum_after_s: its work before its first quantum stage."""

    model: FlowModel
    quantum_after_s: float | None
    active: list[StageRun] = field(default_factory=list)
    receiving: list[StageRun] = field(default_factory=list)  # without their results
    done: dict[str, float] = field(default_factory=dict)  # when the flow had each one's result
    known: set[str] = field(default_factory=set)
    hold: PredictedHold | None = None
    released: bool = False
    submits_shared: bool = False
    gives_way: bool = False
    gated_since_s: float | None = None
    ended_s: float = math.inf


@dataclass(slots=True, eq=False)
class QueuedTask:
    """Work in the QPU's queue. stage: None for that of others."""

    since_s: float
    seconds: float
    stage: StageRun | None = None
    until_s: float = math.inf

    def place(self) -> tuple[float, float]:
        """Return its place: of two that arrive at once, the earlier stage's is first."""
        return self.since_s, -math.inf if self.stage is None else self.stage.began_s


@dataclass(slots=True, eq=False)
class PredictedHold:
    """A Slurm job by which a run holds the QPU, while it has quantum stages. stage: its first."""

    run: FlowRun
    stage: StageRun
    since_s: float  # from when on Slurm can grant it
    is_queued: bool = False
    granted_s: float = math.inf

    def place(self) -> tuple[float, float]:
        """Return its place among tasks and others."""
        return self.since_s, self.stage.began_s
