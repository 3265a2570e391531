"""The states of a qpu_task: what may follow what, and what a violation reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backends.api import Usage
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.records import InvalidTransition, TaskRecord
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import QpuTaskState
from orchestrator.identity import JobId

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
FINAL = {QpuTaskState.COMPLETED, QpuTaskState.FAILED, QpuTaskState.CANCELLED}


def task() -> TaskRecord:
    part = ev.Part(job=JobId("j1"), pub=0, first_point=0, end_point=1, first_shot=0, end_shot=10)
    return TaskRecord(planned=ev.TaskPlanned(tag="j1.0", qpu="q", parts=(part,)), planned_at=NOW)


@pytest.mark.parametrize("before", QpuTaskState)
@pytest.mark.parametrize("after", QpuTaskState)
def test_an_end_is_final_and_no_task_is_planned_again(before, after) -> None:
    allowed = before not in FINAL and after is not QpuTaskState.PLANNED
    assert before.may_become(after) is allowed
    assert before.is_final is (before in FINAL)


@pytest.mark.parametrize(
    "end",
    [
        ev.TaskCompleted(tag="j1.0", usage=Usage()),
        ev.TaskErred(tag="j1.0", error="no", error_type="TaskFailed"),
        ev.TaskStopped(tag="j1.0"),
    ],
)
def test_a_second_end_is_refused_with_the_history(end) -> None:
    record = task()
    record.start("backend-7", NOW + timedelta(seconds=1))
    record.end(ev.TaskErred(tag="j1.0", error="it broke", error_type="TaskFailed"), NOW)
    with pytest.raises(InvalidTransition) as refused:
        record.end(end, NOW)
    for words in ("j1.0", "planned 2026-05-04T12:00:00", "backend-7", "failed", "it broke"):
        assert words in str(refused.value)
    with pytest.raises(InvalidTransition):
        record.doubt("after its end")
    assert record.state is QpuTaskState.FAILED
    assert record.error == "it broke"


def test_a_late_start_is_counted_and_changes_no_end() -> None:
    record = task()
    record.end(ev.TaskStopped(tag="j1.0"), NOW)
    record.start("backend-7", NOW)
    assert (record.state, record.starts) == (QpuTaskState.CANCELLED, 1)


def test_a_tag_is_planned_once() -> None:
    state = BrokerState()
    state.tasks["j1.0"] = task()
    with pytest.raises(InvalidTransition, match=r"j1\.0"):
        state.apply(task().planned, NOW)
