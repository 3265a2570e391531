"""Random histories: what a broker with two QPUs could have written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from backends.api import Usage
from backends.metering import Charge
from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Fifo
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobState
from orchestrator.identity import JobId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
History = list[tuple[ev.Event, datetime]]


def state_of(**limits: TaskLimits) -> BrokerState:
    """Return a broker that serves QPUs first in, first out, within these limits."""
    state = BrokerState()
    for qpu, bounds in limits.items():
        state.configure(qpu, QpuRules(limits=bounds, policy=Fifo()))
    return state


def submitted(number: int, pubs: list[tuple[int, int]]) -> ev.JobSubmitted:
    return ev.JobSubmitted(
        job=JobId(f"j{number}"),
        run=f"r{number % 2}",
        stage="s" if number % 3 else None,
        call=number,
        qpu="q" if number % 4 else "p",
        backend="fake",
        payload_kind="sampler",
        digest=str(number),
        pubs=tuple(ItemShape(points=p, shots=s) for p, s in pubs),
        num_qubits=2,
        seed=None,
        project=f"project{number % 2}",
    )


def next_event(state: BrokerState, draw: Callable[..., object]) -> ev.Event | None:
    """Draw one of the things that may happen to this state."""

    def of(*states: str) -> list[str]:
        return sorted(tag for tag, task in state.tasks.items() if task.state in states)

    def pick(names: list[str]) -> str:
        return str(draw(st.sampled_from(names)))

    usage = Usage(
        qpu_seconds=1.5, shots=3, tasks=1, charges=(Charge(amount=0.25, unit="billed-s"),)
    )
    ways: list[Callable[[], ev.Event]] = [
        lambda: submitted(
            len(state.jobs),
            draw(  # type: ignore[arg-type]
                st.lists(st.tuples(st.integers(1, 4), st.integers(1, 200)), min_size=1, max_size=2)
            ),
        ),
        lambda: ev.BrokerOpened(resume=bool(draw(st.booleans()))),
        lambda: ev.QpuDrained(qpu="q", by="operator", reason="care"),
        lambda: ev.QpuResumed(qpu="q", by="operator"),
    ]
    if of("planned"):
        ways += [lambda: ev.TaskStarted(tag=(tag := pick(of("planned"))), qpu_task=f"d{tag}")] * 3
    if of("running", "uncertain"):
        tag = pick(of("running", "uncertain"))
        ways += [lambda: ev.TaskCompleted(tag=tag, usage=usage, metadata={"method": ["m"]})] * 6 + [
            lambda: ev.TaskErred(tag=tag, error="broke", error_type="TaskFailed"),
            lambda: ev.TaskStopped(tag=tag),
            lambda: ev.TaskUncertain(tag=tag, reason="no answer"),
        ]
    if of("uncertain"):
        doubtful = pick(of("uncertain"))
        ways += [
            lambda: ev.TaskResolved(tag=doubtful, verdict="failed", by="op", reason="looked"),
            lambda: ev.TaskResolved(tag=doubtful, verdict="not-started", by="op", reason="looked"),
        ]
    if of("failed", "cancelled", "completed"):
        over = pick(of("failed", "cancelled", "completed"))
        ways += [
            lambda: ev.TaskCompleted(tag=over, usage=usage),
            lambda: ev.TaskAdopted(tag=over, qpu_task=f"d{over}"),
            lambda: ev.TaskUncertain(tag=over, reason="late doubt"),
        ]
    if state.jobs:
        job = JobId(pick(sorted(state.jobs)))
        ways.append(lambda: ev.JobCancelRequested(job=job))
        if state.jobs[job].held or state.jobs[job].state in (JobState.FAILED, JobState.CANCELLED):
            ways += [lambda: ev.JobResumed(job=job)] * 3
    return ways[int(draw(st.integers(0, len(ways) - 1)))]()  # type: ignore[call-overload]


@st.composite
def histories(draw: Callable[..., object]) -> History:
    """Draw what a broker with two QPUs could have written."""
    coalesces = bool(draw(st.booleans()))
    limits = TaskLimits(max_concurrent_tasks=2, max_shots=100, max_circuits=3, coalesces=coalesces)
    state = state_of(q=limits, p=limits)
    history: History = []
    for step in range(int(draw(st.integers(5, 60)))):  # type: ignore[call-overload]
        event = next_event(state, draw)
        if event is not None:
            now = NOW + timedelta(seconds=step, microseconds=step)
            history += [(recorded, now) for recorded in state.handle(event, now).events]
    return history
