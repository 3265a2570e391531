"""The broker as a pure state machine: events in, events to record and commands out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from backends.api import Usage
from backends.metering import Charge
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.budgets import Books, BudgetExhausted
from orchestrator.broker.core.grants import Grant
from orchestrator.broker.core.packing import whole_parts
from orchestrator.broker.core.policies import JobQueue
from orchestrator.broker.core.prediction import load_of, predicted_charge
from orchestrator.broker.core.qpu_history import QpuHistory
from orchestrator.broker.core.records import (
    InvalidTransition,
    JobRecord,
    PastUse,
    TaskRecord,
    shared_usage,
    used_by,
)
from orchestrator.broker.core.rules import QpuRules, occupied_seconds
from orchestrator.broker.core.scheduler import (
    SchedulingContext,
    expected,
    next_decision,
    next_look,
    queued_as,
)
from orchestrator.broker.core.views import LostAccess, QpuTaskState
from orchestrator.data_labels import all_labels, labels_of_project, refusal
from orchestrator.identity import JobId, Payer

# So many choices of QPUs for stages are remembered; a stage that is run again after that is chosen
# for anew.
_MOST_CHOICES = 10_000
# Errors of a task after which its QPU is given up, where the stage allows that. A task that may have
# run is not among them, nor a payload that is at fault itself.
_FAILS_OVER = frozenset({"AccessDenied", "QpuBusy", "QpuUnavailable", "TaskFailed"})

__all__ = [
    "BrokerState",
    "Command",
    "Effects",
    "EndLease",
    "FindTask",
    "Recorded",
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
class EndLease:
    """A lease is over: what the backend keeps for it is to be released."""

    qpu: str
    lease: str


@dataclass(frozen=True, slots=True)
class SettleJob:
    """The job is final, or uncertain: wake the callers that wait for it."""

    job: JobId


Command = StartTask | FindTask | StopTask | EndLease | SettleJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What an event led to."""

    events: tuple[ev.Event, ...] = ()  # to be durable before any of the commands is executed
    commands: tuple[Command, ...] = ()
    refused: BudgetExhausted | None = None  # why a job was not accepted; then there is nothing else


