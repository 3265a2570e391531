"""Why a job waits, why it went when it did, and when it will probably run (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orchestrator.broker.core.policies import QueuedJob
from orchestrator.broker.core.records import JobRecord, TaskRecord
from orchestrator.broker.core.rules import in_utc
from orchestrator.broker.core.scheduler import SchedulingContext, expected
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobState, QpuTaskState, advice_in_doubt
from orchestrator.identity import JobId
from orchestrator.wording import counted

__all__ = ["Explanation", "TaskReason", "explain", "no_room", "work_left_s"]

_UNSERVED = "its QPU cannot be opened now; an operator sees why in its status"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReason:
    """Why one task of a job was started when it was.

    predicted_s, actual_s: QPU-seconds. shared_with: how many other jobs were in it; saved: the part
    of its price that this spared the job. why: what the decision recorded, other jobs left out.
    """

    tag: str
    planned_at: datetime
    policy: str
    text: str
    predicted_s: float | None = None
    actual_s: float | None = None
    shared_with: int = 0
    saved: float = 0.0
    why: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job waits or ran when it did, without names of other users.

    waits_for: why it does not run, the strongest reason first; empty for one that does not wait.
    ahead: jobs that go before it as things stand. expected_start: when its next task will begin if
    nobody comes before it meanwhile, None if that is not known.
    overtaken_by: jobs that came later and were started while it waited, None if that is forgotten.
    """

    job: JobId
    qpu: str
    state: JobState
    waits_for: tuple[str, ...] = ()
    ahead: int | None = None
    expected_start: datetime | None = None
    predicted_s: float | None = None
    overtaken_by: int | None = None
    tasks: tuple[TaskReason, ...] = ()


def explain(
    state: BrokerState, job: JobId, now: datetime, unserved: str = _UNSERVED
) -> Explanation:
    """Explain a job from recorded decisions and the queue. Raises ``KeyError`` if it is forgotten.

    unserved: why a job waits whose QPU this state does not serve.
    """
    record = state.jobs[job]
    qpu = record.submitted.qpu
    reasons: list[str] = []
    ahead: int | None = None
    start: datetime | None = None
    if not record.state.is_final:
        reasons += _held_back(record)
        if record.pending and not reasons:
            if qpu in state.rules:
                reasons, ahead, start = _queued(state, record, now)
            else:
                reasons.append(unserved)
        if qpu in state.denied:
            reasons.insert(0, state.denied[qpu].words(to_user=bool(record.submitted.user)))
    return Explanation(
        job=job,
        qpu=qpu,
        state=record.state,
        waits_for=tuple(reasons),
        ahead=ahead,
        expected_start=start,
        predicted_s=record.submitted.predicted_s,
        overtaken_by=_overtaken(state, record),
        tasks=tuple(_task_reason(state.tasks[tag], job) for tag in dict.fromkeys(record.tasks)),
    )


def work_left_s(state: BrokerState, context: SchedulingContext, now: datetime) -> float | None:
    """Return for how long a QPU has work, in seconds on the clock, closures left out.

    None if the length of some of it is not known: the QPU has no timing model, and nothing of it was
    measured yet. Tasks whose state is not certain are left out.
    """
    scale = context.rules.clock_scale
    found = [_left_s(task, context, now) for task in _running(state, context.qpu)]
    for job in state.queued(context.qpu):
        submitted = state.jobs[job].submitted
        if submitted.predicted_s is None:  # nothing was known of it when it came
            whole_s, _ = expected(submitted, context.rules, context.accuracy)
            found.append(None if whole_s is None else whole_s * scale)
        elif job in context.queue:
            found.append(context.queue[job].seconds * scale)
        else:  # it waits for Slurm's confirmation
            found.append(submitted.predicted_s * scale)
    known = [seconds for seconds in found if seconds is not None]
    if len(known) < len(found):
        return None
    return sum(known) / (context.rules.limits.max_concurrent_tasks or 1)


def no_room(context: SchedulingContext, now: datetime, seconds: float) -> str | None:
    """Return why a job of so many QPU-seconds would not start at once; None if it would."""
    most = context.rules.limits.max_concurrent_tasks
    if most is not None and context.busy >= most:
        return f"the QPU is busy with {counted(context.busy, 'task')}"
    if len(context.queue):
        return f"{counted(len(context.queue), 'job')} wait for it"
    if context.lease is not None:
        return "the QPU is leased to an iterative loop"
    free_at = context.rules.next_start(context.starts)
    if free_at is not None and free_at > now:
        return f"the machine takes the next start at {in_utc(free_at)}"
    free_s = context.rules.calendar.free_s(now)
    if seconds * context.rules.clock_scale > free_s:
        return f"the QPU closes in {free_s:.0f} s"
    return None


