"""What can happen to quantum jobs and qpu_tasks: the facts that the ledger keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, get_args

from backends.api import Usage
from backends.metering import Charge
from backends.shapes import ItemShape, Piece
from orchestrator.broker.core.choice import QpuChoice, QpuNeeds
from orchestrator.broker.core.codec import from_json
from orchestrator.broker.core.grants import Grant
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.identity import JobId

__all__ = [
    "BrokerOpened",
    "BudgetSet",
    "Event",
    "GrantConfirmed",
    "GrantEnded",
    "GrantSuspended",
    "JobCancelRequested",
    "JobFailedOver",
    "JobRefused",
    "JobResumed",
    "JobSubmitted",
    "LeaseClosed",
    "LeaseEnd",
    "LeaseOpened",
    "Part",
    "QpuAccessLost",
    "QpuAccessRegained",
    "QpuChosen",
    "QpuDrained",
    "QpuRecalibrated",
    "QpuResumed",
    "Reuse",
    "TaskAdopted",
    "TaskCompleted",
    "TaskErred",
    "TaskPlanned",
    "TaskResolved",
    "TaskStarted",
    "TaskStopped",
    "TaskUncertain",
    "Verdict",
    "event_from_json",
]


Verdict = Literal["failed", "not-started"]
# Why a lease ended: its time was up, it stood idle for too long, its holder let it go, or the Slurm
# job that it was bound to ended.
LeaseEnd = Literal["time", "idle", "released", "allocation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Piece):
    """A piece of a job's payload."""

    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOpened:
    """A broker opened this scope; open tasks are those of a dead process."""

    kind: ClassVar[str] = "broker-opened"
    resume: bool  # queued jobs go on (service), or wait for their client (embedded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """A result may be used again."""

    key: str  # digest of all that the result depends on
    calibration: str  # that it depends on
    source: JobId | None = None  # completed job whose result this one gets, None if it has to run


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(JobRequest):
    """A client submitted one primitive call; its payload is stored under ``digest``."""

    kind: ClassVar[str] = "job-submitted"
    run: str  # earlier brokers did not check it
    project: str = ""
    job: JobId
    backend: str
    payload_kind: str
    digest: str
    pubs: tuple[ItemShape, ...]
    num_qubits: int
    user: str = ""  # who asked; empty, as the project, where one broker serves one process
    predicted_s: float | None = None  # expected QPU-seconds at admission, None if unknown
    reserved: Charge | None = None  # set aside from its budgets at admission
    reuse: Reuse | None = None  # if the stage asked; with a source, the job is complete
    refused: str = ""  # why its data may not go to the QPU; then it has failed, unstored

    @property
    def source(self) -> JobId | None:
        """The job whose result this one gets, None if it has one of its own."""
        return None if self.reuse is None else self.reuse.source

    @property
    def grant(self) -> Grant | None:
        """The Slurm job without which it does not run; None where the broker alone shares the QPU."""
        return None if self.slurm_job is None else Grant(self.qpu, self.user, self.slurm_job)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResumed:
    """The client asked again for a job. calibration: that its circuits are prepared for now.

    slurm_job: that holds the QPU for it from now on.
    """

    kind: ClassVar[str] = "job-resumed"
    job: JobId
    calibration: str = ""
    slurm_job: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRefused:
    """A job that was accepted may not go to its QPU any more, by the labels of its data."""

    kind: ClassVar[str] = "job-refused"
    job: JobId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailedOver:
    """What is left of a job goes to the QPU that its stage allows for that; what ran stays.

    qpu: empty where that one takes no work either, so that the job has failed.
    """

    kind: ClassVar[str] = "job-failed-over"
    job: JobId
    qpu: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelRequested:
    """The client cancels the job."""

    kind: ClassVar[str] = "job-cancel-requested"
    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlanned:
    """The broker is about to start these parts under this tag; written before ``start``."""

    kind: ClassVar[str] = "task-planned"
    tag: str
    qpu: str
    parts: tuple[Part, ...]
    predicted_s: float | None = None  # expected QPU-seconds, None if unknown
    # What each job would be charged for its parts in a task of its own, in ``unit``; the usage is
    # shared in these proportions, so each job saves the same part of its price.
    alone: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""
    lease: str | None = None  # under which it runs
    provisional: bool = False  # it begins outside the quality windows
    # Policy, urgency and its terms, how many waited, who was passed over and for what reason.
    why: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted:
    """The backend accepted the task."""

    kind: ClassVar[str] = "task-started"
    tag: str
    qpu_task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAdopted:
    """The task was found on the backend under its tag after an answer had been lost."""

    kind: ClassVar[str] = "task-adopted"
    tag: str
    qpu_task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompleted:
    """The result is in; it is stored under ``tag`` in the same transaction."""

    kind: ClassVar[str] = "task-completed"
    tag: str
    usage: Usage
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskErred:
    """The task failed: it ended without a result. error_type names the class of `backends.api`."""

    kind: ClassVar[str] = "task-failed"
    tag: str
    error: str
    error_type: str
    usage: Usage = field(default_factory=Usage)  # QPU-seconds occupied, if known, and their charge


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStopped:
    """The task was cancelled: stopped, or never started. usage: as in `TaskErred`."""

    kind: ClassVar[str] = "task-cancelled"
    tag: str
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUncertain:
    """Whether the task runs cannot be known; it is never started again by itself."""

    kind: ClassVar[str] = "task-uncertain"
    tag: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResolved:
    """An uncertain task was settled by rule or by an operator."""

    kind: ClassVar[str] = "task-resolved"
    tag: str
    verdict: Verdict  # failed gives its jobs up; not-started: their work may start again
    by: str  # the rule, or who decided
    reason: str
    usage: Usage = field(default_factory=Usage)  # what the site metered for it, if it is known


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuChosen:
    """A QPU was chosen for the work of a stage, or none fits; for what reason."""

    kind: ClassVar[str] = "qpu-chosen"
    run: str
    stage: str | None
    user: str
    project: str
    choice: QpuChoice
    needs: QpuNeeds = field(default_factory=QpuNeeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuDrained:
    """Nothing further is started on the QPU; what runs there goes on to its end."""

    kind: ClassVar[str] = "qpu-drained"
    qpu: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuResumed:
    """The QPU takes work again."""

    kind: ClassVar[str] = "qpu-resumed"
    qpu: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuAccessLost:
    """The QPU refuses the credentials with which its tasks are followed, or started."""

    kind: ClassVar[str] = "access-lost"
    qpu: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuAccessRegained:
    """The QPU accepts the credentials again, or nothing that it refused is open any more."""

    kind: ClassVar[str] = "access-regained"
    qpu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseOpened:
    """A loop got the QPU for a while: its jobs go first there, until then at the latest."""

    kind: ClassVar[str] = "lease-opened"
    lease: str
    qpu: str
    run: str
    project: str
    user: str
    until: datetime
    idle_s: float
    slurm_job: int | None = None  # it ends with this one at the latest

    @property
    def grant(self) -> Grant | None:
        """The Slurm job that it is bound to, None for one that is not."""
        return None if self.slurm_job is None else Grant(self.qpu, self.user, self.slurm_job)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseClosed:
    """A lease is over."""

    kind: ClassVar[str] = "lease-closed"
    lease: str
    qpu: str
    reason: LeaseEnd
    at: datetime  # when it ended, which may be before this was noticed
    held_s: float = 0.0  # how long the QPU was reserved for it
    used_s: float = 0.0  # how long tasks ran in that time


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSet:
    """An account, ``project:NAME`` or ``run:ID``, may spend so much of a unit; None: no limit."""

    kind: ClassVar[str] = "budget-set"
    account: str
    unit: str
    amount: float | None
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuRecalibrated:
    """The QPU was calibrated anew; waiting jobs were prepared for its earlier state."""

    kind: ClassVar[str] = "calibration-changed"
    qpu: str
    calibration: str
    before: str = ""  # the last known one, empty if none


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantConfirmed:
    """Slurm said that the user's job runs and holds the QPU; jobs bound to it may start."""

    kind: ClassVar[str] = "grant-confirmed"
    qpu: str
    user: str
    slurm_job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSuspended:
    """Whether the Slurm job still holds the QPU is not known; nothing further of it starts."""

    kind: ClassVar[str] = "grant-suspended"
    qpu: str
    user: str
    slurm_job: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantEnded:
    """The Slurm job does not hold the QPU: what is bound to it ends."""

    kind: ClassVar[str] = "grant-ended"
    qpu: str
    user: str
    slurm_job: int
    reason: str


Event = (
    BrokerOpened
    | JobSubmitted
    | JobResumed
    | JobRefused
    | JobFailedOver
    | JobCancelRequested
    | TaskPlanned
    | TaskStarted
    | TaskAdopted
    | TaskCompleted
    | TaskErred
    | TaskStopped
    | TaskUncertain
    | TaskResolved
    | QpuChosen
    | QpuDrained
    | QpuResumed
    | QpuAccessLost
    | QpuAccessRegained
    | LeaseOpened
    | LeaseClosed
    | BudgetSet
    | GrantConfirmed
    | GrantSuspended
    | GrantEnded
    | QpuRecalibrated
)
_TYPES: dict[str, type[Any]] = {one.kind: one for one in get_args(Event)}


def event_from_json(kind: str, body: str) -> Event:
    """Rebuild an event. Raises ``ValueError`` for a kind this version does not know."""
    if kind not in _TYPES:
        raise ValueError(f"unknown event kind {kind!r}; this version knows {sorted(_TYPES)}")
    event: Event = from_json(_TYPES[kind], body)
    return event
