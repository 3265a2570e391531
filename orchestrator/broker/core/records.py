"""What the broker remembers of one job and of one qpu_task while events come in."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

from backends.api import Usage
from backends.metering import Charge
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.grants import Grant
from orchestrator.broker.core.packing import subtract
from orchestrator.broker.core.views import JobState, JobView, QpuTaskState, QpuTaskView
from orchestrator.identity import JobId

__all__ = [
    "InvalidTransition",
    "JobRecord",
    "PastUse",
    "TaskRecord",
    "by_part",
    "job_view",
    "shared_usage",
    "used_by",
]

# Metadata of a shared task that all its jobs may see.
_OF_THE_DEVICE = ("calibration_id", "profile", "provisional")
# Metadata of a task that state one value for each item of its payload.
_OF_EACH_ITEM = ("method", "seed")
_SHARED_ERROR = "a task that was shared with other jobs failed; each is tried again by itself"


class InvalidTransition(Exception):
    """An event asks a qpu_task for a change that its state does not allow; the text has its history."""


@dataclass(slots=True)
class TaskRecord:
    """A qpu_task from plan to end."""

    planned: ev.TaskPlanned
    planned_at: datetime
    state: QpuTaskState = QpuTaskState.PLANNED
    qpu_task: str | None = None
    starts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    usage: Usage = field(default_factory=Usage)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    late: bool = False  # completed after it was given up: the usage counts, the result does not
    start_in_doubt: bool = False  # a start was sent, or may have been, and no answer is known
    # Under which it runs or ran, for each of its jobs that another Slurm job took over since.
    slurm_jobs: dict[JobId, int | None] = field(default_factory=dict)

    @property
    def jobs(self) -> tuple[JobId, ...]:
        """Jobs that have a part in this task, each once, in order."""
        return tuple(dict.fromkeys(part.job for part in self.planned.parts))

    @property
    def provisional(self) -> bool:
        """Whether its result is provisional; what the QPU states comes first."""
        own = self.metadata.get("provisional")
        stated = self.planned.provisional if own is None else own or self.planned.provisional
        return self.state is QpuTaskState.COMPLETED and bool(stated)

    def grant(self, job: ev.JobSubmitted) -> Grant | None:
        """Return the Slurm job under which it runs for a job, which may be bound to a later one."""
        slurm_job = self.slurm_jobs.get(job.job, job.slurm_job)
        return None if slurm_job is None else Grant(job.qpu, job.user, slurm_job)

    def start(self, qpu_task: str, now: datetime) -> None:
        """Note that the backend runs it under this id."""
        if self.qpu_task != qpu_task and (self.qpu_task is not None or not self.starts):
            self.starts += 1  # a start that `note_metered` counted has its id only now
        self.qpu_task, self.start_in_doubt = qpu_task, False
        if not self.state.is_final:  # a late notice of its start changes nothing
            self._become(QpuTaskState.RUNNING)
        self.started_at = self.started_at or now

    def end(self, event: ev.TaskCompleted | ev.TaskErred | ev.TaskStopped, now: datetime) -> None:
        """Note how it ended. Raises `InvalidTransition` if it had ended before."""
        match event:
            case ev.TaskCompleted():
                self._become(QpuTaskState.COMPLETED)
                self.error, self.metadata = None, event.metadata
            case ev.TaskErred():
                self._become(QpuTaskState.FAILED)
                self.error = event.error
            case ev.TaskStopped():
                self._become(QpuTaskState.CANCELLED)
                self.start_in_doubt = False  # it surely never ran, or has been found and stopped
        self.ended_at, self.usage = now, event.usage

    def note_metered(self) -> None:
        """Note that it was started after all: the site metered it."""
        self.starts, self.start_in_doubt = max(self.starts, 1), False

    def doubt(self, reason: str) -> None:
        """Note that its start is uncertain. Raises `InvalidTransition` after its end."""
        self._become(QpuTaskState.UNCERTAIN)
        self.error, self.start_in_doubt = reason, self.qpu_task is None

    def _become(self, state: QpuTaskState) -> None:
        if not self.state.may_become(state):
            raise InvalidTransition(
                f"task {self.planned.tag} cannot become {state}: {self.history()}"
            )
        self.state = state

    def history(self) -> str:
        """Return what happened to the task, on one line."""
        steps = [f"planned {self.planned_at.isoformat()} on {self.planned.qpu}"]
        if self.started_at is not None:
            steps.append(f"started {self.started_at.isoformat()} as {self.qpu_task}")
        if self.ended_at is not None:
            steps.append(f"{self.state} {self.ended_at.isoformat()}")
        elif self.state is not QpuTaskState.PLANNED:
            steps.append(f"{self.state} now")
        return ", ".join(steps) + (f" ({self.error})" if self.error else "")

    @property
    def may_come_late(self) -> bool:
        """Whether it would be news that it completed after all."""
        return self.state is not QpuTaskState.COMPLETED and not self.late

    def share(self, job: JobId) -> float:
        """Return a job's share of the task: by its price alone, else by shots, else by points."""
        alone = self.planned.alone
        if alone:
            return alone[job] / sum(alone.values())
        weights = [(p.job, p.points * (p.shots or 1)) for p in self.planned.parts]
        return sum(w for owner, w in weights if owner == job) / sum(w for _, w in weights)


