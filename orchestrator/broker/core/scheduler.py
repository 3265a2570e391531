"""What may start next on one QPU, and why: pure functions over its queue and its rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain
from typing import Any

from backends.metering import Charge
from backends.shapes import ItemShape
from backends.timing import TimingModel
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.job_request import LeaseWish
from orchestrator.broker.core.packing import SHOT_BLOCK, pack, thin, whole_parts
from orchestrator.broker.core.policies import JobQueue, QueuedJob, Situation
from orchestrator.broker.core.prediction import Accuracy, Load, predicted_charge, predicted_seconds
from orchestrator.broker.core.qpu_history import Lease
from orchestrator.broker.core.records import JobRecord
from orchestrator.broker.core.rules import QpuRules
from orchestrator.identity import JobId, Payer, Tag

__all__ = [
    "Decision",
    "SchedulingContext",
    "expected",
    "least_task_seconds",
    "next_decision",
    "next_look",
    "queued_as",
]

Decision = ev.LeaseClosed | ev.LeaseOpened | ev.TaskPlanned

# So many jobs are tried in front of a window before the rest is left for after it.
_BACKFILL_DEPTH = 1000
# A slice works at least so many times as long as it takes to start, so little is lost by it.
_SLICE_OVER_START = 10
# A Slurm job that holds the QPU has time for so many tasks, so one that is stopped at its end loses little.
_TASKS_IN_ALLOCATION = 4
# A job of more tasks than this is not planned through; the rest is taken to be like the first.
_MOST_PLANNED = 500
_NAMED = 5
# A shorter lease would be over before its first task has begun.
_LEAST_LEASE_S, _LEAST_IDLE_S = 0.1, 0.01
_NO_TIME = datetime.min.replace(tzinfo=UTC)


@dataclass(kw_only=True)
class SchedulingContext:
    """All that decisions about one QPU rest on."""

    qpu: str
    rules: QpuRules
    queue: JobQueue
    jobs: Mapping[JobId, JobRecord]
    look: Callable[[], Situation]  # finds out what the policy looks at
    accuracy: Accuracy = field(default_factory=Accuracy)
    lease: Lease | None = None
    lease_revoked: bool = False  # the Slurm job that it is bound to does not hold the QPU
    busy: int = 0  # running tasks there, without uncertain ones
    busy_for_lease: int = 0  # of them, the lease's
    starts: Sequence[datetime] = ()  # when its last tasks were planned
    is_drained: bool = False

    @cached_property
    def situation(self) -> Situation:
        """What the policy looks at; use is summed up only if something may start."""
        return self.look()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A task that may be planned, with what it is expected to take and cost."""

    parts: Sequence[ev.Part]
    seconds: float | None
    charge: Charge


def next_decision(context: SchedulingContext, now: datetime) -> Decision | None:
    """Return the next thing to do on a QPU; to be asked again once that is done."""
    closed = _closed_lease(context, now)
    if closed is not None:
        return closed
    if context.is_drained or not len(context.queue) or not _may_start(context, now):
        return None
    free_s = context.rules.calendar.free_s(now)
    if free_s <= 0 or context.queue.shortest_s() > free_s:
        return None
    candidates = _candidates(context)
    passed: list[JobId] = []
    for queued in candidates:
        lead = context.jobs[queued.job]
        filling = _Filling(context.rules, context.accuracy, context.jobs, free_s)
        parts = filling.fill([lead])
        if parts:
            wish = lead.submitted.lease
            if wish is not None and context.lease is None and _grants(context.rules):
                return _opened(context, lead.submitted, wish, now)
            joined = _joined(context, lead, candidates) if filling.may_share(lead) else []
            if joined:
                filling = _Filling(context.rules, context.accuracy, context.jobs, free_s)
                parts = filling.fill([lead, *joined])
            return _planned(context, filling.priced(parts), queued, passed, now)
        passed.append(queued.job)
        if len(passed) >= _BACKFILL_DEPTH:
            return None
    return None


