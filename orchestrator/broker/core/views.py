"""Read-only pictures of quantum jobs and their qpu_tasks, folded from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from backends.api import Usage
from orchestrator.identity import JobId

__all__ = ["JobState", "JobView", "LostAccess", "QpuTaskState", "QpuTaskView", "advice_in_doubt"]


class JobState(StrEnum):
    """Where a quantum job (one primitive call) is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNCERTAIN = "uncertain"

    @property
    def is_final(self) -> bool:
        """Whether the job will not change by itself any more."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


class QpuTaskState(StrEnum):
    """Where a qpu_task (one start on a backend) is in its life."""

    PLANNED = "planned"
    RUNNING = "running"
    UNCERTAIN = "uncertain"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self in (QpuTaskState.COMPLETED, QpuTaskState.FAILED, QpuTaskState.CANCELLED)

    def may_become(self, state: QpuTaskState) -> bool:
        """Whether the next state of a task in this state can be that one."""
        return state is not QpuTaskState.PLANNED and not self.is_final


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuTaskView:
    """One start on a backend; ``usage`` is this job's part if several jobs share the task.

    tag: what the task can be found by. starts: how often the backend was asked to start
    it and accepted (1 once it ran; more would be a fault). start_in_doubt: one start more may have
    been accepted, whose answer is missing. shots: of this job, in this task.
    metadata: how it ran, from the backend: ``method``, ``calibration_id``, ….
    saved: in the unit of its charges, what the job was spared by sharing the task with others.
    late: it completed after it had been given up, so its result was not used.
    provisional: it completed, but outside the times for which the site vouches for results.
    slurm_job: that held the QPU for this job's part; None where Slurm does not grant the QPU.
    qpu: on which it ran; that of the job, unless another one took over.
    """

    tag: str
    qpu_task: str | None
    state: QpuTaskState
    starts: int
    shots: int
    planned_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    usage: Usage = field(default_factory=Usage)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    late: bool = False
    saved: float = 0.0
    provisional: bool = False
    slurm_job: int | None = None
    qpu: str = ""
    start_in_doubt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A quantum job as the ledger knows it: one call of a primitive's ``run``.

    stage: key of the stage that made the call, None outside a stage. call: its number there.
    shots: requested in all; 0 for a payload that states none.
    error, error_type: why it failed, and its class in `backends.api`.
    project, user: who pays and who asked; empty outside a service.
    flow, coupling: of its run; empty where not known.
    source: the job whose result was used again, so that this one took and cost nothing.
    failover: QPU that took over what was left of it, and why; empty if none did.
    labels: of its data; the QPU accepts each of them, or the job was refused.
    slurm_job: that holds the QPU for what is left of it, the latest of several; each task has its
    own. None where Slurm does not grant the QPU.
    """

    id: JobId
    qpu: str
    backend: str
    kind: str
    state: JobState
    run: str
    stage: str | None
    call: int
    digest: str
    pubs: int
    circuits: int
    shots: int
    num_qubits: int
    seed: int | None
    submitted_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    usage: Usage = field(default_factory=Usage)
    tasks: tuple[QpuTaskView, ...] = ()
    error: str | None = None
    error_type: str | None = None
    project: str = ""
    user: str = ""
    provisional: bool = False
    flow: str = ""
    coupling: str = ""
    source: JobId | None = None
    labels: tuple[str, ...] = ()
    failover: str = ""
    failover_reason: str = ""
    slurm_job: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LostAccess:
    """Since when, and why, a QPU refuses the credentials with which its tasks are followed."""

    qpu: str
    since: datetime
    reason: str

    def words(self, *, to_user: bool = False) -> str:
        """Say it, and what to do. to_user: of a service; the site's own words are for operators."""
        why = "; an operator has to renew them" if to_user else f": {self.reason}"
        return (
            f"QPU {self.qpu} has refused the credentials since "
            f"{self.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC{why}; its tasks go on, and are "
            "looked at again until it accepts them"
        )


def advice_in_doubt(job: JobId, run: str, user: str) -> str:
    """Return what to do about an uncertain job. user: empty outside a service.

    A run's own broker has no other operator than its user.
    """
    who = "an operator looks" if user else "look"
    says = "says" if user else "say"
    return (
        f"{who} in the QPU's own system for the task, by its tag or its time and size, and {says} what "
        f"became of it: 'hpcqc broker resolve {job} --as not-started --reason TEXT' if it never ran, "
        f"'--as failed' if it ran or nobody knows; then the run goes on with the same command and "
        f"--run-id {run}, which starts the job again"
    )
