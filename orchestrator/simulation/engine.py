"""The shipped state machine under a virtual clock, on a QPU that follows its timing model, in figures (pure)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import assert_never

from backends.api import Usage
from backends.metering import Metering
from backends.timing import TimingModel
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.events import JobSubmitted
from orchestrator.broker.core.prediction import Load, predicted_seconds
from orchestrator.broker.core.rules import Calendar, QpuRules
from orchestrator.broker.core.state import (
    BrokerState,
    EndLease,
    FindTask,
    SettleJob,
    StartTask,
    StopTask,
)
from orchestrator.identity import JobId
from orchestrator.simulation.workload import Workload

__all__ = [
    "SLOWDOWN_BOUND_S",
    "Device",
    "JobOutcome",
    "Metrics",
    "Simulated",
    "Simulation",
    "Summary",
    "jain",
    "measured",
    "slowdown",
    "summarize",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """How long tasks really take, and what they really cost."""

    timing: TimingModel
    metering: Metering
    # By which factor a task, named by its tag, takes longer than the model says.
    stretch: Callable[[str], float] = lambda _tag: 1.0

    def seconds(self, load: Load, tag: str) -> float:
        """Return the QPU-seconds of a task."""
        return (predicted_seconds(load, self.timing) or 0.0) * self.stretch(tag)

    def start_seconds(self, load: Load) -> float:
        """Return how many of them pass before the first shot."""
        return self.timing.duration_s(circuits=0, shots=0, num_qubits=load.num_qubits)


@dataclass(slots=True)
class JobOutcome:
    """A simulated job. started_at: of its first task; ended_at: None if it was refused."""

    job: ev.JobSubmitted
    submitted_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(slots=True)
class Simulated:
    """What happened."""

    jobs: dict[JobId, JobOutcome] = field(default_factory=dict)
    busy_s: float = 0.0  # QPU-seconds of all tasks
    starting_s: float = 0.0  # of them, before the first shot
    tasks: int = 0
    leases: int = 0
    charges: dict[str, float] = field(default_factory=dict)  # by unit
    starts: list[JobId] = field(default_factory=list)  # leading job of each task
    most_queued: int = 0  # jobs at once


@dataclass(slots=True)
class _Future:
    """What is still to happen, in order of time, then of when it was known."""

    heap: list[tuple[datetime, int, ev.Event | None]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def add(self, at: datetime, event: ev.Event | None) -> None:
        heapq.heappush(self.heap, (at, next(self.numbers), event))


class Simulation:
    """One workload on one QPU under one set of rules, on a clock that jumps to the next event."""

    def __init__(self, workload: Workload, rules: QpuRules, device: Device) -> None:
        self._workload, self._device = workload, device
        self._qpu = workload.arrivals[0].job.qpu
        self._state = BrokerState()
        self._state.configure(self._qpu, rules)
        self._shapes: dict[JobId, ev.JobSubmitted] = {}
        self._future = _Future()
        self._look: datetime | None = None
        self.outcome = Simulated()

    def run(self, progress: Callable[[int], None] | None = None) -> Simulated:
        """Run to the end of the last job. progress: called with the number of submitted jobs."""
        handed_in, arrivals = 0, self._workload.arrivals
        while handed_in < len(arrivals) or self._future.heap:
            coming = arrivals[handed_in] if handed_in < len(arrivals) else None
            if coming is not None and not self._is_before(coming.at):
                self.outcome.jobs[coming.job.job] = JobOutcome(coming.job, coming.at)
                self._shapes[coming.job.job] = coming.job
                self._happens(coming.job, coming.at)
                handed_in += 1
                if progress is not None:
                    progress(handed_in)
                continue
            at, _, event = heapq.heappop(self._future.heap)
            if event is None and at != self._look:
                continue  # replaced by an earlier or later look
            self._happens(event, at)
        return self.outcome

    def _is_before(self, at: datetime) -> bool:
        """Whether something known comes first; what ends at a moment ends before what comes then."""
        return bool(self._future.heap) and self._future.heap[0][0] <= at

    def _happens(self, event: ev.Event | None, now: datetime) -> None:
        state = self._state
        outcome = state.tick(now) if event is None else state.handle(event, now)
        planned = {e.tag: e for e in outcome.events if isinstance(e, ev.TaskPlanned)}
        self.outcome.leases += sum(isinstance(e, ev.LeaseOpened) for e in outcome.events)
        for command in outcome.commands:
            match command:
                case StartTask(tag):
                    self._start(planned[tag], now)
                case SettleJob(job):
                    self.outcome.jobs[job].ended_at = now
                    state.forget([job])  # so cost depends on the number of waiting jobs
                    del self._shapes[job]
                case FindTask() | StopTask() | EndLease():
                    pass  # simulated tasks are neither lost nor cancelled, nor keep anything
                case _:
                    assert_never(command)
        self.outcome.most_queued = max(self.outcome.most_queued, len(state.queues[self._qpu]))
        look = state.next_look(now)
        if look != self._look:
            self._look = look
            if look is not None:
                self._future.add(look, None)

    def _start(self, planned: ev.TaskPlanned, now: datetime) -> None:
        """Let the QPU take the task, and know already when it will end."""
        seen, load = self.outcome, Load()
        for part in planned.parts:
            load = load.plus(part, self._shapes[part.job])
            began = seen.jobs[part.job]
            began.started_at = began.started_at or now
        seconds = self._device.seconds(load, planned.tag)
        charge = self._device.metering.charge(
            qpu_seconds=seconds, shots=load.shots, num_qubits=load.num_qubits
        )
        seen.tasks += 1
        seen.starts.append(planned.parts[0].job)
        seen.busy_s += seconds
        seen.starting_s += min(seconds, self._device.start_seconds(load))
        seen.charges[charge.unit] = seen.charges.get(charge.unit, 0.0) + charge.amount
        usage = Usage(
            qpu_seconds=seconds,
            shots=load.shots,
            circuits=load.circuits,
            tasks=1,
            charges=(charge,),
        )
        # It begins at once; its start decides nothing, so it is applied only.
        self._state.apply(ev.TaskStarted(tag=planned.tag, qpu_task=planned.tag), now)
        end = now + timedelta(seconds=seconds)
        self._future.add(end, ev.TaskCompleted(tag=planned.tag, usage=usage))


# Below so many seconds a job's own length no longer counts, or the shortest would rule the mean.
SLOWDOWN_BOUND_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Mean, median, 95th percentile and maximum of some values."""

    mean: float = 0.0
    median: float = 0.0
    p95: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One schedule in figures."""

    jobs: int
    refused: int
    wait_s: Summary  # from submission to the first task
    slowdown: Summary
    short_slowdown: Summary | None  # of jobs up to the given QPU-seconds, None without any
    long_slowdown: Summary | None  # of the longer jobs, None without any
    # Running tasks, as part of the time that the QPU was open from first submission to last end.
    utilisation: float
    shooting: float  # the same without each task's time before its first shot
    fairness: float  # `jain` of the accounts' speeds, each one over its mean slowdown
    charges: Mapping[str, float] = field(default_factory=dict)  # by unit
    makespan_s: float = 0.0  # first submission to last end
    tasks: int = 0
    leases: int = 0
    most_queued: int = 0


def summarize(values: Iterable[float]) -> Summary:
    """Return mean, median, 95th percentile (nearest rank) and maximum; zeros for no values."""
    ordered = sorted(values)
    if not ordered:
        return Summary()
    return Summary(
        mean=sum(ordered) / len(ordered),
        median=(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2,
        p95=ordered[math.ceil(0.95 * len(ordered)) - 1],
        most=ordered[-1],
    )


def slowdown(outcome: JobOutcome, alone_s: float) -> float:
    """Return a job's bounded slowdown, ``max(1, (end - submission) / max(alone_s, 10 s))``.

    alone_s: QPU-seconds that it would take, uncut, on an empty QPU (Feitelson et al., 1997).
    """
    assert outcome.ended_at is not None
    took_s = (outcome.ended_at - outcome.submitted_at).total_seconds()
    return max(1.0, took_s / max(alone_s, SLOWDOWN_BOUND_S))


def jain(values: Sequence[float]) -> float:
    """Return Jain's index, ``(Σx)² / (n Σx²)``: 1 if all are equal, 1/n if one has everything.

    >>> jain([1, 1, 1, 1]), jain([1, 0, 0, 0])
    (1.0, 0.25)
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def measured(
    seen: Simulated,
    calendar: Calendar,
    alone_s: Callable[[JobSubmitted], float],
    *,
    short_s: float = SLOWDOWN_BOUND_S,
    places: int = 1,  # tasks that the QPU takes at once
) -> Metrics:
    """Return the figures of a schedule; a job of at most ``short_s`` QPU-seconds is short."""
    ended = [one for one in seen.jobs.values() if one.ended_at is not None]
    slow = {one.job.job: slowdown(one, alone_s(one.job)) for one in ended}
    short = [one for one in ended if alone_s(one.job) <= short_s]
    small = {one.job.job for one in short}
    long = [one for one in ended if one.job.job not in small]
    first = min((one.submitted_at for one in seen.jobs.values()), default=None)
    last = max((one.ended_at for one in ended if one.ended_at is not None), default=None)
    open_s = _open_s(calendar, first, last) * places
    return Metrics(
        jobs=len(ended),
        refused=len(seen.jobs) - len(ended),
        wait_s=summarize(_wait_s(one) for one in ended),
        slowdown=summarize(slow.values()),
        short_slowdown=summarize(slow[one.job.job] for one in short) if short else None,
        long_slowdown=summarize(slow[one.job.job] for one in long) if long else None,
        utilisation=seen.busy_s / open_s if open_s else 0.0,
        shooting=(seen.busy_s - seen.starting_s) / open_s if open_s else 0.0,
        fairness=jain(_speeds(ended, slow)),
        charges=dict(seen.charges),
        makespan_s=(last - first).total_seconds() if first and last else 0.0,
        tasks=seen.tasks,
        leases=seen.leases,
        most_queued=seen.most_queued,
    )


def _wait_s(one: JobOutcome) -> float:
    assert one.started_at is not None
    return (one.started_at - one.submitted_at).total_seconds()


def _speeds(ended: Iterable[JobOutcome], slow: Mapping[JobId, float]) -> list[float]:
    of_account: dict[tuple[str, str], list[float]] = {}
    for one in ended:
        of_account.setdefault((one.job.project, one.job.user), []).append(slow[one.job.job])
    return [len(values) / sum(values) for values in of_account.values()]


def _open_s(calendar: Calendar, first: datetime | None, last: datetime | None) -> float:
    """Return the seconds between two times in which the QPU was not closed."""
    if first is None or last is None:
        return 0.0
    closed_s = sum(
        max(0.0, (min(window.end, last) - max(window.start, first)).total_seconds())
        for window in calendar.closures
    )
    return (last - first).total_seconds() - closed_s