@dataclass(slots=True, kw_only=True)
class Recorded:
    """What the events of a scope have led to. past: what forgotten jobs used, by project."""

    drained: dict[str, ev.QpuDrained] = field(default_factory=dict)
    denied: dict[str, LostAccess] = field(default_factory=dict)
    jobs: dict[JobId, JobRecord] = field(default_factory=dict)
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    past: dict[str, PastUse] = field(default_factory=dict)
    histories: dict[str, QpuHistory] = field(default_factory=dict)
    books: Books = field(default_factory=Books)
    # Slurm jobs that hold QPUs, by the text of the grant: whether work bound to them may start.
    grants: dict[str, bool] = field(default_factory=dict)
    # The QPU that was chosen for a stage, by its text; the latest of them.
    chosen: dict[str, str] = field(default_factory=dict)
    _arrivals: int = 0
    _waiting: dict[str, dict[JobId, int]] = field(default_factory=dict)
    _open: dict[str, set[str]] = field(default_factory=dict)
    _to_fail: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class BrokerState(Recorded):
    """All jobs and tasks of one ledger scope, and the decisions about them.

    No I/O, clock or randomness: time arrives with the events, tags follow from job ids.
    Replaying the events through `apply` gives the same state.
    """

    rules: dict[str, QpuRules] = field(default_factory=dict)  # of the site, from `configure`
    queues: dict[str, JobQueue] = field(default_factory=dict)  # of served QPUs
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # see `labels_of_project`
    asleep: bool = False  # nothing is decided until `BrokerOpened` looks for earlier tasks
    _to_refuse: dict[JobId, str] = field(default_factory=dict)  # waiting jobs, with the reason
    # Jobs that their failover is to take over: why, and whether they have failed otherwise.
    _to_move: dict[JobId, tuple[str, bool]] = field(default_factory=dict)

    def configure(self, qpu: str, rules: QpuRules) -> None:
        """Serve a QPU by these rules from now on."""
        self.rules[qpu] = rules
        self.queues[qpu] = JobQueue(rules.policy)
        for job in self._waiting.get(qpu, ()):
            self._enqueue(self.jobs[job])

    def handle(self, event: ev.Event, now: datetime) -> Effects:
        """Apply an event, then plan whatever can start; return all of it."""
        if isinstance(event, ev.JobSubmitted):
            if event.job in self.jobs:
                return Effects()  # it was submitted twice before either was written
            event = self._admitted(event)
        refused = self.books.refusal_of(event, self.jobs)
        if refused is not None:
            return Effects(refused=refused)
        if isinstance(event, ev.LeaseClosed):
            if not self._history(event.qpu).has_lease(event.lease):
                return Effects()  # it had ended by itself
            event = self._closing(event)
        if isinstance(event, ev.TaskErred | ev.TaskStopped):
            event = self._billed(event)
        commands = self.apply(event, now)
        self.asleep = self.asleep and not isinstance(event, ev.BrokerOpened)
        return self._decided([event], commands, now)

    def tick(self, now: datetime) -> Effects:
        """Plan what can start because time has passed."""
        return self._decided([], [], now)

    def next_look(self, now: datetime) -> datetime | None:
        """Return when `tick` should be called at the latest, None if time alone changes nothing."""
        looks = [next_look(self.context(qpu, now), now) for qpu in self.rules if not self.asleep]
        return min((look for look in looks if look is not None), default=None)

    def _decided(self, recorded: list[ev.Event], commands: list[Command], now: datetime) -> Effects:
        for decision in self._decide(now) if not self.asleep else ():
            recorded.append(decision)
            commands += self.apply(decision, now)
            if isinstance(decision, ev.TaskPlanned):
                commands.append(StartTask(decision.tag))
        return Effects(events=tuple(recorded), commands=tuple(commands))

    def _admitted(self, event: ev.JobSubmitted) -> ev.JobSubmitted:
        """Note what the job is expected to take, which is then set aside for it."""
        rules = self.rules.get(event.qpu)
        if rules is None or event.source is not None or event.refused:
            return event
        seconds, charge = expected(event, rules, self._history(event.qpu).accuracy)
        return replace(event, predicted_s=seconds, reserved=charge)

    def _billed(self, event: ev.TaskErred | ev.TaskStopped) -> ev.TaskErred | ev.TaskStopped:
        """Add what the site bills for the time that a task occupied without a result."""
        planned = self.tasks[event.tag].planned
        rules = self.rules.get(planned.qpu)
        if not event.usage.qpu_seconds or rules is None:
            return event
        seconds = occupied_seconds(event.usage.qpu_seconds, planned.predicted_s, rules)
        metering = rules.metering
        billed = (
            metering.bills_failed if isinstance(event, ev.TaskErred) else metering.bills_cancelled
        )
        charges: tuple[Charge, ...] = ()
        if billed:
            load = load_of(
                planned.parts, {p.job: self.jobs[p.job].submitted for p in planned.parts}
            )
            charges = (predicted_charge(load, metering, seconds),)
        return replace(event, usage=Usage(qpu_seconds=seconds, tasks=1, charges=charges))

    def apply(self, event: ev.Event, now: datetime) -> list[Command]:
        """Change the state by one event, deciding nothing new; used alone for replay."""
        match event:
            case ev.BrokerOpened():
                return self._reopen(event)
            case ev.JobSubmitted():
                return self._submit(event, now)
            case ev.JobResumed():
                return self._resume(event, now)
            case ev.JobCancelRequested() | ev.JobRefused() | ev.JobFailedOver():
                return self._give_up(event, now)
            case ev.TaskPlanned():
                return self._plan(event, now)
            case ev.TaskStarted() | ev.TaskAdopted():
                return self._start(event, now)
            case ev.TaskUncertain():
                return self._doubt(event)
            case ev.TaskResolved():
                return self._resolve(event, now)
            case ev.TaskCompleted() | ev.TaskErred() | ev.TaskStopped():
                return self._end(event, now)
            case _:
                return self._operate(event, now)

    def queued(self, qpu: str) -> dict[JobId, int]:
        """Return the jobs that wait for a QPU, with their place in the order of arrival."""
        return dict(self._waiting.get(qpu, {}))

    def active_runs(self, qpu: str) -> set[tuple[str, str]]:
        """Return user and run of all work that has a QPU or waits for it, and not for Slurm."""
        waiting = (job for job in self._waiting.get(qpu, ()) if self.jobs[job].granted)
        tasks = (self.tasks[tag] for tag in self._open.get(qpu, ()))
        # An uncertain task blocks nothing, and may wait long for its operator.
        sure = (task for task in tasks if task.state is not QpuTaskState.UNCERTAIN)
        jobs = {*waiting, *(job for task in sure for job in task.jobs)}
        found = {(one.user, one.run) for one in (self.jobs[job].submitted for job in jobs)}
        history = self.histories.get(qpu)
        if history is not None and history.lease is not None:
            found.add((history.lease.opened.user, history.lease.opened.run))
        return found

    def context(self, qpu: str, now: datetime) -> SchedulingContext:
        """Return what decisions about a QPU rest on now."""
        history = self._history(qpu)
        rules = self.rules[qpu]
        # An uncertain task blocks nothing: the QPU itself refuses a start while it is busy.
        sure = [
            t for t in self._open.get(qpu, ()) if self.tasks[t].state is not QpuTaskState.UNCERTAIN
        ]
        opened = history.lease.opened if history.lease is not None else None
        lease, grant = (None, None) if opened is None else (opened.lease, opened.grant)
        return SchedulingContext(
            qpu=qpu,
            rules=rules,
            queue=self.queues[qpu],
            jobs=self.jobs,
            look=lambda: history.situation(now, rules.shares),
            accuracy=history.accuracy,
            lease=history.lease,
            lease_revoked=grant is not None and grant.text not in self.grants,
            busy=len(sure),
            busy_for_lease=sum(self.tasks[t].planned.lease == lease for t in sure) if lease else 0,
            starts=history.starts,
            is_drained=qpu in self.drained,
        )

    def open_tasks(self, qpu: str) -> frozenset[str]:
        """Return the tags of tasks that are planned, running or uncertain on a QPU."""
        return frozenset(self._open.get(qpu, ()))

    def bound(self) -> set[Grant]:
        """Return the Slurm jobs that open jobs or leases are bound to, or that hold QPUs."""
        jobs = (
            record.submitted.grant
            for record in self.jobs.values()
            if record.ended_at is None and not record.is_unwanted
        )
        leases = (h.lease.opened.grant for h in self.histories.values() if h.lease is not None)
        found = {grant for grant in (*jobs, *leases) if grant is not None}
        return found.union(map(Grant.parse, self.grants))

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
        past = past.plus(used_by(record, self.tasks), sign)
        if past.jobs:
            self.past[project] = past

    def _submit(self, event: ev.JobSubmitted, now: datetime) -> list[Command]:
        record = JobRecord(
            submitted=event,
            arrival=self._arrivals,
            submitted_at=now,
            moved_from=event.in_place_of,
            moved_for=event.in_place_for,
        )
        self._arrivals += 1
        self.jobs[event.job] = record
        record.granted = self._is_granted(record)
        if event.source is None:
            record.pending.extend(whole_parts(event))
            if event.refused:
                record.failure = _refused(event.refused)
            elif event.qpu in self.drained:
                self._wish_failover(record, f"{event.qpu} is drained")
            self._requeue(record)
        return self._settle(record, now)

    def _reopen(self, event: ev.BrokerOpened) -> list[Command]:
        self.grants = dict.fromkeys(self.grants, False)  # until Slurm has been asked again
        self.denied.clear()  # until the QPU has been
        for record in self.jobs.values():
            record.held = not event.resume and not record.state.is_final
            record.granted = record.submitted.grant is None
            self._reserve(record)
            self._requeue(record)
        # Planned tasks count too: the death may have come before or after their start.
        return [FindTask(tag) for tags in self._open.values() for tag in sorted(tags)]

    def _resume(self, event: ev.JobResumed, now: datetime) -> list[Command]:
        record = self.jobs[event.job]
        if event.slurm_job != record.submitted.slurm_job:
            # What runs ends with the Slurm job that it was planned under, and what ended was its.
            for tag in record.tasks:
                self.tasks[tag].slurm_jobs.setdefault(event.job, record.submitted.slurm_job)
        record.resume(event.calibration, event.slurm_job)
        record.granted = self._is_granted(record)
        self._requeue(record)
        return self._settle(record, now)

    def _give_up(
        self, event: ev.JobCancelRequested | ev.JobRefused | ev.JobFailedOver, now: datetime
    ) -> list[Command]:
        """End a job, and stop what carries it alone; or give its QPU up alone."""
        record = self.jobs[event.job]
        if record.state.is_final:
            return []
        if isinstance(event, ev.JobFailedOver) and event.qpu:
            self._unqueue(record)
            record.move(event.qpu, event.reason)
            self._requeue(record)
            return []
        if isinstance(event, ev.JobRefused):
            record.failure = _refused(event.reason)
        elif isinstance(event, ev.JobFailedOver):
            record.failure = ev.TaskErred(tag="", error=event.reason, error_type="TaskFailed")
        else:
            record.cancel_requested = True
        self._requeue(record)
        stops: list[Command] = [StopTask(tag) for tag in self._private_tasks(record)]
        return stops + self._settle(record, now)

    def _plan(self, event: ev.TaskPlanned, now: datetime) -> list[Command]:
        if event.tag in self.tasks:
            history = self.tasks[event.tag].history()
            raise InvalidTransition(f"task {event.tag} cannot be planned twice: {history}")
        self.tasks[event.tag] = TaskRecord(planned=event, planned_at=now)
        self._open.setdefault(event.qpu, set()).add(event.tag)
        self._history(event.qpu).plan(event, now)
        for piece in event.parts:
            record = self.jobs[piece.job]
            record.take(piece)
            if event.tag not in record.open:
                record.tasks.append(event.tag)
            record.open.add(event.tag)
        for job in self.tasks[event.tag].jobs:
            self._requeue(self.jobs[job])
        return []

    def _start(self, event: ev.TaskStarted | ev.TaskAdopted, now: datetime) -> list[Command]:
        task = self.tasks[event.tag]
        task.start(event.qpu_task, now)
        return [] if self._may_go_on(task) else [StopTask(event.tag)]

    def _doubt(self, event: ev.TaskUncertain) -> list[Command]:
        task = self.tasks[event.tag]
        if task.ended_at is not None:
            return []
        task.doubt(event.reason)
        for job in task.jobs:
            self.jobs[job].uncertain.add(event.tag)
        rules = self.rules.get(task.planned.qpu)
        rule = rules.limits.uncertain if rules else "ask"
        if rule == "fail":
            self._to_fail.append(event.tag)
        return [SettleJob(job) for job in task.jobs] if rule == "ask" else []

    def _drain(self, event: ev.QpuDrained | ev.QpuResumed) -> None:
        if isinstance(event, ev.QpuResumed):
            self.drained.pop(event.qpu, None)
            return
        self.drained[event.qpu] = event
        for job in self._waiting.get(event.qpu, ()):
            self._wish_failover(self.jobs[job], f"{event.qpu} is drained: {event.reason}")

    def _note_access(self, event: ev.QpuAccessLost | ev.QpuAccessRegained, now: datetime) -> None:
        if isinstance(event, ev.QpuAccessLost):
            self.denied[event.qpu] = LostAccess(qpu=event.qpu, since=now, reason=event.reason)
        else:
            self.denied.pop(event.qpu, None)

    def _operate(self, event: ev.Event, now: datetime) -> list[Command]:
        match event:
            case ev.QpuChosen():
                self._note_choice(event)
            case ev.QpuDrained() | ev.QpuResumed():
                self._drain(event)
            case ev.QpuAccessLost() | ev.QpuAccessRegained():
                self._note_access(event, now)
            case ev.LeaseOpened():
                self._history(event.qpu).open_lease(event, now)
            case ev.LeaseClosed():
                self._history(event.qpu).close_lease(event)
                return [EndLease(event.qpu, event.lease)]
            case ev.QpuRecalibrated():
                return self._recalibrate(event, now)
            case ev.GrantConfirmed() | ev.GrantSuspended() | ev.GrantEnded():
                return self._regrant(event, now)
            case ev.BudgetSet():
                self.books.set(event, self.jobs.values(), self.tasks)
            case _:
                raise ValueError(f"the state machine does not know {event.kind!r}")
        return []

    def _note_choice(self, event: ev.QpuChosen) -> None:
        if event.stage is None or not event.choice.qpu:
            return
        key = _stage_text(event.run, event.stage, event.user)
        self.chosen.pop(key, None)
        self.chosen[key] = event.choice.qpu
        if len(self.chosen) > _MOST_CHOICES:
            del self.chosen[next(iter(self.chosen))]

    def chosen_before(self, run: str, stage: str | None, user: str) -> str | None:
        """Return the QPU that was chosen for a stage of a user's run before, None if none was."""
        return None if stage is None else self.chosen.get(_stage_text(run, stage, user))

    def _regrant(
        self, event: ev.GrantConfirmed | ev.GrantSuspended | ev.GrantEnded, now: datetime
    ) -> list[Command]:
        """Let the jobs that are bound to a Slurm job start, wait or end."""
        grant = Grant(event.qpu, event.user, event.slurm_job)
        if isinstance(event, ev.GrantEnded):
            self.grants.pop(grant.text, None)
        elif isinstance(event, ev.GrantConfirmed):
            self.grants[grant.text] = True
        elif grant.text in self.grants:  # doubt does not bring back what has ended
            self.grants[grant.text] = False
        touched, settled = self._tasks_under(grant), list[Command]()
        for record in self.jobs.values():
            if record.submitted.grant != grant or record.ended_at is not None:
                continue
            record.granted = self._is_granted(record)
            if isinstance(event, ev.GrantEnded) and not record.is_unwanted:
                record.failure = ev.TaskErred(
                    tag="", error=event.reason, error_type="AllocationEnded"
                )
                touched |= record.open
            self._requeue(record)
            settled += self._settle(record, now)
        if not isinstance(event, ev.GrantEnded):
            return settled
        stops = (StopTask(tag) for tag in sorted(touched) if not self._may_go_on(self.tasks[tag]))
        return [*stops, *settled]

    def _tasks_under(self, grant: Grant) -> set[str]:
        """Open tasks that run under a Slurm job for one of their jobs."""
        return {
            tag
            for tag in self._open.get(grant.qpu, ())
            if any(
                self.tasks[tag].grant(self.jobs[job].submitted) == grant
                for job in self.tasks[tag].jobs
            )
        }

    def _may_go_on(self, task: TaskRecord) -> bool:
        """Whether a task carries something of a wanted job whose Slurm job for it has not ended."""
        wanted = (self.jobs[job] for job in task.jobs if not self.jobs[job].is_unwanted)
        grants = (task.grant(record.submitted) for record in wanted)
        return any(grant is None or grant.text in self.grants for grant in grants)

    def _is_granted(self, record: JobRecord) -> bool:
        grant = record.submitted.grant
        return grant is None or self.grants.get(grant.text, False)

    def _recalibrate(self, event: ev.QpuRecalibrated, now: datetime) -> list[Command]:
        """Fail waiting jobs that were prepared for another calibration."""
        here = [r for r in self.jobs.values() if r.submitted.qpu == event.qpu and not r.ended_at]
        before = [event.before, *(record.submitted.calibration for record in here)]
        self._history(event.qpu).recalibrate(event.calibration, before)
        return [command for record in here for command in self._settle(record, now)]

    def _resolve(self, event: ev.TaskResolved, now: datetime) -> list[Command]:
        if event.verdict == "not-started":
            return self._end(ev.TaskStopped(tag=event.tag), now)
        failed = ev.TaskErred(
            tag=event.tag, error=event.reason, error_type="TaskUncertain", usage=event.usage
        )
        task = self.tasks[event.tag]
        if event.usage != Usage() and task.ended_at is None:
            task.note_metered()
        for job in task.jobs:
            self.jobs[job].alone = True  # no second try: it may have run
        return self._end(failed, now)

    def _end(
        self, event: ev.TaskCompleted | ev.TaskErred | ev.TaskStopped, now: datetime
    ) -> list[Command]:
        task = self.tasks[event.tag]
        if task.ended_at is not None:  # a late notice about a task that was already settled
            if isinstance(event, ev.TaskCompleted) and task.may_come_late:
                self._charge(task, now, -1)  # what it had occupied is part of what it used
                task.late, task.usage = True, event.usage
                self._charge(task, now)
            return []
        task.end(event, now)
        self._open[task.planned.qpu].discard(event.tag)
        still = {self.tasks[tag].planned.lease for tag in self._open[task.planned.qpu]}
        self._history(task.planned.qpu).end(task, now, still_leased=task.planned.lease in still)
        used = task.usage.qpu_seconds or task.usage.charges
        if used or isinstance(event, ev.TaskCompleted):
            self._charge(task, now)
        shared = len(task.jobs) > 1
        commands: list[Command] = []
        for job in task.jobs:
            record = self.jobs[job]
            record.open.discard(event.tag)
            record.uncertain.discard(event.tag)
            if not isinstance(event, ev.TaskCompleted):
                record.give_back(p for p in task.planned.parts if p.job == job)
            if isinstance(event, ev.TaskErred):
                if shared and not record.alone:
                    record.alone = True  # find out which of the coalesced jobs is at fault
                elif event.error_type in _FAILS_OVER and record.may_fail_over:
                    why = f"{event.error_type}: {event.error}"
                    self._wish_failover(record, why, failed=True)
                else:
                    record.failure = event
                    commands += [StopTask(tag) for tag in self._private_tasks(record)]
            waits = job in self._waiting.get(record.submitted.qpu, ())
            # What is left of a job stays as it is when a part of it is done.
            if not isinstance(event, ev.TaskCompleted) or record.startable != waits:
                self._requeue(record)
            commands += self._settle(record, now)
        return commands

    def _settle(self, record: JobRecord, now: datetime) -> list[Command]:
        if record.fail_if_outdated(self._history(record.submitted.qpu).outdated, self.tasks):
            self._requeue(record)
        self._reserve(record)
        if not record.state.is_final or record.ended_at is not None:
            return []
        record.ended_at = now
        return [SettleJob(record.submitted.job)]

    def _charge(self, task: TaskRecord, now: datetime, sign: int = 1) -> None:
        """Bill what a task used to its jobs' accounts, or take that back (sign -1)."""
        for job in task.jobs:
            record = self.jobs[job]
            submitted, usage = record.submitted, shared_usage(task, job)
            charges = [replace(charge, amount=sign * charge.amount) for charge in usage.charges]
            self.books.charge(submitted, charges)
            unit = submitted.reserved.unit if submitted.reserved is not None else None
            record.charged += sum(c.amount for c in charges if c.unit == unit)
            payer = Payer(submitted.project, submitted.user)
            history = self._history(task.planned.qpu)
            history.use_by(payer, sign * usage.qpu_seconds, now)

    def _reserve(self, record: JobRecord) -> None:
        """Set aside for a job what is still to come, and no more."""
        change = record.outstanding_now() - record.outstanding
        if change:
            record.outstanding += change
            self.books.reserve(record.submitted, change)

    def _private_tasks(self, record: JobRecord) -> list[str]:
        """Open tasks that carry nothing of any other job, so they may be stopped."""
        return sorted(tag for tag in record.open if len(self.tasks[tag].jobs) == 1)

    def _wish_failover(self, record: JobRecord, reason: str, *, failed: bool = False) -> None:
        if record.may_fail_over:
            self._to_move[record.submitted.job] = (reason, failed)

    def _unqueue(self, record: JobRecord) -> None:
        qpu, job = record.submitted.qpu, record.submitted.job
        self._waiting.get(qpu, {}).pop(job, None)
        if qpu in self.queues:
            self.queues[qpu].discard(job)

    def _requeue(self, record: JobRecord) -> None:
        qpu, job = record.submitted.qpu, record.submitted.job
        waiting, queue = self._waiting.setdefault(qpu, {}), self.queues.get(qpu)
        if record.startable:
            waiting[job] = record.arrival
            if queue is not None:
                self._enqueue(record)
        else:
            waiting.pop(job, None)
            if queue is not None:
                queue.discard(job)

    def _enqueue(self, record: JobRecord) -> None:
        """Let a waiting job be planned on its QPU; the only way there is, and it asks its labels."""
        submitted = record.submitted
        rules, job = self.rules[submitted.qpu], submitted.job
        reason = refusal(
            self._labels_of(submitted), rules.accepted, qpu=submitted.qpu, project=submitted.project
        )
        if reason is None:
            self.queues[submitted.qpu].put(
                queued_as(record, rules, self._history(submitted.qpu).accuracy)
            )
        else:
            self.queues[submitted.qpu].discard(job)
            self._to_refuse[job] = reason

    def lease_of(self, tag: str) -> ev.LeaseOpened | None:
        """Return the open lease that a task runs under, None if there is none."""
        planned = self.tasks[tag].planned
        lease = self._history(planned.qpu).lease
        return lease.opened if lease is not None and lease.opened.lease == planned.lease else None

    def task_labels(self, tag: str) -> tuple[str, ...]:
        """Return the labels of the data of all jobs that a task is for."""
        found = {part.job for part in self.tasks[tag].planned.parts}
        return all_labels(*(self._labels_of(self.jobs[job].submitted) for job in found))

    def _labels_of(self, submitted: ev.JobSubmitted) -> tuple[str, ...]:
        """Return the labels of a job's data; its project may have got some since it was submitted."""
        return all_labels(submitted.labels, labels_of_project(submitted.project, self.labels))

    def _history(self, qpu: str) -> QpuHistory:
        if qpu not in self.histories:
            self.histories[qpu] = QpuHistory()
        return self.histories[qpu]

    def _closing(self, event: ev.LeaseClosed) -> ev.LeaseClosed:
        queue, at_work = self.queues.get(event.qpu), self._open.get(event.qpu, ())
        waiting = queue is not None and queue.holds_lease(event.lease)
        return self._history(event.qpu).closing(event, waiting, [self.tasks[t] for t in at_work])

    def _moves(self) -> Iterator[ev.Event]:
        """Yield what takes waiting jobs away from their QPU: failovers, then refusals."""
        while self._to_move:
            job, (reason, failed) = self._to_move.popitem()
            record = self.jobs.get(job)
            if record is None or record.state.is_final or not record.may_fail_over:
                continue
            wanted = record.submitted.failover
            if wanted in self.rules and wanted not in self.drained:
                yield ev.JobFailedOver(job=job, qpu=wanted, reason=reason)
            elif failed:
                yield ev.JobFailedOver(job=job, qpu="", reason=reason)
        while self._to_refuse:
            job, reason = self._to_refuse.popitem()
            if job in self.jobs and self.jobs[job].startable:
                yield ev.JobRefused(job=job, reason=reason)

    def _decide(self, now: datetime) -> Iterator[ev.Event]:
        """Yield decisions, one at a time; the caller applies each before asking on."""
        while self._to_fail:
            tag = self._to_fail.pop()
            reason = self.tasks[tag].error or "uncertain"
            yield ev.TaskResolved(tag=tag, verdict="failed", by="rule fail", reason=reason)
        yield from self._moves()
        for qpu in self.rules:
            while (decision := next_decision(self.context(qpu, now), now)) is not None:
                if isinstance(decision, ev.LeaseClosed):
                    decision = self._closing(decision)
                yield decision


def _stage_text(run: str, stage: str, user: str) -> str:
    return json.dumps([user, run, stage])


def _refused(reason: str) -> ev.TaskErred:
    return ev.TaskErred(tag="", error=reason, error_type="DataRefused")


def replay(recorded: Iterable[tuple[ev.Event, datetime]]) -> BrokerState:
    """Fold recorded events into the state they led to."""
    state = BrokerState()
    for event, at in recorded:
        state.apply(event, at)
    return state