def next_look(context: SchedulingContext, now: datetime) -> datetime | None:
    """Return when something may start that may not now, though nothing happens until then."""
    looks: list[datetime] = []
    if context.lease is not None:
        looks.append(context.lease.ends(context.queue.holds_lease(context.lease.opened.lease))[0])
    if len(context.queue) and not context.is_drained:
        free_at = context.rules.next_start(context.starts)
        if free_at is not None:
            looks.append(free_at)
        closure = context.rules.calendar.closure_at(now) or context.rules.calendar.next_closure(now)
        if closure is not None:
            looks.append(closure.end)
    return min((look for look in looks if look > now), default=None)


def queued_as(record: JobRecord, rules: QpuRules, accuracy: Accuracy) -> QueuedJob:
    """Return how a job is to be queued now, with what is left of it."""
    submitted = record.submitted
    first = _first_task(record, rules, accuracy)
    scale = rules.clock_scale
    left = _weight(record.pending) / max(1, _weight_of_job(submitted))
    seconds = submitted.predicted_s * left if submitted.predicted_s is not None else None
    return QueuedJob(
        job=submitted.job,
        arrival=record.arrival,
        payer=Payer(submitted.project, submitted.user),
        priority=submitted.priority,
        submitted_s=record.submitted_at.timestamp(),
        seconds=(first.seconds or 0.0) if seconds is None else seconds,
        least_s=(first.seconds or 0.0) * scale,
        kind=submitted.payload_kind,
        lease=submitted.lease.id if submitted.lease is not None else None,
    )


def expected(
    job: ev.JobSubmitted, rules: QpuRules, accuracy: Accuracy
) -> tuple[float | None, Charge]:
    """Return the QPU-seconds a job will take and what it will be charged, if it is alone."""
    record = JobRecord(submitted=job, arrival=0, submitted_at=_NO_TIME)
    record.pending.extend(whole_parts(job))
    seconds, amount, weight, known = 0.0, 0.0, 0, True
    for _ in range(_MOST_PLANNED):
        if not record.pending:
            break
        task = _first_task(record, rules, accuracy)
        for piece in task.parts:
            record.take(piece)
        known = known and task.seconds is not None
        seconds += task.seconds or 0.0
        amount += task.charge.amount
        weight += _weight(task.parts)
    scale = _weight_of_job(job) / max(1, weight)
    charge = Charge(amount=amount * scale, unit=rules.metering.unit)
    return (seconds * scale if known else None), charge


def least_task_seconds(
    shapes: Sequence[ItemShape],
    num_qubits: int,
    *,
    seeded: bool,
    max_shots: int | None,
    timing: TimingModel,
) -> float:
    """Return the QPU-seconds of a job's longest task, if its tasks are cut as short as they can be.

    >>> shape = ItemShape(points=9, shots=100)
    >>> least_task_seconds([shape], 1, seeded=True, max_shots=None, timing=TimingModel(shot_s=0.5))
    50.0
    """

    def least_s(shape: ItemShape) -> float:
        # With a seed, the shots of a block belong together; an item without shots is never cut.
        shots = min(shape.shots, SHOT_BLOCK if seeded else 1, max_shots or SHOT_BLOCK)
        return timing.duration_s(
            circuits=1 if shape.shots else shape.points,
            shots=shots,
            num_qubits=shape.num_qubits or num_qubits,
            depth=shape.depth,
        )

    return max(map(least_s, shapes), default=0.0)


