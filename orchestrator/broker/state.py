"""The broker as a pure state machine: events in, events to record and commands out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.broker import events as ev
from orchestrator.broker.packing import Limits, pack, subtract, whole_parts
from orchestrator.broker.policy import Policy, QueuedJob, fifo
from orchestrator.broker.records import JobRecord, PastUse, TaskRecord, job_view
from orchestrator.broker.views import JobId, JobState

__all__ = [
    "BrokerState",
    "Command",
    "FindTask",
    "Outcome",
    "SettleJob",
    "StartTask",
    "StopTask",
    "replay",
]


@dataclass(frozen=True, slots=True)
class StartTask:
    """Call the backend's ``start`` for a planned task."""

    tag: str


@dataclass(frozen=True, slots=True)
class FindTask:
    """Ask the backend whether the tag was started; adopt it, or start it if it was not."""

    tag: str


@dataclass(frozen=True, slots=True)
class StopTask:
    """Ask the backend to stop the task."""

    tag: str


@dataclass(frozen=True, slots=True)
class SettleJob:
    """The job is final, or uncertain: tell those who wait for it."""

    job: JobId


Command = StartTask | FindTask | StopTask | SettleJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an event led to. events: to be durable before any of the commands is executed."""

    events: tuple[ev.Event, ...]
    commands: tuple[Command, ...]


@dataclass(slots=True)
class BrokerState:
    """All jobs and tasks of one ledger scope, and the decisions about them.

    No I/O, clock or randomness: time arrives with the events, tags follow from job ids.
    Replaying the events through `apply` gives the same state. past: what forgotten jobs used,
    by project.
    """

    limits: dict[str, Limits] = field(default_factory=dict)
    policy: Policy = fifo
    drained: dict[str, ev.QpuDrained] = field(default_factory=dict)
    jobs: dict[JobId, JobRecord] = field(default_factory=dict)
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    past: dict[str, PastUse] = field(default_factory=dict)
    _arrivals: int = 0
    _waiting: dict[str, dict[JobId, int]] = field(default_factory=dict)
    _open: dict[str, set[str]] = field(default_factory=dict)
    _to_fail: list[str] = field(default_factory=list)

    def handle(self, event: ev.Event, now: datetime) -> Outcome:
        """Apply an event, then plan whatever can start; return all of it.

        A job that is there already was handed in twice before either was written: once is enough.
        """
        if isinstance(event, ev.JobSubmitted) and event.job in self.jobs:
            return Outcome(events=(), commands=())
        commands = self.apply(event, now)
        recorded: list[ev.Event] = [event]
        for decision in self._decide():
            recorded.append(decision)
            commands += self.apply(decision, now)
            if isinstance(decision, ev.TaskPlanned):
                commands.append(StartTask(decision.tag))
        return Outcome(events=tuple(recorded), commands=tuple(commands))

    def apply(self, event: ev.Event, now: datetime) -> list[Command]:
        """Change the state by one event, deciding nothing new; used alone for replay."""
        match event:
            case ev.BrokerOpened():
                return self._reopen(event)
            case ev.JobSubmitted():
                return self._submit(event, now)
            case ev.JobResumed():
                return self._resume(event)
            case ev.JobCancelRequested():
                return self._cancel(event, now)
            case ev.TaskPlanned():
                return self._plan(event, now)
            case ev.TaskStarted() | ev.TaskAdopted():
                return self._start(event, now)
            case ev.TaskUncertain():
                return self._doubt(event)
            case ev.TaskResolved():
                return self._resolve(event, now)
            case ev.QpuDrained() | ev.QpuResumed():
                return self._operate(event)
            case _:
                return self._end(event, now)

    def queued(self, qpu: str) -> list[QueuedJob]:
        """Return the jobs that wait for a QPU, in the order of arrival."""
        waiting = self._waiting.get(qpu, {})
        return [QueuedJob(job=job, arrival=arrival) for job, arrival in waiting.items()]

    def open_tasks(self, qpu: str) -> frozenset[str]:
        """Return the tags of tasks that are planned, running or uncertain on a QPU."""
        return frozenset(self._open.get(qpu, ()))

    def forget(self, jobs: Iterable[JobId]) -> None:
        """Drop jobs that have ended, and the tasks that none but them had a part in."""
        gone = [self.jobs[job] for job in jobs]
        for record in gone:
            self._account(record, 1)
            del self.jobs[record.submitted.job]
        for tag in dict.fromkeys(tag for record in gone for tag in record.tasks):
            task = self.tasks.get(tag)
            if task is not None and not any(job in self.jobs for job in task.jobs):
                del self.tasks[tag]

    def recall(self, record: JobRecord, tasks: Iterable[TaskRecord]) -> None:
        """Take a forgotten job up again as it was; one that is there stays as it is."""
        if record.submitted.job in self.jobs:
            return
        self.jobs[record.submitted.job] = record
        for task in tasks:
            self.tasks.setdefault(task.planned.tag, task)
        self._account(record, -1)

    def _account(self, record: JobRecord, sign: int) -> None:
        project = record.submitted.project
        past = self.past.pop(project, PastUse())
        past = past.plus(job_view(record, self.tasks).usage, sign)
        if past.jobs:
            self.past[project] = past

    def _submit(self, event: ev.JobSubmitted, now: datetime) -> list[Command]:
        record = JobRecord(submitted=event, arrival=self._arrivals, submitted_at=now)
        self._arrivals += 1
        record.pending.extend(whole_parts(event))
        self.jobs[event.job] = record
        self._requeue(record)
        return []

    def _reopen(self, event: ev.BrokerOpened) -> list[Command]:
        for record in self.jobs.values():
            record.held = not event.resume and not record.state.is_final
            self._requeue(record)
        # Planned tasks count too: the death may have come before or after their start.
        return [FindTask(tag) for tags in self._open.values() for tag in sorted(tags)]

    def _resume(self, event: ev.JobResumed) -> list[Command]:
        record = self.jobs[event.job]
        record.held = False
        if record.state is JobState.COMPLETED:  # while it waited for its client
            return []
        record.cancel_requested = False
        record.failure = record.ended_at = None
        self._requeue(record)
        return []

    def _cancel(self, event: ev.JobCancelRequested, now: datetime) -> list[Command]:
        record = self.jobs[event.job]
        if record.state.is_final:
            return []
        record.cancel_requested = True
        self._requeue(record)
        stops: list[Command] = [StopTask(tag) for tag in self._private_tasks(record)]
        return stops + self._settle(record, now)

    def _plan(self, event: ev.TaskPlanned, now: datetime) -> list[Command]:
        self.tasks[event.tag] = TaskRecord(planned=event, planned_at=now)
        self._open.setdefault(event.qpu, set()).add(event.tag)
        for piece in event.parts:
            record = self.jobs[piece.job]
            record.take(piece, subtract)
            if event.tag not in record.open:
                record.tasks.append(event.tag)
            record.open.add(event.tag)
            self._requeue(record)
        return []

    def _start(self, event: ev.TaskStarted | ev.TaskAdopted, now: datetime) -> list[Command]:
        task = self.tasks[event.tag]
        task.start(event.qpu_task, now)
        wanted = any(not self.jobs[job].cancel_requested for job in task.jobs)
        return [] if wanted else [StopTask(event.tag)]

    def _doubt(self, event: ev.TaskUncertain) -> list[Command]:
        task = self.tasks[event.tag]
        if task.ended_at is not None:
            return []
        task.state, task.error = "uncertain", event.reason
        for job in task.jobs:
            self.jobs[job].uncertain.add(event.tag)
        limits = self.limits.get(task.planned.qpu)
        match limits.uncertain if limits else "ask":
            case "fail":
                self._to_fail.append(event.tag)
                return []
            case "adopt-wait":
                return []
            case _:
                return [SettleJob(job) for job in task.jobs]

    def _operate(self, event: ev.QpuDrained | ev.QpuResumed) -> list[Command]:
        if isinstance(event, ev.QpuDrained):
            self.drained[event.qpu] = event
        else:
            self.drained.pop(event.qpu, None)
        return []

    def _resolve(self, event: ev.TaskResolved, now: datetime) -> list[Command]:
        if event.verdict == "not-started":
            return self._end(ev.TaskCancelled(tag=event.tag), now)
        failed = ev.TaskFailed(tag=event.tag, error=event.reason, error_type="TaskUncertain")
        for job in self.tasks[event.tag].jobs:
            self.jobs[job].alone = True  # no second try: it may have run
        return self._end(failed, now)

    def _end(
        self, event: ev.TaskCompleted | ev.TaskFailed | ev.TaskCancelled, now: datetime
    ) -> list[Command]:
        task = self.tasks[event.tag]
        if task.ended_at is not None:  # a late word about a task that was already settled
            if isinstance(event, ev.TaskCompleted):
                task.note_late(event)
            return []
        task.end(event, now)
        self._open[task.planned.qpu].discard(event.tag)
        shared = len(task.jobs) > 1
        commands: list[Command] = []
        for job in task.jobs:
            record = self.jobs[job]
            record.open.discard(event.tag)
            record.uncertain.discard(event.tag)
            if not isinstance(event, ev.TaskCompleted):
                record.give_back(p for p in task.planned.parts if p.job == job)
            if isinstance(event, ev.TaskFailed):
                if shared and not record.alone:
                    record.alone = True  # find out which of the coalesced jobs is at fault
                else:
                    record.failure = event
                    commands += [StopTask(tag) for tag in self._private_tasks(record)]
            self._requeue(record)
            commands += self._settle(record, now)
        return commands

    def _settle(self, record: JobRecord, now: datetime) -> list[Command]:
        if not record.state.is_final or record.ended_at is not None:
            return []
        record.ended_at = now
        return [SettleJob(record.submitted.job)]

    def _private_tasks(self, record: JobRecord) -> list[str]:
        """Open tasks that carry nothing of any other job, so they may be stopped."""
        return sorted(tag for tag in record.open if len(self.tasks[tag].jobs) == 1)

    def _requeue(self, record: JobRecord) -> None:
        waiting = self._waiting.setdefault(record.submitted.qpu, {})
        if record.startable:
            waiting[record.submitted.job] = record.arrival
        else:
            waiting.pop(record.submitted.job, None)

    def _decide(self) -> Iterator[ev.TaskPlanned | ev.TaskResolved]:
        """Yield decisions, one at a time; the caller applies each before asking on."""
        while self._to_fail:
            tag = self._to_fail.pop()
            reason = self.tasks[tag].error or "uncertain"
            yield ev.TaskResolved(tag=tag, verdict="failed", by="rule fail", reason=reason)
        for qpu, limits in self.limits.items():
            if qpu in self.drained:
                continue
            while self._waiting.get(qpu) and self._has_room(qpu, limits):
                yield self._next_task(qpu, limits)

    def _has_room(self, qpu: str, limits: Limits) -> bool:
        # An uncertain task bars nobody: the QPU itself refuses a start while it is busy.
        most = limits.max_concurrent_tasks
        if most is None:
            return True
        tags = self._open.get(qpu, ())
        return sum(self.tasks[tag].state != "uncertain" for tag in tags) < most

    def _next_task(self, qpu: str, limits: Limits) -> ev.TaskPlanned:
        order = [self.jobs[queued.job] for queued in self.policy(self.queued(qpu))]
        lead = order[0]
        joined = [lead]
        if limits.coalesces and not lead.alone:
            kind = lead.submitted.payload_kind
            joined += [
                record
                for record in order[1:]
                if record.submitted.payload_kind == kind and not record.alone
            ]
        parts = pack((part for record in joined for part in record.pending), limits)
        tag = f"{lead.submitted.job}.{len(lead.tasks)}"
        return ev.TaskPlanned(tag=tag, qpu=qpu, parts=tuple(parts))


def replay(recorded: Iterable[tuple[ev.Event, datetime]]) -> BrokerState:
    """Fold recorded events into the state they led to."""
    state = BrokerState()
    for event, at in recorded:
        state.apply(event, at)
    return state
