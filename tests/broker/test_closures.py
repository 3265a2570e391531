"""What starts in front of a closure, and when it goes on: the state machine under a set clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backends.api import Usage
from backends.shapes import ItemShape
from backends.timing import TimingModel
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import make_policy
from orchestrator.broker.core.rules import Calendar, QpuRules, Window
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobState
from orchestrator.config.bounds import Rate
from orchestrator.identity import JobId

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def closures(*spans: tuple[float, float]) -> Calendar:
    return Calendar.of(Window(start=after(a), end=after(b)) for a, b in spans)


def rules(calendar: Calendar, **changes: object) -> QpuRules:
    plain = QpuRules(
        limits=TaskLimits(max_concurrent_tasks=1),
        policy=make_policy("fifo", {}),
        calendar=calendar,
        timing=TimingModel(init_s=1.0, shot_s=0.01),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def job(name: str, shots: int, calibration: str = "") -> ev.JobSubmitted:
    return ev.JobSubmitted(
        job=JobId(name),
        run="run",
        stage=None,
        call=0,
        qpu="q",
        backend="fake",
        payload_kind="sampler",
        digest=name,
        pubs=(ItemShape(points=1, shots=shots),),
        num_qubits=2,
        seed=None,
        calibration=calibration,
    )


def planned(events: tuple[ev.Event, ...]) -> list[ev.TaskPlanned]:
    return [event for event in events if isinstance(event, ev.TaskPlanned)]


def state_of(q: QpuRules, *jobs: ev.JobSubmitted, now: datetime = NOON) -> list[ev.TaskPlanned]:
    state = BrokerState()
    state.configure("q", q)
    return [task for one in jobs for task in planned(state.handle(one, now).events)]


def test_shorter_work_is_backfilled_and_says_whom_it_passed() -> None:
    (task,) = state_of(rules(closures((5, 60))), job("long", 1000), job("short", 100))
    assert task.tag == "short.0"
    assert task.why["passed_over"] == {"jobs": ["long"], "count": 1}
    assert task.why["free_s"] == 5


def test_a_slice_that_fits_goes_in_front_of_a_closure() -> None:
    q = rules(closures((15, 60)), slice_s=10.0)
    (task,) = state_of(q, job("long", 10_000))
    assert task.predicted_s is not None
    assert task.predicted_s <= 15
    assert task.parts[0].shots < 10_000


def test_seconds_on_the_clock_count_not_those_of_the_model() -> None:
    q = rules(closures((5, 60)), slice_s=None)
    assert state_of(q, job("one", 1000)) == []
    assert state_of(replace(q, clock_scale=0.1), job("one", 1000)) != []


def test_not_even_instant_work_starts_while_the_qpu_is_closed() -> None:
    for timing, scale in ((None, 1.0), (TimingModel(init_s=1.0), 0.0)):
        q = rules(closures((-1, 60)), timing=timing, clock_scale=scale)
        assert state_of(q, job("one", 10)) == []
        assert state_of(q, job("one", 10), now=after(60)) != []


def test_a_rate_holds_over_any_stretch_and_says_when_to_look_again() -> None:
    state = BrokerState()
    q = rules(
        Calendar(), rate=Rate(starts=2, per_s=10.0), limits=TaskLimits(max_concurrent_tasks=None)
    )
    state.configure("q", q)
    starts = []
    for number in range(5):
        outcome = state.handle(job(f"j{number}", 10), NOON)
        starts += [(task.tag, NOON) for task in planned(outcome.events)]
    assert len(starts) == 2
    now = NOON
    while (look := state.next_look(now)) is not None:
        assert look > now
        now = look
        starts += [(task.tag, now) for task in planned(state.tick(now).events)]
    times = [at for _, at in starts]
    assert len(starts) == 5
    assert all(b - a >= timedelta(seconds=10) for a, b in zip(times, times[2:], strict=False))


@given(
    shots=st.lists(st.integers(1, 2000), min_size=1, max_size=12),
    gaps=st.lists(st.tuples(st.floats(1, 40), st.floats(0.5, 30)), max_size=5),
    scale=st.sampled_from([0.0, 0.5, 1.0]),
    slice_s=st.sampled_from([None, 10.0]),
)
def test_nothing_starts_that_cannot_end_and_everything_ends(
    shots: list[int], gaps: list[tuple[float, float]], scale: float, slice_s: float | None
) -> None:
    spans, at = [], 0.0
    for free, closed in gaps:
        spans.append((at + free, at + free + closed))
        at += free + closed
    calendar = closures(*spans)
    state = BrokerState()
    state.configure("q", rules(calendar, clock_scale=scale, slice_s=slice_s))
    now, running, ended = NOON, [], 0
    for number, n in enumerate(shots):
        running += planned(state.handle(job(f"j{number}", n), now).events)
    for _ in range(2000):
        for task in running:
            assert task.predicted_s is not None
            end = now + timedelta(seconds=task.predicted_s * scale)
            assert calendar.closure_at(now) is None
            closing = calendar.next_closure(now)
            assert closing is None or end <= closing.start + timedelta(microseconds=2)
            state.apply(ev.TaskStarted(tag=task.tag, qpu_task=task.tag), now)
            done = ev.TaskCompleted(tag=task.tag, usage=Usage(qpu_seconds=task.predicted_s))
            now, ended = end, ended + 1
            running = planned(state.handle(done, now).events)
        if not running:
            look = state.next_look(now)
            if look is None:
                break
            now = look
            running = planned(state.tick(now).events)
    assert {record.state for record in state.jobs.values()} == {JobState.COMPLETED}
    assert ended >= len(shots)


def recalibrated(state: BrokerState, calibration: str, before: str = "") -> None:
    event = ev.QpuRecalibrated(qpu="q", calibration=calibration, before=before)
    state.handle(event, NOON)


def test_what_waits_for_an_old_calibration_is_given_back_and_what_runs_goes_on() -> None:
    state = BrokerState()
    state.configure("q", rules(Calendar(), slice_s=10.0))
    state.handle(job("parted", 3000, "a"), NOON)
    for name, calibration in (("old", "a"), ("any", ""), ("new", "b")):
        state.handle(job(name, 10, calibration), NOON)
    recalibrated(state, "b", before="a")
    states = {name: record.state for name, record in state.jobs.items()}
    assert states == {
        "parted": JobState.RUNNING,
        "old": JobState.FAILED,
        "any": JobState.QUEUED,
        "new": JobState.QUEUED,
    }
    failure = state.jobs[JobId("old")].failure
    assert failure is not None
    assert failure.error_type == "CalibrationChanged"
    # One that comes late is given back as well, until its client has looked at the QPU again.
    state.handle(job("late", 10, "a"), NOON)
    assert state.jobs[JobId("late")].state is JobState.FAILED
    state.handle(ev.JobResumed(job=JobId("late"), calibration="b"), NOON)
    assert state.jobs[JobId("late")].state is JobState.QUEUED
    # Nothing has run of a task that was never started, so it is given back as well.
    first = state.jobs[JobId("parted")].tasks[0]
    state.handle(ev.TaskStopped(tag=first), NOON)
    assert state.jobs[JobId("parted")].state is JobState.FAILED
    recalibrated(state, "a", before="b")
    state.handle(ev.JobResumed(job=JobId("old")), NOON)
    assert not state.jobs[JobId("old")].state.is_final