class _Filling:
    """A task in the making: takes pieces while they fit before the next window, and in a slice."""

    def __init__(
        self,
        rules: QpuRules,
        accuracy: Accuracy,
        jobs: Mapping[JobId, JobRecord],
        free_s: float = float("inf"),
    ) -> None:
        self._rules, self._accuracy, self._jobs, self._free_s = rules, accuracy, jobs, free_s
        self.load = Load()

    def fill(self, records: Sequence[JobRecord]) -> Sequence[ev.Part]:
        """Return the parts that fit, from the first job on; none if not even the first does."""
        return pack(
            (part for record in records for part in record.pending),
            self._rules.limits,
            slice_of=self._slice,
            takes=self._takes,
        )

    def may_share(self, lead: JobRecord) -> bool:
        """Whether others may join the task that this job leads."""
        return self._rules.limits.coalesces and not lead.alone and lead.submitted.lease is None

    def priced(self, parts: Sequence[ev.Part]) -> _Task:
        """Return the task that was made, with what it is expected to take and cost."""
        seconds = predicted_seconds(self.load, self._rules.timing, self._accuracy)
        charge = predicted_charge(self.load, self._rules.metering, seconds)
        return _Task(parts=parts, seconds=seconds, charge=charge)

    def _takes(self, piece: ev.Part) -> bool:
        grown = self.load.plus(piece, self._jobs[piece.job].submitted)
        seconds = predicted_seconds(grown, self._rules.timing, self._accuracy)
        if seconds is not None and seconds * self._rules.clock_scale > self._free_s:
            return False
        most_s = _slice_s(self._rules, grown.num_qubits)
        if self.load.circuits and most_s is not None and seconds is not None:
            start_s = _start_s(self._rules, grown.num_qubits) * self._accuracy.factor
            if seconds - start_s > most_s * (1 + 1e-9):
                return False
        self.load = grown
        return True

    def _slice(self, piece: ev.Part) -> ev.Part:
        return _sliced(piece, self._jobs[piece.job].submitted, self._rules, self._accuracy)


def _sliced(piece: ev.Part, job: ev.JobSubmitted, rules: QpuRules, accuracy: Accuracy) -> ev.Part:
    shape = job.pubs[piece.pub]
    num_qubits = shape.num_qubits or job.num_qubits
    most_s = _slice_s(rules, num_qubits)
    if most_s is None or rules.timing is None or not piece.shots:
        return piece
    one, two = (
        rules.timing.duration_s(circuits=1, shots=n, num_qubits=num_qubits, depth=shape.depth)
        for n in (1, 2)
    )
    per_shot_s = (two - one) * accuracy.factor
    if per_shot_s <= 0:
        return piece
    return thin(piece, max(1, int(most_s / per_shot_s)), keep_shots=job.seed is not None)


def _slice_s(rules: QpuRules, num_qubits: int) -> float | None:
    """Return how long the work of one task may take, None without a bound."""
    if rules.timing is None:
        return None
    start_s = _start_s(rules, num_qubits)
    least_s, bounds = _SLICE_OVER_START * start_s, []
    if rules.slice_s is not None:
        bounds.append(max(rules.slice_s, least_s))
    if rules.allocation_s is not None and rules.allocation_s > 2 * start_s:
        longest_s = max(rules.allocation_s / _TASKS_IN_ALLOCATION, least_s)
        bounds.append(min(longest_s, rules.allocation_s - start_s))
    return min(bounds, default=None)


def _start_s(rules: QpuRules, num_qubits: int) -> float:
    """Return the QPU-seconds that every task takes, whatever it runs."""
    if rules.timing is None:
        return 0.0
    return rules.timing.duration_s(circuits=0, shots=0, num_qubits=num_qubits)


def _first_task(record: JobRecord, rules: QpuRules, accuracy: Accuracy) -> _Task:
    filling = _Filling(rules, accuracy, {record.submitted.job: record})
    parts = filling.fill([record])
    return filling.priced(parts)


def _weight(parts: Iterable[ev.Part]) -> int:
    return sum(part.points * (part.shots or 1) for part in parts)


def _weight_of_job(job: ev.JobSubmitted) -> int:
    return sum(shape.points * (shape.shots or 1) for shape in job.pubs)


def _closed_lease(context: SchedulingContext, now: datetime) -> ev.LeaseClosed | None:
    if context.lease is None:
        return None
    opened = context.lease.opened
    at, reason = context.lease.ends(context.queue.holds_lease(opened.lease))
    if context.lease_revoked and at > now:
        at, reason = now, "allocation"
    if at > now:
        return None
    return ev.LeaseClosed(lease=opened.lease, qpu=context.qpu, reason=reason, at=at)


def _may_start(context: SchedulingContext, now: datetime) -> bool:
    most = context.rules.limits.max_concurrent_tasks
    if most is not None and context.busy >= most:
        return False
    free_at = context.rules.next_start(context.starts)
    return free_at is None or free_at <= now


