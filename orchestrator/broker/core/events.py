"""What can happen to quantum jobs and qpu_tasks: the facts that the ledger keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, get_args

from backends.api import Usage
from backends.metering import Charge
from backends.shapes import ItemShape, Piece
from orchestrator.broker.core.codec import from_json
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.identity import JobId

__all__ = [
    "BrokerOpened",
    "BudgetSet",
    "Event",
    "JobCancelRequested",
    "JobResumed",
    "JobSubmitted",
    "LeaseClosed",
    "LeaseEnd",
    "LeaseOpened",
    "Part",
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
# Why a lease ended: its time was up, it stood idle for too long, or its holder let it go.
LeaseEnd = Literal["time", "idle", "released"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Piece):
    """A piece of a job's payload."""

    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOpened:
    """A broker opened this scope; open tasks are those of a dead process.

    resume: whether queued jobs go on by themselves (service), or wait for their client (embedded).
    """

    kind: ClassVar[str] = "broker-opened"
    resume: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """A result may be used again. key, calibration: digest and calibration that it depends on.

    source: the completed job whose result this one gets, None if it has to run.
    """

    key: str
    calibration: str
    source: JobId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(JobRequest):
    """A client submitted one primitive call; its payload is stored under ``digest``.

    project and user, who asked, are empty where one broker serves one process.
    predicted_s, reserved: at admission, the QPU-seconds it was expected to take, None where nothing
    was known, and what was set aside for it from its budgets.
    reuse: set where the stage asked for it; with a source, the job is complete at once.
    """

    kind: ClassVar[str] = "job-submitted"
    run: str  # earlier brokers did not check it
    project: str = ""
    job: JobId
    backend: str
    payload_kind: str
    digest: str
    pubs: tuple[ItemShape, ...]
    num_qubits: int
    user: str = ""
    predicted_s: float | None = None
    reserved: Charge | None = None
    reuse: Reuse | None = None

    @property
    def source(self) -> JobId | None:
        """The job whose result this one gets, None if it has one of its own."""
        return None if self.reuse is None else self.reuse.source


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResumed:
    """The client asked again for a job. calibration: that its circuits are prepared for now."""

    kind: ClassVar[str] = "job-resumed"
    job: JobId
    calibration: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelRequested:
    """The client cancels the job."""

    kind: ClassVar[str] = "job-cancel-requested"
    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlanned:
    """The broker is about to start these parts under this tag; written before ``start``.

    predicted_s: the QPU-seconds it is expected to take, None where nothing is known.
    alone: what each of its jobs would be charged for its parts in a task of its own, in ``unit``;
    the task's usage is shared in these proportions, so each job saves the same part of its price.
    lease: under which it runs. provisional: it begins outside the quality windows.
    why: what the decision rested on: policy, urgency and its terms, how many waited, who was
    passed over and for what reason.
    """

    kind: ClassVar[str] = "task-planned"
    tag: str
    qpu: str
    parts: tuple[Part, ...]
    predicted_s: float | None = None
    alone: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""
    lease: str | None = None
    provisional: bool = False
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
    """The task failed: it ended without a result. error_type names the class of `backends.api`.

    usage: QPU-seconds that it occupied, as far as they are known, and what is billed for them.
    """

    kind: ClassVar[str] = "task-failed"
    tag: str
    error: str
    error_type: str
    usage: Usage = field(default_factory=Usage)


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
    """An uncertain task was settled by rule or by an operator.

    verdict: ``failed`` gives its jobs up, ``not-started`` says that the QPU never ran it, so
    its work may be started again under another tag. by: the rule, or who decided.
    """

    kind: ClassVar[str] = "task-resolved"
    tag: str
    verdict: Verdict
    by: str
    reason: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseClosed:
    """A lease is over. at: when it ended, which may be before this was noticed.

    held_s: how long the QPU was kept for it; used_s: how long tasks ran in that time.
    """

    kind: ClassVar[str] = "lease-closed"
    lease: str
    qpu: str
    reason: LeaseEnd
    at: datetime
    held_s: float = 0.0
    used_s: float = 0.0


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
    """The QPU was calibrated anew; waiting jobs were prepared for its earlier state.

    calibration: the id now; before: the last known one, empty if none.
    """

    kind: ClassVar[str] = "calibration-changed"
    qpu: str
    calibration: str
    before: str = ""


Event = (
    BrokerOpened
    | JobSubmitted
    | JobResumed
    | JobCancelRequested
    | TaskPlanned
    | TaskStarted
    | TaskAdopted
    | TaskCompleted
    | TaskErred
    | TaskStopped
    | TaskUncertain
    | TaskResolved
    | QpuDrained
    | QpuResumed
    | LeaseOpened
    | LeaseClosed
    | BudgetSet
    | QpuRecalibrated
)
_TYPES: dict[str, type[Any]] = {one.kind: one for one in get_args(Event)}


def event_from_json(kind: str, body: str) -> Event:
    """Rebuild an event. Raises ``ValueError`` for a kind this version does not know."""
    if kind not in _TYPES:
        raise ValueError(f"unknown event kind {kind!r}; this version knows {sorted(_TYPES)}")
    event: Event = from_json(_TYPES[kind], body)
    return event
