"""Jobs that are bound to a Slurm job start, wait and end with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from backends.api import Usage
from backends.timing import TimingModel
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.explain import explain
from orchestrator.broker.core.grants import Grant
from orchestrator.broker.core.job_request import LeaseWish
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Fifo
from orchestrator.broker.core.records import job_view
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.snapshot import ended_job, freeze, thaw
from orchestrator.broker.core.state import BrokerState, Effects, SettleJob, StopTask, replay
from orchestrator.broker.core.views import JobState
from orchestrator.config.bounds import LeaseBounds
from orchestrator.identity import JobId
from tests.broker.histories import submitted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADA = {"qpu": "q", "user": "ada", "slurm_job": 7}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def served(**limits: int) -> BrokerState:
    state = BrokerState()
    bounds = TaskLimits(**({"max_concurrent_tasks": 1} | limits))  # type: ignore[arg-type]
    state.configure("q", QpuRules(limits=bounds, policy=Fifo(), leases=LeaseBounds()))
    return state


def job(name: str, slurm_job: int | None = 7, user: str = "ada", lease: bool = False):
    wish = LeaseWish(id="loop", longest_s=600, idle_s=600) if lease else None
    plain = submitted(5, [(1, 10)])
    return replace(plain, job=JobId(name), slurm_job=slurm_job, user=user, lease=wish)


def done(tag: str) -> ev.TaskCompleted:
    return ev.TaskCompleted(tag=tag, usage=Usage(qpu_seconds=1.0))


def planned(outcome: Effects) -> list[str]:
    return [event.tag for event in outcome.events if isinstance(event, ev.TaskPlanned)]


def test_nothing_starts_before_slurm_confirms_the_job() -> None:
    state = served()
    assert planned(state.handle(job("j1"), at(0))) == []
    assert planned(state.handle(job("j2", slurm_job=None), at(1))) == ["j2.0"]
    (waits,) = explain(state, JobId("j1"), at(1)).waits_for
    assert "7" in waits.split()
    state.handle(done("j2.0"), at(2))
    assert planned(state.handle(ev.GrantConfirmed(**ADA), at(3))) == ["j1.0"]


def test_a_confirmed_slurm_job_is_not_another_users() -> None:
    state = served()
    state.handle(ev.GrantConfirmed(**ADA), at(0))
    assert planned(state.handle(job("j1", user="eve"), at(1))) == []
    assert Grant("q", "eve", 7) in state.bound()
    ended = ev.GrantEnded(qpu="q", user="eve", slurm_job=7, reason="not eve's")
    outcome = state.handle(ended, at(2))
    assert outcome.commands == (SettleJob(JobId("j1")),)
    assert state.jobs[JobId("j1")].state is JobState.FAILED
    assert planned(state.handle(job("j2"), at(3))) == ["j2.0"]


def test_the_end_of_the_slurm_job_stops_its_task_and_fails_its_waiting_jobs() -> None:
    state = served()
    state.handle(ev.GrantConfirmed(**ADA), at(0))
    state.handle(job("j1"), at(1))
    state.handle(ev.TaskStarted(tag="j1.0", qpu_task="t"), at(1))
    state.handle(job("j2"), at(2))
    state.handle(job("j3", slurm_job=None), at(2))
    outcome = state.handle(ev.GrantEnded(**ADA, reason="it was cancelled"), at(3))
    assert set(outcome.commands) == {StopTask("j1.0"), SettleJob(JobId("j2"))}
    failed = state.jobs[JobId("j2")].failure
    assert failed is not None
    assert (failed.error_type, failed.error) == ("AllocationEnded", "it was cancelled")
    stopped = state.handle(ev.TaskStopped(tag="j1.0"), at(4))
    assert SettleJob(JobId("j1")) in stopped.commands
    assert state.jobs[JobId("j1")].state is JobState.FAILED
    assert planned(stopped) == ["j3.0"]
    assert state.bound() == set()


def test_a_task_that_had_not_started_yet_is_stopped_when_it_has() -> None:
    state = served()
    state.handle(ev.GrantConfirmed(**ADA), at(0))
    state.handle(job("j1"), at(1))
    state.handle(ev.GrantEnded(**ADA, reason=""), at(2))
    outcome = state.handle(ev.TaskStarted(tag="j1.0", qpu_task="t"), at(3))
    assert outcome.commands == (StopTask("j1.0"),)


def test_a_task_that_others_share_goes_on() -> None:
    state = served(coalesces=True)
    state.handle(job("j0", slurm_job=None), at(0))
    state.handle(job("j1"), at(0))
    state.handle(job("j2", slurm_job=8), at(0))
    state.handle(ev.GrantConfirmed(qpu="q", user="ada", slurm_job=8), at(1))
    state.handle(ev.GrantConfirmed(**ADA), at(1))
    (shared,) = planned(state.handle(done("j0.0"), at(2)))
    assert set(state.tasks[shared].jobs) == {"j1", "j2"}
    state.handle(ev.TaskStarted(tag=shared, qpu_task="t"), at(2))
    assert state.handle(ev.GrantEnded(**ADA, reason=""), at(3)).commands == ()
    both = state.handle(ev.GrantEnded(qpu="q", user="ada", slurm_job=8, reason=""), at(4))
    assert both.commands == (StopTask(shared),)


def test_no_answer_holds_back_what_waits_and_leaves_what_runs() -> None:
    state = served()
    state.handle(ev.GrantConfirmed(**ADA), at(0))
    state.handle(job("j1"), at(1))
    state.handle(job("j2"), at(1))
    outcome = state.handle(ev.GrantSuspended(**ADA, reason="no answer"), at(2))
    assert outcome.commands == ()
    state.handle(ev.TaskStarted(tag="j1.0", qpu_task="t"), at(3))
    state.handle(done("j1.0"), at(4))
    assert state.open_tasks("q") == frozenset()
    assert planned(state.handle(ev.GrantConfirmed(**ADA), at(5))) == ["j2.0"]


def test_a_lease_ends_with_its_slurm_job() -> None:
    state = served()
    state.handle(ev.GrantConfirmed(**ADA), at(0))
    state.handle(job("j1", lease=True), at(1))
    state.handle(job("j2", slurm_job=None), at(1))
    outcome = state.handle(ev.GrantEnded(**ADA, reason=""), at(2))
    (closed,) = [event for event in outcome.events if isinstance(event, ev.LeaseClosed)]
    assert (closed.reason, closed.at, closed.held_s) == ("allocation", at(2), 1.0)
    assert planned(state.handle(ev.TaskStopped(tag="j1.0"), at(3))) == ["j2.0"]


def test_the_next_slurm_job_takes_the_work_over() -> None:
    state = served()
    state.handle(job("j1"), at(0))
    state.handle(ev.GrantEnded(**ADA, reason=""), at(1))
    state.handle(ev.JobResumed(job=JobId("j1"), slurm_job=9), at(2))
    assert state.jobs[JobId("j1")].state is JobState.QUEUED
    outcome = state.handle(ev.GrantConfirmed(qpu="q", user="ada", slurm_job=9), at(3))
    assert planned(outcome) == ["j1.0"]


def rebound() -> BrokerState:
    """Return a broker where a task of j1 runs under Slurm job 7 and j1 goes on under 9."""
    state = served()
    state.handle(ev.GrantConfirmed(**ADA), at(0))
    state.handle(job("j1"), at(1))
    state.handle(ev.TaskStarted(tag="j1.0", qpu_task="t"), at(1))
    state.handle(ev.JobResumed(job=JobId("j1"), slurm_job=9), at(2))
    return state


def test_a_task_ends_with_the_slurm_job_it_was_planned_under() -> None:
    state = rebound()
    assert state.bound() == {Grant("q", "ada", 7), Grant("q", "ada", 9)}
    outcome = state.handle(ev.GrantEnded(**ADA, reason="it was cancelled"), at(3))
    assert outcome.commands == (StopTask("j1.0"),)
    assert planned(state.handle(ev.TaskStopped(tag="j1.0"), at(4))) == []
    assert state.jobs[JobId("j1")].state is JobState.QUEUED
    outcome = state.handle(ev.GrantConfirmed(qpu="q", user="ada", slurm_job=9), at(5))
    assert planned(outcome) == ["j1.1"]
    assert state.handle(ev.GrantEnded(**ADA, reason=""), at(6)).commands == ()


def test_each_task_has_the_slurm_job_that_held_the_qpu_for_it() -> None:
    state = rebound()
    state.handle(ev.GrantEnded(**ADA, reason=""), at(3))
    state.handle(ev.TaskStopped(tag="j1.0"), at(4))
    state.handle(ev.GrantConfirmed(qpu="q", user="ada", slurm_job=9), at(5))
    state.handle(ev.GrantEnded(qpu="q", user="ada", slurm_job=9, reason=""), at(6))
    state.handle(ev.TaskStopped(tag="j1.1"), at(7))
    # Both tasks have ended before the next Slurm job takes over.
    state.handle(ev.JobResumed(job=JobId("j1"), slurm_job=11), at(8))
    view = job_view(state.jobs[JobId("j1")], state.tasks)
    assert [task.slurm_job for task in view.tasks] == [7, 9]
    assert view.slurm_job == 11
    # A job that is over and was recalled shows the same.
    again = ended_job(thaw(freeze(state, without=[])), JobId("j1")).view
    assert again == view


def test_a_task_of_an_ended_slurm_job_is_stopped_when_a_restart_finds_it() -> None:
    state = rebound()
    state.handle(ev.GrantEnded(**ADA, reason=""), at(3))
    restored = thaw(freeze(state, without=[]))
    restored.configure("q", state.rules["q"])
    restored.handle(ev.BrokerOpened(resume=True), at(4))
    found = restored.handle(ev.TaskAdopted(tag="j1.0", qpu_task="t"), at(5))
    assert found.commands == (StopTask("j1.0"),)


def test_work_taken_over_twice_ends_with_its_first_slurm_job() -> None:
    state = rebound()
    state.handle(ev.JobResumed(job=JobId("j1"), slurm_job=10), at(3))
    ended = ev.GrantEnded(qpu="q", user="ada", slurm_job=9, reason="")
    assert state.handle(ended, at(4)).commands == ()
    outcome = state.handle(ev.GrantEnded(**ADA, reason=""), at(5))
    assert outcome.commands == (StopTask("j1.0"),)


def test_after_a_restart_slurm_is_asked_before_anything_starts() -> None:
    state = served()
    state.handle(ev.GrantConfirmed(**ADA), at(0))
    state.handle(job("j1"), at(1))
    state.handle(job("j2"), at(1))
    restored = thaw(freeze(state, without=[]))
    restored.configure("q", state.rules["q"])
    restored.handle(ev.BrokerOpened(resume=True), at(2))
    assert planned(restored.handle(done("j1.0"), at(3))) == []
    assert restored.bound() == {Grant("q", "ada", 7)}
    assert planned(restored.handle(ev.GrantConfirmed(**ADA), at(4))) == ["j2.0"]


steps = st.lists(
    st.tuples(
        st.sampled_from(
            [*("submit", "confirm", "end", "resume") * 2, "suspend", "start", "stop", "open"]
        ),
        st.integers(0, 5),
        st.sampled_from([7, 8]),
        st.sampled_from(["ada", "eve"]),
    ),
    min_size=20,
    max_size=40,
)


def event_of(state: BrokerState, step: tuple[str, int, int, str]) -> ev.Event | None:
    kind, number, slurm_job, user = step
    grant = {"qpu": "q", "user": user, "slurm_job": slurm_job}
    bound = sorted(state.bound())
    if bound and number:  # mostly what matters to a job
        grant = bound[number % len(bound)]._asdict()
    running = sorted(state.open_tasks("q"))
    jobs = sorted(state.jobs)
    match kind:
        case "submit":
            lease = number == 0
            return job(f"j{len(jobs)}", slurm_job if number else None, user, lease=lease)
        case "confirm":
            return ev.GrantConfirmed(**grant)
        case "suspend":
            return ev.GrantSuspended(**grant, reason="")
        case "end":
            return ev.GrantEnded(**grant, reason="")
        case "open":
            return ev.BrokerOpened(resume=True)
        case "start" if running:
            tag = running[number % len(running)]
            kind_of_start = ev.TaskAdopted if state.tasks[tag].qpu_task else ev.TaskStarted
            return kind_of_start(tag=tag, qpu_task="t")
        case "stop" if running:
            return ev.TaskStopped(tag=running[number % len(running)])
        case "resume" if jobs:
            at_work = [name for name in jobs if state.jobs[name].open] if number else []
            again = (at_work or jobs)[number % len(at_work or jobs)]
            return ev.JobResumed(job=again, slurm_job=slurm_job)
    return None


@dataclass
class Slurm:
    """What Slurm granted, and under which of it tasks were planned, apart from the broker's own books.

    known: grants that were confirmed and have not ended. asked: tasks to be stopped. sought: tasks
    of which a restarted broker does not know yet whether they run.
    """

    known: set[Grant] = field(default_factory=set)
    under: dict[str, dict[JobId, Grant | None]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    sought: set[str] = field(default_factory=set)

    def note(self, state: BrokerState, outcome: Effects) -> None:
        for event in outcome.events:
            match event:
                case ev.GrantConfirmed():
                    self.known.add(Grant(event.qpu, event.user, event.slurm_job))
                case ev.GrantEnded():
                    self.known.discard(Grant(event.qpu, event.user, event.slurm_job))
                case ev.TaskPlanned():
                    owners = {part.job for part in event.parts}
                    self.under[event.tag] = {j: state.jobs[j].submitted.grant for j in owners}
                case ev.BrokerOpened():
                    self.asked.clear()
                    self.sought = set(state.open_tasks("q"))
                case ev.TaskStarted() | ev.TaskAdopted():
                    self.sought.discard(event.tag)
        self.asked |= {one.tag for one in outcome.commands if isinstance(one, StopTask)}

    def escaped(self, state: BrokerState) -> set[str]:
        """Return the open tasks whose grants have all ended, and which nothing stops."""
        return {
            tag
            for tag in state.open_tasks("q") - self.asked - self.sought
            if not any(
                grant is None or grant in self.known
                for job, grant in self.under[tag].items()
                if not state.jobs[job].is_unwanted
            )
        }


@given(steps, st.integers(1, 2), st.booleans())
@example(
    taken=[
        ("submit", 1, 7, "eve"),
        ("confirm", 0, 7, "eve"),
        ("end", 0, 7, "eve"),
        ("resume", 0, 7, "ada"),
        ("suspend", 0, 7, "eve"),
        ("open", 0, 7, "ada"),
        ("start", 0, 7, "ada"),
    ],
    most=1,
    coalesces=False,
)
def test_only_confirmed_work_is_planned_and_a_replay_agrees(taken, most, coalesces) -> None:
    state, recorded = served(max_concurrent_tasks=most, coalesces=coalesces), []
    slurm = Slurm()
    for second, step in enumerate(taken):
        event = event_of(state, step)
        if event is None:
            continue
        outcome = state.handle(event, at(second))
        for one in outcome.events:
            recorded.append((one, at(second)))
            if isinstance(one, ev.TaskPlanned):
                for part in one.parts:
                    grant = state.jobs[part.job].submitted.grant
                    assert grant is None or state.grants.get(grant.text) is True
        slurm.note(state, outcome)
        assert slurm.escaped(state) == set()
        if isinstance(event, ev.GrantEnded):
            ended = Grant(event.qpu, event.user, event.slurm_job)
            assert ended not in state.bound()
            lease = state.histories["q"].lease if "q" in state.histories else None
            assert lease is None or lease.opened.grant != ended
    again = replay(recorded)
    assert (again.jobs, again.tasks, again.grants) == (state.jobs, state.tasks, state.grants)


@given(
    shots=st.lists(st.integers(1, 100_000), min_size=1, max_size=3),
    points=st.integers(1, 20),
    allocation_s=st.floats(2.0, 600.0),
    start_s=st.floats(0.0, 0.9),
    slice_s=st.one_of(st.none(), st.floats(1.0, 100.0)),
)
@example(shots=[100_000], points=20, allocation_s=60.0, start_s=10.0, slice_s=None)
def test_tasks_are_cut_to_fit_into_a_slurm_job(
    shots, points, allocation_s, start_s, slice_s
) -> None:
    state = BrokerState()
    rules = QpuRules(
        limits=TaskLimits(max_concurrent_tasks=None),
        timing=TimingModel(init_s=start_s, shot_s=1e-3),
        slice_s=slice_s,
        allocation_s=allocation_s,
    )
    state.configure("q", rules)
    state.handle(ev.GrantConfirmed(**ADA), at(0))
    sizes = [(points, count) for count in shots]
    asked = replace(submitted(5, sizes), slurm_job=7, user="ada", seed=None)
    outcome = state.handle(asked, at(1))
    tasks = [event for event in outcome.events if isinstance(event, ev.TaskPlanned)]
    assert sum(part.points * part.shots for task in tasks for part in task.parts) == points * sum(
        shots
    )
    assert all(task.predicted_s <= allocation_s * (1 + 1e-6) for task in tasks)
