"""What can happen to quantum jobs and qpu_tasks: the facts that the ledger keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from backends.api import Usage
from backends.metering import Charge
from orchestrator.broker.views import JobId

__all__ = [
    "BrokerOpened",
    "Event",
    "JobCancelRequested",
    "JobResumed",
    "JobSubmitted",
    "Part",
    "PubShape",
    "QpuDrained",
    "QpuResumed",
    "TaskAdopted",
    "TaskCancelled",
    "TaskCompleted",
    "TaskFailed",
    "TaskPlanned",
    "TaskResolved",
    "TaskStarted",
    "TaskUncertain",
    "Verdict",
    "event_from_json",
    "event_to_json",
]


Verdict = Literal["failed", "not-started"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PubShape:
    """Size of a PUB: parameter points, and shots per point (0 for a native estimator)."""

    points: int
    shots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A rectangle of a PUB's work: points [first_point, end_point) × shots [first_shot, end_shot).

    An estimator PUB has no shots and is never cut: end_shot is 0.
    """

    job: JobId
    pub: int
    first_point: int
    end_point: int
    first_shot: int
    end_shot: int

    @property
    def points(self) -> int:
        """Parameter points covered."""
        return self.end_point - self.first_point

    @property
    def shots(self) -> int:
        """Shots per point covered."""
        return self.end_shot - self.first_shot


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOpened:
    """A broker began to work on this scope; whatever was open belongs to a dead process.

    resume: whether queued jobs go on by themselves (service) or wait until their client
    asks again (embedded).
    """

    kind: ClassVar[str] = "broker-opened"
    resume: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted:
    """A client handed in one primitive call; its payload is stored under ``digest``.

    project: who pays; user: who asked. Both are empty where one broker serves one process.
    """

    kind: ClassVar[str] = "job-submitted"
    job: JobId
    run: str
    stage: str | None
    call: int
    qpu: str
    backend: str
    payload_kind: str
    digest: str
    pubs: tuple[PubShape, ...]
    num_qubits: int
    seed: int | None
    project: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResumed:
    """The client asked again for a job that was held, failed or cancelled."""

    kind: ClassVar[str] = "job-resumed"
    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelRequested:
    """The client no longer wants the result."""

    kind: ClassVar[str] = "job-cancel-requested"
    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlanned:
    """The broker is about to start these parts under this tag; written before ``start``."""

    kind: ClassVar[str] = "task-planned"
    tag: str
    qpu: str
    parts: tuple[Part, ...]


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
class TaskFailed:
    """The task ended without a result. error_type names the class of `backends.api`."""

    kind: ClassVar[str] = "task-failed"
    tag: str
    error: str
    error_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelled:
    """The task was stopped, or was never started because nobody wanted it any more."""

    kind: ClassVar[str] = "task-cancelled"
    tag: str


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


Event = (
    BrokerOpened
    | JobSubmitted
    | JobResumed
    | JobCancelRequested
    | TaskPlanned
    | TaskStarted
    | TaskAdopted
    | TaskCompleted
    | TaskFailed
    | TaskCancelled
    | TaskUncertain
    | TaskResolved
    | QpuDrained
    | QpuResumed
)
_TYPES: dict[str, type[Any]] = {
    event_type.kind: event_type
    for event_type in (
        BrokerOpened,
        JobSubmitted,
        JobResumed,
        JobCancelRequested,
        TaskPlanned,
        TaskStarted,
        TaskAdopted,
        TaskCompleted,
        TaskFailed,
        TaskCancelled,
        TaskUncertain,
        TaskResolved,
        QpuDrained,
        QpuResumed,
    )
}


def event_to_json(event: Event) -> dict[str, Any]:
    """Return the event's fields as JSON types; its ``kind`` is kept apart."""
    return asdict(event)


def event_from_json(kind: str, body: Mapping[str, Any]) -> Event:
    """Rebuild an event. Raises ``ValueError`` for a kind this version does not know."""
    if kind not in _TYPES:
        raise ValueError(f"unknown event kind {kind!r}; this version knows {sorted(_TYPES)}")
    fields = dict(body)
    if "parts" in fields:
        fields["parts"] = tuple(Part(**part) for part in fields["parts"])
    if "pubs" in fields:
        fields["pubs"] = tuple(PubShape(**shape) for shape in fields["pubs"])
    if "usage" in fields:
        usage = fields["usage"]
        charges = tuple(Charge(**charge) for charge in usage["charges"])
        fields["usage"] = Usage(**{**usage, "charges": charges})
    event: Event = _TYPES[kind](**fields)
    return event
