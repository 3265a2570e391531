"""The state machine under random histories: the promises that hold in every one of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.api import Usage
from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.packing import TaskLimits, UncertainRule
from orchestrator.broker.core.policies import Fifo
from orchestrator.broker.core.records import job_view
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.state import FindTask, StartTask, replay
from orchestrator.broker.core.views import JobState
from orchestrator.identity import JobId
from tests.broker.histories import state_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def submitted(name: str, pubs: list[tuple[int, int]], kind: str = "sampler") -> ev.JobSubmitted:
    return ev.JobSubmitted(
        job=JobId(name),
        run="run",
        stage=None,
        call=0,
        qpu="q",
        backend="fake",
        payload_kind=kind,
        digest=name,
        pubs=tuple(ItemShape(points=p, shots=s) for p, s in pubs),
        num_qubits=2,
        seed=None,
    )


class Broker(RuleBasedStateMachine):
    """Submits, starts, ends, cancels, loses and restarts, in any order."""

    @initialize(
        most=st.integers(1, 3),
        circuits=st.none() | st.integers(1, 4),
        shots=st.none() | st.integers(1, 100),
        coalesces=st.booleans(),
        uncertain=st.sampled_from(["ask", "fail", "adopt-wait"]),
    )
    def open(
        self,
        most: int,
        circuits: int | None,
        shots: int | None,
        coalesces: bool,
        uncertain: UncertainRule,
    ) -> None:
        self.limits = TaskLimits(
            max_concurrent_tasks=most,
            max_circuits=circuits,
            max_shots=shots,
            coalesces=coalesces,
            uncertain=uncertain,
        )
        self.state = state_of(q=self.limits)
        self.history: list[tuple[ev.Event, datetime]] = []
        self.started: list[str] = []
        self.doubted: set[str] = set()
        self.now = NOW

    def feed(self, event: ev.Event) -> None:
        self.now += timedelta(seconds=1)
        drained = "q" in self.state.drained and not isinstance(event, ev.QpuResumed)
        outcome = self.state.handle(event, self.now)
        assert not (drained and any(isinstance(c, StartTask) for c in outcome.commands))
        self.history += [(recorded, self.now) for recorded in outcome.events]
        self.started += [c.tag for c in outcome.commands if isinstance(c, StartTask)]

    def of_state(self, *states: str) -> list[str]:
        return sorted(tag for tag, task in self.state.tasks.items() if task.state in states)

    @rule(pubs=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 250)), min_size=1, max_size=3))
    def submit(self, pubs: list[tuple[int, int]]) -> None:
        self.feed(submitted(f"j{len(self.state.jobs)}", pubs))

    @precondition(lambda self: self.of_state("planned"))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(self.of_state("planned")))
        self.feed(ev.TaskStarted(tag=tag, qpu_task=f"on-device-{tag}"))

    @precondition(lambda self: self.of_state("running"))
    @rule(data=st.data(), end=st.sampled_from(["complete", "complete", "fail", "cancel", "doubt"]))
    def end(self, data: st.DataObject, end: str) -> None:
        tag = data.draw(st.sampled_from(self.of_state("running", "uncertain")))
        events: dict[str, ev.Event] = {
            "complete": ev.TaskCompleted(tag=tag, usage=Usage(qpu_seconds=1.0, tasks=1)),
            "fail": ev.TaskErred(tag=tag, error="broke", error_type="TaskFailed"),
            "cancel": ev.TaskStopped(tag=tag),
            "doubt": ev.TaskUncertain(tag=tag, reason="no answer"),
        }
        if end == "doubt":
            self.doubted.add(tag)
        self.feed(events[end])

    @precondition(lambda self: self.of_state("uncertain"))
    @rule(data=st.data(), verdict=st.sampled_from(["failed", "not-started"]))
    def resolve(self, data: st.DataObject, verdict: ev.Verdict) -> None:
        tag = data.draw(st.sampled_from(self.of_state("uncertain")))
        self.feed(ev.TaskResolved(tag=tag, verdict=verdict, by="operator", reason="looked"))

    @precondition(lambda self: self.of_state("failed", "cancelled"))
    @rule(data=st.data())
    def complete_late(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(self.of_state("failed", "cancelled")))
        before = {job: record.state for job, record in self.state.jobs.items()}
        self.feed(ev.TaskCompleted(tag=tag, usage=Usage(qpu_seconds=1.0, tasks=1)))
        assert before == {job: record.state for job, record in self.state.jobs.items()}

    @rule()
    def drain(self) -> None:
        self.feed(ev.QpuDrained(qpu="q", by="operator", reason="maintenance"))

    @precondition(lambda self: self.state.drained)
    @rule()
    def reopen(self) -> None:
        self.feed(ev.QpuResumed(qpu="q", by="operator"))

    @precondition(lambda self: self.state.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.feed(ev.JobCancelRequested(job=data.draw(st.sampled_from(sorted(self.state.jobs)))))

    @precondition(lambda self: self.state.jobs)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.state.jobs)))
        record = self.state.jobs[job]
        if record.held or record.state in (JobState.FAILED, JobState.CANCELLED):
            self.feed(ev.JobResumed(job=job))

    @rule(resume=st.booleans())
    def restart(self, resume: bool) -> None:
        self.state = replay(self.history)
        self.state.configure("q", QpuRules(limits=self.limits, policy=Fifo()))
        outcome = self.state.handle(ev.BrokerOpened(resume=resume), self.now)
        self.history += [(recorded, self.now) for recorded in outcome.events]
        self.started += [c.tag for c in outcome.commands if isinstance(c, StartTask)]
        for command in outcome.commands:
            if isinstance(command, FindTask):
                task = self.state.tasks[command.tag]
                if task.qpu_task is None:
                    self.feed(ev.TaskStopped(tag=command.tag))
                else:
                    self.feed(ev.TaskAdopted(tag=command.tag, qpu_task=task.qpu_task))

    @invariant()
    def no_tag_is_started_twice(self) -> None:
        assert len(set(self.started)) == len(self.started)
        assert all(task.starts <= 1 for task in self.state.tasks.values())

    @invariant()
    def limits_hold(self) -> None:
        # A task once in doubt has given up its place, and may turn out to run all the same.
        most = self.limits.max_concurrent_tasks
        assert most is None or len(self.state.open_tasks("q") - self.doubted) <= most
        for task in self.state.tasks.values():
            parts = task.planned.parts
            circuits = sum(part.points for part in parts)
            assert self.limits.max_circuits is None or circuits <= self.limits.max_circuits
            assert all(
                self.limits.max_shots is None or part.shots <= self.limits.max_shots
                for part in parts
            )
            assert self.limits.coalesces or len(task.jobs) == 1

    @invariant()
    def no_qpu_idles_while_work_waits(self) -> None:
        if self.state.queued("q") and not self.state.drained:
            open_tasks = self.state.open_tasks("q")
            sure = [tag for tag in open_tasks if self.state.tasks[tag].state != "uncertain"]
            assert len(sure) >= (self.limits.max_concurrent_tasks or 0)

    @invariant()
    def work_is_conserved(self) -> None:
        for job, record in self.state.jobs.items():
            expected = sum(s.points * s.shots for s in record.submitted.pubs)
            lying = [
                part
                for tag in record.tasks
                for part in self.state.tasks[tag].planned.parts
                if part.job == job
                and (tag in record.open or self.state.tasks[tag].state == "completed")
            ]
            parts = lying + list(record.pending)
            assert sum(p.points * p.shots for p in parts) == expected
            for index, one in enumerate(parts):
                for other in parts[index + 1 :]:
                    assert not _overlap(one, other)

    @invariant()
    def replaying_gives_the_same_state(self) -> None:
        again = replay(self.history)
        for job, record in self.state.jobs.items():
            assert job_view(again.jobs[job], again.tasks) == job_view(record, self.state.tasks)
        assert again.drained == self.state.drained
        assert again.open_tasks("q") == self.state.open_tasks("q")
        assert again.queued("q") == self.state.queued("q")

    @invariant()
    def usage_is_shared_out_without_remainder(self) -> None:
        views = [job_view(record, self.state.tasks) for record in self.state.jobs.values()]
        billed = sum(task.usage.qpu_seconds for task in self.state.tasks.values())
        assert abs(sum(view.usage.qpu_seconds for view in views) - billed) < 1e-9


def _overlap(one: ev.Part, other: ev.Part) -> bool:
    return (
        one.pub == other.pub
        and max(one.first_point, other.first_point) < min(one.end_point, other.end_point)
        and max(one.first_shot, other.first_shot) < min(one.end_shot, other.end_shot)
    )


TestBroker = Broker.TestCase
TestBroker.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_failed_coalesced_task_is_tried_again_job_by_job() -> None:
    state = state_of(q=TaskLimits(coalesces=True))
    state.handle(submitted("first", [(1, 10)]), NOW)
    state.handle(submitted("second", [(1, 10)]), NOW)
    state.handle(submitted("third", [(1, 10)]), NOW)
    done = state.handle(ev.TaskCompleted(tag="first.0", usage=Usage()), NOW)
    (shared,) = [e for e in done.events if isinstance(e, ev.TaskPlanned)]
    assert {part.job for part in shared.parts} == {"second", "third"}
    failed = ev.TaskErred(tag=shared.tag, error="bad circuit", error_type="TaskFailed")
    (alone,) = [e for e in state.handle(failed, NOW).events if isinstance(e, ev.TaskPlanned)]
    assert {part.job for part in alone.parts} == {"second"}
    failed = ev.TaskErred(tag=alone.tag, error="bad circuit", error_type="TaskFailed")
    (last,) = [e for e in state.handle(failed, NOW).events if isinstance(e, ev.TaskPlanned)]
    state.handle(ev.TaskCompleted(tag=last.tag, usage=Usage()), NOW)
    assert state.jobs[JobId("second")].state is JobState.FAILED
    assert state.jobs[JobId("third")].state is JobState.COMPLETED


def test_jobs_go_in_order_of_arrival() -> None:
    state = state_of(q=TaskLimits())
    order = [f"j{n}" for n in (5, 3, 8, 1)]
    for name in order:
        state.handle(submitted(name, [(1, 1)]), NOW)
    for name in order:
        assert state.open_tasks("q") == {f"{name}.0"}
        state.handle(ev.TaskCompleted(tag=f"{name}.0", usage=Usage()), NOW)


def test_a_retry_runs_only_the_parts_that_are_missing() -> None:
    state = state_of(q=TaskLimits(max_shots=100))
    state.handle(submitted("j", [(1, 300)]), NOW)
    state.handle(ev.TaskCompleted(tag="j.0", usage=Usage()), NOW)
    state.handle(ev.TaskErred(tag="j.1", error="x", error_type="TaskFailed"), NOW)
    assert state.jobs[JobId("j")].state is JobState.FAILED
    state.handle(ev.JobResumed(job=JobId("j")), NOW)
    state.handle(ev.TaskCompleted(tag="j.2", usage=Usage()), NOW)
    assert state.jobs[JobId("j")].state is JobState.COMPLETED
    completed = [t for t in state.tasks.values() if t.state == "completed"]
    assert sorted(p.first_shot for t in completed for p in t.planned.parts) == [0, 100, 200]


def test_nothing_is_decided_before_what_a_dead_broker_left_is_looked_for() -> None:
    state = state_of(q=TaskLimits())
    state.handle(submitted("first", [(1, 1)]), NOW)
    state.handle(submitted("second", [(1, 1)]), NOW)
    state.handle(ev.TaskCompleted(tag="first.0", usage=Usage()), NOW)
    again = state_of(q=TaskLimits())
    again.asleep = True
    for event in (submitted("third", [(1, 1)]), ev.QpuResumed(qpu="q", by="o")):
        assert not any(isinstance(c, StartTask) for c in again.handle(event, NOW).commands)
    assert again.tick(NOW).commands == ()
    assert again.next_look(NOW) is None
    opened = again.handle(ev.BrokerOpened(resume=True), NOW)
    assert opened.commands == (StartTask("third.0"),)


def test_jobs_in_one_task_are_told_nothing_of_each_other() -> None:
    state = state_of(q=TaskLimits(coalesces=True))
    for name in ("lead", "alice", "bob"):
        state.handle(submitted(name, [(1, 10)]), NOW)
    state.handle(ev.TaskCompleted(tag="lead.0", usage=Usage()), NOW)
    told = {"method": ["of alice", "of bob"], "calibration_id": "c", "words": "alice's"}
    state.handle(ev.TaskCompleted(tag="alice.0", usage=Usage(), metadata=told), NOW)
    (task,) = job_view(state.jobs[JobId("bob")], state.tasks).tasks
    assert task.metadata == {"method": ["of bob"], "calibration_id": "c"}
    for name in ("wait", "carol", "dora"):
        state.handle(submitted(name, [(1, 10)]), NOW)
    state.handle(ev.TaskCompleted(tag="wait.0", usage=Usage()), NOW)
    failed = ev.TaskErred(tag="carol.0", error="carol's ansatz is bad", error_type="TaskFailed")
    state.handle(failed, NOW)
    (task, *_) = job_view(state.jobs[JobId("dora")], state.tasks).tasks
    assert "carol" not in str(task.error)