@dataclass(slots=True)
class JobRecord:
    """A job from submission to end."""

    submitted: ev.JobSubmitted
    arrival: int
    submitted_at: datetime
    pending: deque[ev.Part] = field(default_factory=deque)  # not in any task
    tasks: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)
    held: bool = False  # its client is gone
    granted: bool = True  # the Slurm job it is bound to, if any, holds the QPU
    alone: bool = False
    cancel_requested: bool = False
    failure: ev.TaskErred | None = None
    moved_from: str = ""  # its own QPU, where another one took over what was left
    moved_for: str = ""  # why
    ended_at: datetime | None = None
    charged: float = 0.0  # so far, in the unit of its reservation
    outstanding: float = 0.0  # still set aside, in that unit

    def outstanding_now(self) -> float:
        """Return what must be set aside for what is still to come."""
        reserved = self.submitted.reserved
        if reserved is None or self.held or self.state.is_final:
            return 0.0
        return max(0.0, reserved.amount - self.charged)

    @property
    def startable(self) -> bool:
        """Whether the next part may be planned."""
        stopped = self.held or self.cancel_requested or self.failure is not None
        return bool(self.pending) and self.granted and not stopped and not self.uncertain

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for what is left of it: it is cancelled, or failed for good."""
        return self.cancel_requested or self.failure is not None

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        if self.uncertain:
            return JobState.UNCERTAIN
        if not self.pending and not self.open:
            return JobState.COMPLETED
        if self.open:
            return JobState.RUNNING
        if self.failure is not None:
            return JobState.FAILED
        return JobState.CANCELLED if self.cancel_requested else JobState.QUEUED

    @property
    def asked_qpu(self) -> str:
        """The QPU that the job was submitted to."""
        return self.moved_from or self.submitted.qpu

    @property
    def may_fail_over(self) -> bool:
        """Whether another QPU may take over what is left, which happens once."""
        return bool(self.submitted.failover) and not self.moved_from and not self.is_unwanted

    def move(self, qpu: str, reason: str) -> None:
        """Let another QPU have what is left; what was prepared for the first one goes as it is."""
        self.moved_from, self.moved_for = self.submitted.qpu, reason
        self.submitted = replace(self.submitted, qpu=qpu, calibration="", slurm_job=None)
        self.granted, self.failure, self.alone = True, None, False

    def resume(self, calibration: str, slurm_job: int | None) -> None:
        """Go on under this Slurm job, with circuits found good for a calibration if one is given."""
        self.held = False
        if self.state is JobState.COMPLETED:  # while it waited for its client
            return
        self.cancel_requested = False
        self.failure = self.ended_at = None
        qpu, self.moved_from = self.asked_qpu, ""  # it is tried again there
        if self.submitted.in_place_of:  # its circuits are for the QPU that it was sent to
            qpu, self.moved_from = self.submitted.qpu, self.submitted.in_place_of
        self.submitted = replace(
            self.submitted,
            qpu=qpu,
            calibration=calibration or self.submitted.calibration,
            slurm_job=slurm_job,
        )

    def fail_if_outdated(self, outdated: Collection[str], tasks: Mapping[str, TaskRecord]) -> bool:
        """Give it back to its client if it was prepared for one of these calibrations."""
        wanted = self.submitted.calibration
        if wanted not in outdated or not self.startable or self.open:
            return False
        if any(tasks[tag].state is QpuTaskState.COMPLETED for tag in self.tasks):
            return False  # it goes on; each task states its calibration
        error = (
            f"the QPU {self.submitted.qpu!r} was calibrated anew while the job waited: it was "
            f"transpiled for calibration {wanted}; hand the circuits in again"
        )
        self.failure = ev.TaskErred(tag="", error=error, error_type="CalibrationChanged")
        return True

    def take(self, piece: ev.Part) -> None:
        """Remove a piece from the pending parts; earlier versions may have planned any rectangle."""
        left = piece.points * (piece.shots or 1)
        index = 0
        while left > 0 and index < len(self.pending):
            part = self.pending[index]
            covered = _overlap(part, piece)
            if not covered:
                index += 1
                continue
            left -= covered
            del self.pending[index]
            for rest in subtract(part, piece):
                self.pending.insert(index, rest)
                index += 1
        if left:
            raise ValueError(f"{piece} is not pending in job {self.submitted.job}")

    def give_back(self, parts: Iterable[ev.Part]) -> None:
        """Put parts of a task that did not complete at the front again."""
        self.pending.extendleft(reversed(list(parts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PastUse:
    """What jobs used that are over. jobs: how many they are."""

    jobs: int = 0
    usage: Usage = field(default_factory=Usage)

    def plus(self, used: Usage, sign: int) -> PastUse:
        """Count a job in (sign 1), or out again (sign -1)."""
        change = Usage(
            qpu_seconds=sign * used.qpu_seconds,
            shots=sign * used.shots,
            circuits=sign * used.circuits,
            tasks=sign * used.tasks,
            charges=tuple(Charge(amount=sign * c.amount, unit=c.unit) for c in used.charges),
        )
        return PastUse(jobs=self.jobs + sign, usage=self.usage + change)


def job_view(record: JobRecord, tasks: Mapping[str, TaskRecord]) -> JobView:
    """Return the read-only picture of a job with its share of every task's usage."""
    submitted = record.submitted
    views = tuple(_task_view(tasks[tag], submitted) for tag in dict.fromkeys(record.tasks))
    starts = [view.started_at for view in views if view.started_at is not None]
    state = record.state
    return JobView(
        id=submitted.job,
        qpu=record.asked_qpu,
        backend=submitted.backend,
        kind=submitted.payload_kind,
        state=state,
        run=submitted.run,
        stage=submitted.stage,
        call=submitted.call,
        digest=submitted.digest,
        pubs=len(submitted.pubs),
        circuits=sum(shape.points for shape in submitted.pubs),
        shots=sum(shape.points * shape.shots for shape in submitted.pubs),
        num_qubits=submitted.num_qubits,
        seed=submitted.seed,
        submitted_at=record.submitted_at,
        started_at=min(starts, default=None),
        ended_at=record.ended_at,
        usage=sum((view.usage for view in views), Usage()),
        tasks=views,
        error=record.failure.error if record.failure is not None else None,
        error_type=record.failure.error_type if record.failure is not None else None,
        project=submitted.project,
        user=submitted.user,
        provisional=any(view.provisional for view in views),
        flow=submitted.flow,
        coupling=submitted.coupling,
        source=submitted.source,
        labels=submitted.labels,
        failover=submitted.qpu if record.moved_from else "",
        failover_reason=record.moved_for if record.moved_from else "",
        slurm_job=submitted.slurm_job,
    )


