"""Snapshots: a state that was cut short goes on exactly as the whole one would."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.api import Usage
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.codec import from_json, to_json
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.records import job_view
from orchestrator.broker.core.snapshot import (
    EndedJob,
    ended_job,
    forgettable,
    freeze,
    missing_jobs,
    thaw,
)
from orchestrator.broker.core.state import BrokerState, replay
from orchestrator.broker.core.views import JobView
from orchestrator.identity import JobId
from tests.broker.histories import NOW, History, histories, state_of, submitted


class Archive:
    """What a ledger does with snapshots, in memory and through JSON."""

    def __init__(self) -> None:
        self.state = BrokerState()
        self.rows: dict[JobId, str] = {}

    def feed(self, history: History) -> None:
        for event, at in history:
            while missing := missing_jobs(self.state, event):
                for job in missing:
                    ended = from_json(EndedJob, self.rows[job])
                    self.state.recall(ended.job, ended.tasks)
            self.state.apply(event, at)

    def cut(self, most: int) -> None:
        gone = forgettable(self.state, most=most)
        for job in gone:
            self.rows[job] = to_json(ended_job(self.state, job))
        frozen = freeze(self.state, gone)
        self.state.forget(gone)
        restored = thaw(frozen)
        assert restored == self.state
        self.state = restored

    def views(self) -> dict[JobId, JobView]:
        found = {job: from_json(EndedJob, row).view for job, row in self.rows.items()}
        for job, record in self.state.jobs.items():
            found[job] = job_view(record, self.state.tasks)
        return found


def open_work(state: BrokerState) -> object:
    """Return all that decides what a broker does next."""
    records = {job: record for job, record in state.jobs.items() if not record.state.is_final}
    needed = {tag for record in records.values() for tag in record.tasks}
    return (
        records,
        {tag: task for tag, task in state.tasks.items() if tag in needed},
        state.drained,
        {q: sorted(state.queued(q).items(), key=lambda one: one[1]) for q in "pq"},
        {q: state.open_tasks(q) for q in "pq"},
    )


@settings(max_examples=100)
@given(
    history=histories(),
    cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 5)), max_size=4),
)
def test_a_history_cut_anywhere_leads_to_the_same_state(
    history: History, cuts: list[tuple[int, int]]
) -> None:
    whole, archive, done = replay(history), Archive(), 0
    for at, most in sorted(cuts):
        archive.feed(history[done:at])
        archive.cut(most)
        done = max(done, min(at, len(history)))
    archive.feed(history[done:])
    assert open_work(archive.state) == open_work(whole)
    views = {job: job_view(record, whole.tasks) for job, record in whole.jobs.items()}
    assert archive.views() == views
    for project in ("project0", "project1"):
        past = archive.state.past.get(project)
        used = [
            job_view(record, archive.state.tasks).usage.qpu_seconds
            for record in archive.state.jobs.values()
            if record.submitted.project == project
        ]
        there = sum(used) + (past.usage.qpu_seconds if past else 0.0)
        expected = sum(v.usage.qpu_seconds for v in views.values() if v.project == project)
        assert there == pytest.approx(expected)


@settings(max_examples=40)  # making a history costs more than looking at it
@given(history=histories())
def test_memory_keeps_open_work_only(history: History) -> None:
    archive = Archive()
    archive.feed(history)
    archive.cut(10_000)
    state = archive.state
    assert not any(record.state.is_final for record in state.jobs.values())
    assert all(any(job in state.jobs for job in task.jobs) for task in state.tasks.values())


@settings(max_examples=40)
@given(history=histories())
def test_a_view_survives_json(history: History) -> None:
    state = replay(history)
    for record in state.jobs.values():
        view = job_view(record, state.tasks)
        assert from_json(JobView, to_json(view)) == view


def test_jobs_that_ended_a_moment_ago_may_be_kept() -> None:
    state = state_of(q=TaskLimits(max_concurrent_tasks=None))
    for number in (1, 2):
        state.handle(submitted(number, [(1, 1)]), NOW)
        end = NOW + timedelta(minutes=number)
        state.handle(ev.TaskCompleted(tag=f"j{number}.0", usage=Usage()), end)
    assert forgettable(state, before=NOW + timedelta(minutes=2), most=9) == ["j1"]
    assert forgettable(state, most=9) == ["j1", "j2"]
    assert forgettable(state, most=1) == ["j1"]


def test_every_part_of_the_state_is_kept_but_what_comes_from_the_site() -> None:
    state = state_of(q=TaskLimits())
    state.handle(submitted(1, [(1, 1)]), NOW)
    state.handle(ev.QpuDrained(qpu="q", by="o", reason="r"), NOW)
    again = thaw(freeze(state, []))
    for field in fields(BrokerState):
        if field.name not in ("rules", "queues"):
            assert getattr(again, field.name) == getattr(state, field.name), field.name
