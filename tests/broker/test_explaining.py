"""Why a job waits: each reason, its place, its expected start, and the record of its tasks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backends.api import Usage
from backends.metering import Charge, FloorPerTask, Metering
from backends.shapes import ItemShape
from backends.timing import TimingModel
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.explain import Explanation, explain, work_left_s
from orchestrator.broker.core.job_request import LeaseWish
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Shortest
from orchestrator.broker.core.rules import Calendar, QpuRules, Window
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobState
from orchestrator.config.bounds import LeaseBounds, Rate
from orchestrator.identity import JobId

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RULES = QpuRules(
    policy=Shortest(),
    timing=TimingModel(init_s=1.0, shot_s=0.01),
    metering=Metering(formula=FloorPerTask(per_shot_s=0.01, floor_s=5.0), unit="billed-s"),
)


def served(rules: QpuRules = RULES) -> BrokerState:
    state = BrokerState()
    state.configure("q", rules)
    return state


def submit(
    state: BrokerState, name: str, shots: int, *, seconds: float = 0, lease: str | None = None
) -> None:
    wish = None if lease is None else LeaseWish(id=lease, longest_s=60, idle_s=2)
    job = ev.JobSubmitted(
        job=JobId(name),
        run="r",
        stage=None,
        call=0,
        qpu="q",
        backend="fake",
        payload_kind="sampler",
        digest=name,
        pubs=(ItemShape(points=1, shots=shots),),
        num_qubits=2,
        seed=None,
        lease=wish,
    )
    state.handle(job, NOW + timedelta(seconds=seconds))


def why(state: BrokerState, name: str, seconds: float = 0) -> Explanation:
    return explain(state, JobId(name), NOW + timedelta(seconds=seconds))


def complete(state: BrokerState, tag: str, seconds: float, amount: float = 5.0) -> None:
    usage = Usage(qpu_seconds=3.0, charges=(Charge(amount=amount, unit="billed-s"),))
    state.handle(ev.TaskCompleted(tag=tag, usage=usage), NOW + timedelta(seconds=seconds))


def test_place_and_likely_start_follow_the_policy() -> None:
    state = served()
    submit(state, "runs", 200)
    submit(state, "long", 900)
    submit(state, "short", 100)
    found = why(state, "long", seconds=1)
    assert found.state is JobState.QUEUED
    assert found.ahead == 1
    # 3 s of the task at work, of which one has passed, and 2 s of the shorter job.
    assert found.expected_start == NOW + timedelta(seconds=1 + 2 + 2)
    assert found.predicted_s == 10.0
    assert "busy" in found.waits_for[0]
    assert "1 job goes before it by policy shortest" in found.waits_for[1]
    assert why(state, "short", seconds=1).ahead == 0
    complete(state, "runs.0", 3)
    complete(state, "short.0", 5)
    told = why(state, "long", seconds=5)
    assert (told.overtaken_by, told.waits_for) == (1, ())
    assert told.tasks[0].text == "nobody else waited"
    (task,) = why(state, "short", seconds=5).tasks
    assert task.text == "most urgent of 2 by shortness -2"
    assert (task.predicted_s, task.actual_s, task.policy) == (2.0, 3.0, "shortest")


def work_s(state: BrokerState, seconds: float = 0) -> float | None:
    now = NOW + timedelta(seconds=seconds)
    return work_left_s(state, state.context("q", now), now)


def test_work_that_is_left_is_what_runs_and_what_waits() -> None:
    state = served()
    assert work_s(state) == 0.0
    submit(state, "runs", 200)
    submit(state, "long", 900)
    assert work_s(state, 1) == 3 - 1 + 10
    assert work_s(state, 9) == 10  # a task that takes longer than it should ends at any moment
    complete(state, "runs.0", 3)
    assert work_s(state, 4) == 10 - 1


def test_work_of_unknown_length_is_known_after_a_measurement() -> None:
    state = served(replace(RULES, timing=None))
    submit(state, "first", 100)
    submit(state, "second", 100)
    submit(state, "third", 100)
    assert work_s(state) is None
    complete(state, "first.0", 3)
    assert work_s(state, 4) == 3 - 1 + 3  # the second was planned, and the third is counted, by it


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            replace(
                RULES,
                calendar=Calendar.of(
                    [
                        Window(
                            start=NOW - timedelta(hours=1),
                            end=NOW + timedelta(hours=1),
                            title="cold head",
                        )
                    ]
                ),
            ),
            "closed for maintenance (cold head) until 2026-01-01 13:00:00 UTC",
        ),
        (
            replace(
                RULES,
                calendar=Calendar.of(
                    [
                        Window(
                            start=NOW + timedelta(seconds=2),
                            end=NOW + timedelta(hours=1),
                            kind="calibration",
                        )
                    ]
                ),
            ),
            "would not end before the calibration at 2026-01-01 12:00:02 UTC",
        ),
        (replace(RULES, rate=Rate(starts=1, per_s=30.0)), "takes 1 start in 30 s; the next one"),
    ],
)
def test_what_keeps_the_qpu_from_starting_is_told(rules: QpuRules, words: str) -> None:
    state = served(rules)
    submit(state, "first", 100)
    submit(state, "j", 300)
    found = why(state, "j")
    assert any(words in reason for reason in found.waits_for), found.waits_for
    if rules.calendar.closures:
        assert found.expected_start is not None
        assert found.expected_start >= NOW + timedelta(hours=1)


def test_a_drained_qpu_tells_its_reason_and_no_time() -> None:
    state = served()
    state.handle(ev.QpuDrained(qpu="q", by="olga", reason="cooling"), NOW)
    submit(state, "j", 100)
    found = why(state, "j")
    assert found.waits_for == ("QPU q is drained: cooling",)
    assert found.expected_start is None


def test_a_lease_of_others_is_told_without_their_names() -> None:
    state = served(replace(RULES, leases=LeaseBounds(longest_s=60, idle_s=2)))
    submit(state, "step", 100, lease="ada/loop")
    complete(state, "step.0", 2)
    submit(state, "j", 100, seconds=2.5)
    (reason,) = why(state, "j", seconds=3).waits_for
    assert reason.startswith("the QPU is leased to an iterative loop until 12:01:00")
    assert "ada" not in reason


def test_sharing_a_task_tells_what_it_saved() -> None:
    state = served(replace(RULES, limits=TaskLimits(coalesces=True)))
    submit(state, "first", 100)
    for name in ("a", "b", "c", "d"):
        submit(state, name, 10)
    complete(state, "first.0", 2)
    complete(state, "a.0", 4, amount=5.0)
    (task,) = why(state, "b", seconds=4).tasks
    assert task.text.startswith("joined a task")
    assert set(task.why) == {"policy", "queued"}
    assert task.shared_with == 3
    assert task.saved == pytest.approx(0.75)
    assert "saved it 75% of the price" in task.text


def test_a_job_that_is_held_or_over_says_so() -> None:
    state = served()
    submit(state, "first", 100)
    submit(state, "j", 100)
    state.handle(ev.BrokerOpened(resume=False), NOW)
    assert "client is gone" in why(state, "j").waits_for[0]
    complete(state, "first.0", 2)
    assert why(state, "first", seconds=3).waits_for == ()


def test_a_qpu_that_is_not_served_here_is_told() -> None:
    state = BrokerState()
    submit(state, "j", 100)
    assert "cannot be opened now" in why(state, "j").waits_for[0]
    told = explain(state, JobId("j"), NOW, unserved="asked of a ledger")
    assert told.waits_for == ("asked of a ledger",)