def _task_view(task: TaskRecord, submitted: ev.JobSubmitted) -> QpuTaskView:
    job, grant = submitted.job, task.grant(submitted)
    parts = [part for part in task.planned.parts if part.job == job]
    return QpuTaskView(
        tag=task.planned.tag,
        qpu=task.planned.qpu,
        qpu_task=task.qpu_task,
        state=task.state,
        starts=task.starts,
        start_in_doubt=task.start_in_doubt,
        shots=sum(part.points * part.shots for part in parts),
        planned_at=task.planned_at,
        started_at=task.started_at,
        ended_at=task.ended_at,
        usage=shared_usage(task, job),
        metadata=_own_metadata(task, job),
        error=task.error if len(task.jobs) == 1 or task.error is None else _SHARED_ERROR,
        late=task.late,
        saved=_saved(task, job),
        provisional=task.provisional,
        slurm_job=None if grant is None else grant.slurm_job,
    )


def _overlap(part: ev.Part, piece: ev.Part) -> int:
    """Return how much two parts of one job have in common: shots, or points without shots."""
    if part.pub != piece.pub:
        return 0
    points = min(part.end_point, piece.end_point) - max(part.first_point, piece.first_point)
    shots = min(part.end_shot, piece.end_shot) - max(part.first_shot, piece.first_shot)
    if not part.end_shot:
        shots = 1
    return max(0, points) * max(0, shots)


