"""Dataclasses as JSON: what earlier versions wrote, what later ones may write, and odd numbers."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from backends.api import Usage
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.codec import from_json, to_json, to_plain
from orchestrator.broker.core.records import TaskRecord
from orchestrator.broker.core.snapshot import thaw
from orchestrator.broker.core.views import QpuTaskState

# As the first versions wrote it: times with an offset, and no accounts.
EARLIER_SNAPSHOT = {
    "drained": {"q": {"qpu": "q", "by": "ada", "reason": "pump"}},
    "tasks": {
        "j1.0": {
            "planned": {"tag": "j1.0", "qpu": "q", "parts": []},
            "planned_at": "2026-05-04T12:00:00.250000+00:00",
            "state": "running",
            "qpu_task": "7",
            "starts": 1,
        }
    },
    "_arrivals": 3,
    "_open": {"q": ["j1.0"]},
}


def test_fields_that_have_their_default_are_left_out() -> None:
    task = ev.TaskErred(tag="j1.0", error="it broke", error_type="TaskFailed")
    assert json.loads(to_json(task)) == to_plain(task)
    assert set(to_plain(task)) == {"tag", "error", "error_type"}
    assert from_json(ev.TaskErred, to_json(task)) == task


def test_a_snapshot_of_an_earlier_version_is_read() -> None:
    state = thaw(json.dumps(EARLIER_SNAPSHOT))
    at = datetime(2026, 5, 4, 12, 0, 0, 250_000, UTC)
    planned = ev.TaskPlanned(tag="j1.0", qpu="q", parts=())
    running = TaskRecord(planned, at, QpuTaskState.RUNNING, qpu_task="7", starts=1)
    assert state.tasks == {"j1.0": running}
    assert state.open_tasks("q") == {"j1.0"}
    assert state.drained["q"].reason == "pump"


def test_what_a_later_version_added_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"usage\.joules"):
        from_json(ev.TaskCompleted, '{"tag": "j1.0", "usage": {"joules": 1}}')


def test_numbers_that_are_not_finite_survive() -> None:
    usage = Usage(qpu_seconds=math.inf)
    task = ev.TaskCompleted(tag="j1.0", usage=usage, metadata={"error": math.nan})
    again = from_json(ev.TaskCompleted, to_json(task))
    assert again.usage == usage
    assert math.isnan(again.metadata["error"])