def _candidates(context: SchedulingContext) -> Iterator[QueuedJob]:
    """Yield the jobs that may go now, in order; those of the lease that is open go first."""
    if context.lease is None:
        return context.queue.ordered(context.situation)
    lease = context.lease.opened.lease
    of_lease = context.queue.of_lease(lease)
    most = context.rules.limits.max_concurrent_tasks
    # One place is reserved for the lease, used or not.
    if most is not None and context.busy - context.busy_for_lease >= most - 1:
        return iter(of_lease)
    others = (q for q in context.queue.ordered(context.situation) if q.lease != lease)
    return chain(of_lease, others)


def _joined(
    context: SchedulingContext, lead: JobRecord, following: Iterator[QueuedJob]
) -> Sequence[JobRecord]:
    """Return jobs that may share the lead's task, in order; more than fit, if there are more."""
    limits, kind = context.rules.limits, lead.submitted.payload_kind
    most = limits.max_circuits or _BACKFILL_DEPTH
    joined: list[JobRecord] = []
    circuits = sum(part.circuits for part in lead.pending)
    for queued in following:
        if circuits >= most or len(joined) >= _BACKFILL_DEPTH:
            break
        record = context.jobs[queued.job]
        if queued.kind == kind and not record.alone and queued.lease is None:
            joined.append(record)
            circuits += sum(part.circuits for part in record.pending)
    return joined


def _grants(rules: QpuRules) -> bool:
    # Where any number of tasks may run, there is nothing to keep.
    return rules.leases is not None and rules.limits.max_concurrent_tasks is not None


def _opened(
    context: SchedulingContext, job: ev.JobSubmitted, wish: LeaseWish, now: datetime
) -> ev.LeaseOpened:
    bounds = context.rules.leases
    assert bounds is not None
    return ev.LeaseOpened(
        lease=wish.id,
        qpu=context.qpu,
        run=job.run,
        project=job.project,
        user=job.user,
        until=now + timedelta(seconds=max(_LEAST_LEASE_S, min(wish.longest_s, bounds.longest_s))),
        idle_s=max(_LEAST_IDLE_S, min(wish.idle_s, bounds.idle_s)),
        slurm_job=job.slurm_job,
    )


def _planned(
    context: SchedulingContext,
    task: _Task,
    lead: QueuedJob,
    passed: Sequence[JobId],
    now: datetime,
) -> ev.TaskPlanned:
    rules, policy, record = context.rules, context.rules.policy, context.jobs[lead.job]
    why: dict[str, Any] = {"policy": policy.name, "queued": len(context.queue)}
    terms = policy.terms(lead, context.situation)
    if terms:
        why["terms"] = {name: round(value, 4) for name, value in terms.items()}
    waited_s = context.situation.now_s - lead.submitted_s
    if policy.longest_wait_s is not None and waited_s > policy.longest_wait_s:
        why["overdue"] = True
    if passed:
        why["passed_over"] = {"jobs": list(passed[:_NAMED]), "count": len(passed)}
        why["free_s"] = round(rules.calendar.free_s(now), 3)
    lease = context.lease.opened.lease if context.lease is not None else None
    mine = record.submitted.lease is not None and record.submitted.lease.id == lease
    return ev.TaskPlanned(
        tag=str(Tag(lead.job, len(record.tasks))),
        qpu=context.qpu,
        parts=tuple(task.parts),
        predicted_s=task.seconds,
        alone=_alone(task.parts, context),
        unit=rules.metering.unit,
        lease=lease if mine else None,
        provisional=rules.calendar.is_provisional(now),
        why=why,
    )


def _alone(parts: Sequence[ev.Part], context: SchedulingContext) -> dict[str, float]:
    """Return what each job's parts would cost in a task of their own; empty for one job."""
    if len({part.job for part in parts}) == 1:
        return {}
    loads: dict[JobId, Load] = {}
    for part in parts:
        load = loads.get(part.job, Load())
        loads[part.job] = load.plus(part, context.jobs[part.job].submitted)
    rules = context.rules
    charges = {}
    for job, load in loads.items():
        seconds = predicted_seconds(load, rules.timing, context.accuracy)
        charges[str(job)] = predicted_charge(load, rules.metering, seconds).amount
    return charges if sum(charges.values()) > 0 else {}