def _own_metadata(task: TaskRecord, job: JobId) -> Mapping[str, Any]:
    """Return a task's metadata about a job's own PUBs and about the device."""
    if len(task.jobs) == 1:
        return task.metadata
    mine = [index for index, part in enumerate(task.planned.parts) if part.job == job]
    own = {key: value for key, value in task.metadata.items() if key in _OF_THE_DEVICE}
    for key in _OF_EACH_ITEM:
        values = task.metadata.get(key)
        if isinstance(values, list) and len(values) == len(task.planned.parts):
            own[key] = [values[index] for index in mine]
    return own


def by_part(metadata: Mapping[str, Any], parts: Sequence[ev.Part]) -> dict[str, Any]:
    """Return a task's metadata with one value for each part: that of the part's first block."""
    firsts = list(accumulate((len(part.by_block()) for part in parts), initial=0))
    count = firsts.pop()
    return {
        key: [value[first] for first in firsts]
        if key in _OF_EACH_ITEM and isinstance(value, list) and len(value) == count
        else value
        for key, value in metadata.items()
    }


def _saved(task: TaskRecord, job: JobId) -> float:
    """Return what a job was spared: its price alone, as predicted, less its share of the charge."""
    is_charged = task.state is QpuTaskState.COMPLETED or task.late
    if not is_charged or not task.planned.alone:
        return 0.0
    charges = shared_usage(task, job).charges
    return task.planned.alone[job] - sum(c.amount for c in charges if c.unit == task.planned.unit)


def used_by(record: JobRecord, tasks: Mapping[str, TaskRecord]) -> Usage:
    """Return a job's part of what all its tasks used."""
    job = record.submitted.job
    return sum((shared_usage(tasks[tag], job) for tag in dict.fromkeys(record.tasks)), Usage())


def shared_usage(task: TaskRecord, job: JobId) -> Usage:
    """Return a job's part of what a task used, by `TaskRecord.share`."""
    parts = [part for part in task.planned.parts if part.job == job]
    if len(task.jobs) == 1:
        return task.usage
    share = task.share(job)
    return Usage(
        qpu_seconds=task.usage.qpu_seconds * share,
        shots=sum(part.points * part.shots for part in parts),
        circuits=sum(part.points for part in parts),
        tasks=1 if job == task.jobs[0] else 0,
        charges=tuple(Charge(amount=c.amount * share, unit=c.unit) for c in task.usage.charges),
    )