def _held_back(record: JobRecord) -> list[str]:
    if record.uncertain:
        of = record.submitted
        advice = advice_in_doubt(of.job, of.run, of.user)
        return [f"whether a task of it runs, or ran, cannot be known; {advice}"]
    if record.held:
        return ["its client is gone; it goes on when the run is started again"]
    if record.cancel_requested:
        return ["it was cancelled; what runs of it is being stopped"]
    if record.failure is not None:
        return ["a task of it failed; what still runs is being stopped"]
    if not record.granted:
        slurm_job = record.submitted.slurm_job
        return [f"Slurm has not confirmed that its job {slurm_job} runs and holds the QPU"]
    return []


def _queued(
    state: BrokerState, record: JobRecord, now: datetime
) -> tuple[list[str], int | None, datetime | None]:
    """Return the reasons why a job's next task is not started, its place, and its likely start."""
    qpu = record.submitted.qpu
    context = state.context(qpu, now)
    wish = record.submitted.lease
    reasons = list(_of_qpu(state, context, now, None if wish is None else wish.id))
    if record.submitted.job not in context.queue:
        return reasons, None, None
    before = 0
    work_s = 0.0
    scale = context.rules.clock_scale
    for queued in _in_turn(context):
        if queued.job == record.submitted.job:
            break
        before += 1
        work_s += queued.seconds * scale
    mine = context.queue[record.submitted.job]
    free_s = context.rules.calendar.free_s(now)
    if 0 < free_s < mine.least_s:
        closure = context.rules.calendar.next_closure(now)
        assert closure is not None
        reasons.append(
            f"it takes about {mine.least_s:.3g} s and would not end before the {closure.kind} at "
            f"{in_utc(closure.start)}; shorter work may go first"
        )
    if before:
        terms = context.rules.policy.terms(mine, context.situation)
        listed = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
        urgency = f" (its urgency: {listed})" if listed else ""
        reasons.append(
            f"{before} job{'s go' if before > 1 else ' goes'} before it by policy "
            f"{context.rules.policy.name}{urgency}"
        )
    start = None if context.is_drained else _likely_start(state, context, work_s, mine.least_s, now)
    return reasons, before, start


def _in_turn(context: SchedulingContext) -> Iterator[QueuedJob]:
    """Yield waiting jobs in their order: those of an open lease first."""
    lease = None if context.lease is None else context.lease.opened.lease
    if lease is not None:
        yield from context.queue.of_lease(lease)
    for queued in context.queue.ordered(context.situation):
        if lease is None or queued.lease != lease:
            yield queued


def _of_qpu(
    state: BrokerState, context: SchedulingContext, now: datetime, mine: str | None
) -> Iterator[str]:
    """Yield reasons why the QPU starts nothing, or only jobs of its lease. mine: the job's lease."""
    rules = context.rules
    if context.is_drained:
        yield f"QPU {context.qpu} is drained: {state.drained[context.qpu].reason}"
    closure = rules.calendar.closure_at(now)
    if closure is not None:
        yield f"QPU {closure.closed(context.qpu)}"
    lease = context.lease
    if lease is not None and lease.opened.lease != mine:
        until = lease.opened.until
        yield (
            f"the QPU is leased to an iterative loop until {until:%H:%M:%S} UTC at the latest, or "
            f"until the loop pauses for {lease.opened.idle_s:g} s"
        )
    free_at = rules.next_start(context.starts)
    if rules.rate is not None and free_at is not None and free_at > now:
        starts = counted(rules.rate.starts, "start")
        yield (
            f"the machine takes {starts} in {rules.rate.per_s:g} s; the next one is at "
            f"{free_at:%H:%M:%S} UTC"
        )
    most = rules.limits.max_concurrent_tasks
    if most is not None and context.busy >= most:
        yield (
            f"the QPU is busy with {counted(context.busy, 'task')}"
            if most > 1
            else "the QPU is busy with another task"
        )


