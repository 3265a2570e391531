"""The shipped state machine under a virtual clock, on a QPU that follows its timing model (pure)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

from backends.api import Usage
from backends.metering import Metering
from backends.timing import TimingModel
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.prediction import Load, predicted_seconds
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.state import BrokerState, SettleJob, StartTask
from orchestrator.identity import JobId
from orchestrator.simulation.workload import Workload

__all__ = ["Device", "JobOutcome", "Simulated", "Simulation"]


def _exact(tag: str) -> float:
    del tag
    return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """How long tasks really take, and what they really cost.

    stretch: by which factor a task, named by its tag, takes longer than the model says.
    """

    timing: TimingModel
    metering: Metering
    stretch: Callable[[str], float] = _exact

    def seconds(self, load: Load, tag: str) -> float:
        """Return the QPU-seconds of a task."""
        return (predicted_seconds(load, self.timing) or 0.0) * self.stretch(tag)

    def start_seconds(self, load: Load) -> float:
        """Return how many of them pass before the first shot."""
        return self.timing.duration_s(circuits=0, shots=0, num_qubits=load.num_qubits)


@dataclass(slots=True)
class JobOutcome:
    """What became of a job. started_at: when the first task with a part of it began.

    ended_at: None if it was refused.
    """

    job: ev.JobSubmitted
    submitted_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(slots=True)
class Simulated:
    """What happened. busy_s: QPU-seconds of all tasks; starting_s: of them, before the first shot.

    starts: leading job of each task, in order. charges: by unit. most_queued: jobs at once.
    """

    jobs: dict[JobId, JobOutcome] = field(default_factory=dict)
    busy_s: float = 0.0
    starting_s: float = 0.0
    tasks: int = 0
    leases: int = 0
    charges: dict[str, float] = field(default_factory=dict)
    starts: list[JobId] = field(default_factory=list)
    most_queued: int = 0


@dataclass(slots=True)
class _Future:
    """What is still to happen, in order of time, then of when it was known."""

    heap: list[tuple[datetime, int, ev.Event | None]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def add(self, at: datetime, event: ev.Event | None) -> None:
        heapq.heappush(self.heap, (at, next(self.numbers), event))


class Simulation:
    """One workload on one QPU under one set of rules.

    The clock is virtual: it jumps to what happens next. Jobs that have ended are forgotten, so
    memory and cost depend on how many wait, not on how many there were.
    """

    def __init__(self, workload: Workload, rules: QpuRules, device: Device) -> None:
        self._workload, self._device = workload, device
        self._qpu = workload.arrivals[0].job.qpu
        self._state = BrokerState()
        self._state.configure(self._qpu, rules)
        self._shapes: dict[JobId, ev.JobSubmitted] = {}
        self._future = _Future()
        self._look: datetime | None = None
        self.outcome = Simulated()

    def run(self, tell: Callable[[int], None] | None = None) -> Simulated:
        """Let time run to the end of the last job; ``tell`` hears how many have been handed in."""
        handed_in, arrivals = 0, self._workload.arrivals
        while handed_in < len(arrivals) or self._future.heap:
            coming = arrivals[handed_in] if handed_in < len(arrivals) else None
            if coming is not None and not self._is_before(coming.at):
                self.outcome.jobs[coming.job.job] = JobOutcome(coming.job, coming.at)
                self._shapes[coming.job.job] = coming.job
                self._happens(coming.job, coming.at)
                handed_in += 1
                if tell is not None:
                    tell(handed_in)
                continue
            at, _, event = heapq.heappop(self._future.heap)
            if event is None and at != self._look:
                continue  # it was found out since that there is nothing to look for then
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
                    state.forget([job])
                    del self._shapes[job]
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
        # It begins at once; the word of it changes nothing that could start, so it decides nothing.
        self._state.apply(ev.TaskStarted(tag=planned.tag, qpu_task=planned.tag), now)
        end = now + timedelta(seconds=seconds)
        self._future.add(end, ev.TaskCompleted(tag=planned.tag, usage=usage))