def _running(state: BrokerState, qpu: str) -> Iterator[TaskRecord]:
    tasks = (state.tasks[tag] for tag in state.open_tasks(qpu))
    return (task for task in tasks if task.state is not QpuTaskState.UNCERTAIN)


def _left_s(task: TaskRecord, context: SchedulingContext, now: datetime) -> float | None:
    """Return how long a task still takes by the clock, None if that was not predicted."""
    if task.planned.predicted_s is None:
        return None
    since = task.started_at or task.planned_at
    whole_s = task.planned.predicted_s * context.rules.clock_scale
    return max(0.0, whole_s - (now - since).total_seconds())


def _likely_start(
    state: BrokerState, context: SchedulingContext, work_s: float, length_s: float, now: datetime
) -> datetime | None:
    running_s = sum(_left_s(task, context, now) or 0.0 for task in _running(state, context.qpu))
    most = context.rules.limits.max_concurrent_tasks or 1
    left_s = (running_s + work_s) / most
    at = now
    # Work goes on between closures; what does not fit in front of one waits behind it.
    while True:
        free_s = context.rules.calendar.free_s(at)
        if left_s + length_s <= free_s:
            return at + timedelta(seconds=left_s)
        if math.isinf(free_s):
            return None
        left_s = max(0.0, left_s - free_s)
        closure = context.rules.calendar.closure_at(at) or context.rules.calendar.next_closure(at)
        assert closure is not None
        at = closure.end


def _overtaken(state: BrokerState, record: JobRecord) -> int:
    """Return how many later jobs were started between this one's arrival and its first task."""
    first = min((state.tasks[tag].planned_at for tag in record.tasks), default=None)
    later: set[JobId] = set()
    for task in state.tasks.values():
        if task.planned.qpu != record.submitted.qpu or task.planned_at < record.submitted_at:
            continue
        if first is None or task.planned_at < first:
            lead = state.jobs.get(task.jobs[0])
            if lead is not None and lead.arrival > record.arrival:
                later.add(lead.submitted.job)
    return len(later)


def _task_reason(task: TaskRecord, job: JobId) -> TaskReason:
    planned = task.planned
    leads = job == task.jobs[0]
    # The terms are those of the job that led the task; of other jobs a user sees the number.
    why = {k: v for k, v in planned.why.items() if leads or k in ("policy", "queued")}
    passed = why.pop("passed_over", None)
    if passed:
        why["passed_over"] = passed["count"]
    others = len(task.jobs) - 1
    alone = planned.alone.get(job, 0.0)
    charged = [c.amount for c in task.usage.charges if c.unit == planned.unit]
    saved = max(0.0, 1 - charged[0] * task.share(job) / alone) if charged and alone else 0.0
    done = task.state is QpuTaskState.COMPLETED
    return TaskReason(
        tag=planned.tag,
        planned_at=task.planned_at,
        policy=str(planned.why.get("policy", "")),
        text="; ".join(_words(task, why, others, saved) if leads else _joined(others, saved)),
        predicted_s=planned.predicted_s,
        actual_s=task.usage.qpu_seconds if done else None,
        shared_with=others,
        saved=saved,
        why=why,
    )


def _shared(others: int, saved: float) -> str:
    spared = f", which saved it {saved:.0%} of the price" if saved else ""
    return f"shared with {counted(others, 'other job')}{spared}"


def _joined(others: int, saved: float) -> Iterator[str]:
    yield "joined a task that was about to start"
    yield _shared(others, saved)


def _words(task: TaskRecord, why: Mapping[str, Any], others: int, saved: float) -> Iterator[str]:
    waiting = int(why.get("queued", 1)) - 1
    if not waiting:
        yield "nobody else waited"
    elif task.planned.lease is not None:
        yield f"its loop held the QPU by a lease, {waiting} more waited"
    elif why.get("overdue"):
        yield f"it had waited longest of all beyond the bound, {waiting} more waited"
    else:
        terms = ", ".join(f"{name} {value:.3g}" for name, value in why.get("terms", {}).items())
        by = f" by {terms}" if terms else ""
        yield f"most urgent of {waiting + 1}{by}"
    if "passed_over" in why:
        yield (
            f"{why['passed_over']} before it would not have ended in the "
            f"{why.get('free_s', 0):g} s left before the QPU closes"
        )
    if others:
        yield _shared(others, saved)
    if task.planned.provisional:
        yield "outside the quality windows, so its result is provisional"
