"""Leases: a loop keeps the QPU between its jobs, within bounds, and gives it back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from backends.api import Usage
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.job_request import LeaseWish
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Fifo
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.state import BrokerState, Effects
from orchestrator.config.bounds import LeaseBounds
from orchestrator.identity import JobId
from tests.broker.histories import submitted

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def served(most: int = 1, leases: LeaseBounds | None = LeaseBounds()) -> BrokerState:  # noqa: B008
    state = BrokerState()
    limits = TaskLimits(max_concurrent_tasks=most)
    state.configure("q", QpuRules(limits=limits, policy=Fifo(), leases=leases))
    return state


def job(number: int, lease: str | None = None, project: str = "p") -> ev.JobSubmitted:
    plain = submitted(4 * number + 1, [(1, 10)])
    wish = None if lease is None else LeaseWish(id=lease, longest_s=600, idle_s=600)
    return replace(plain, job=JobId(f"j{number}"), lease=wish, project=project)


def started(outcome: Effects) -> list[str]:
    return [event.tag for event in outcome.events if isinstance(event, ev.TaskPlanned)]


def ended(state: BrokerState, tag: str, seconds: float) -> Effects:
    return state.handle(ev.TaskCompleted(tag=tag, usage=Usage(qpu_seconds=1.0)), at(seconds))


def test_the_next_step_of_a_loop_goes_before_who_waited_longer() -> None:
    state = served()
    assert started(state.handle(job(1, "loop"), at(0))) == ["j1.0"]
    state.handle(job(2), at(0.1))
    assert started(ended(state, "j1.0", 1)) == []  # the QPU is kept, though somebody waits
    assert started(state.handle(job(3, "loop"), at(1.5))) == ["j3.0"]
    assert started(ended(state, "j3.0", 2)) == []


def test_a_pause_gives_the_qpu_back() -> None:
    state = served()
    state.handle(job(1, "loop"), at(0))
    state.handle(job(2), at(0.1))
    ended(state, "j1.0", 1)
    assert state.next_look(at(1)) == at(
        3
    )  # the site's two idle seconds, not the user's ten minutes
    late = state.tick(at(5))
    (closed,) = [event for event in late.events if isinstance(event, ev.LeaseClosed)]
    assert (closed.reason, closed.at) == ("idle", at(3))
    assert (closed.held_s, closed.used_s) == (3.0, 1.0)
    assert started(late) == ["j2.0"]
    assert started(state.handle(job(3, "loop"), at(5.5))) == []  # it queues like any other
    use = state.histories["q"].lease_use["p"]
    assert (use.leases, use.held_s, use.used_s) == (1, 3.0, 1.0)


def test_a_lease_ends_in_time_though_the_loop_goes_on() -> None:
    state = served(leases=LeaseBounds(longest_s=10.0, idle_s=2.0))
    state.handle(job(1, "loop"), at(0))
    state.handle(job(2), at(0.1))
    state.handle(job(3, "loop"), at(0.2))
    ended(state, "j1.0", 6)  # the loop's next task starts at once
    done = ended(state, "j3.0", 12)
    (closed,) = [event for event in done.events if isinstance(event, ev.LeaseClosed)]
    assert (closed.reason, closed.at) == ("time", at(10))
    assert started(done) == ["j2.0"]


def test_letting_go_lets_others_in_at_once() -> None:
    state = served()
    state.handle(job(1, "loop"), at(0))
    state.handle(job(2), at(0.1))
    ended(state, "j1.0", 1)
    released = ev.LeaseClosed(lease="loop", qpu="q", reason="released", at=at(1.2))
    assert started(state.handle(released, at(1.2))) == ["j2.0"]
    assert state.handle(released, at(1.3)).events == ()  # once is enough


def test_another_loop_waits_for_its_turn() -> None:
    state = served()
    state.handle(job(1, "one"), at(0))
    state.handle(job(2, "two"), at(0.1))
    ended(state, "j1.0", 1)
    outcome = state.tick(at(3))
    opened = [event.lease for event in outcome.events if isinstance(event, ev.LeaseOpened)]
    assert (opened, started(outcome)) == (["two"], ["j2.0"])


def test_a_lease_keeps_one_place_of_several() -> None:
    state = served(most=2)
    state.handle(job(1, "loop"), at(0))
    assert started(state.handle(job(2), at(0.1))) == ["j2.0"]
    assert started(state.handle(job(3), at(0.2))) == []
    assert started(ended(state, "j1.0", 1)) == []
    assert started(ended(state, "j2.0", 1.1)) == ["j3.0"]
    assert started(state.handle(job(4, "loop"), at(1.2))) == ["j4.0"]


def test_a_site_may_grant_none() -> None:
    state = served(leases=None)
    state.handle(job(1, "loop"), at(0))
    state.handle(job(2), at(0.1))
    assert started(ended(state, "j1.0", 1)) == ["j2.0"]


def test_a_drained_qpu_ends_its_lease() -> None:
    state = served()
    state.handle(job(1, "loop"), at(0))
    state.handle(ev.QpuDrained(qpu="q", by="o", reason="care"), at(0.5))
    ended(state, "j1.0", 1)
    assert [type(event) for event in state.tick(at(4)).events] == [ev.LeaseClosed]


def test_a_lease_of_no_time_ends_all_the_same() -> None:
    state = served(leases=LeaseBounds(longest_s=1e-7, idle_s=1e-9))
    assert started(state.handle(job(1, "loop"), at(0))) == ["j1.0"]
    assert len(state.tick(at(1)).events) == 1


def test_a_task_at_work_when_the_time_is_up_counts_as_used() -> None:
    state = served(leases=LeaseBounds(longest_s=10.0, idle_s=2.0))
    state.handle(job(1, "loop"), at(0))
    (closed,) = state.tick(at(30)).events
    assert isinstance(closed, ev.LeaseClosed)
    assert (closed.held_s, closed.used_s) == (10.0, 10.0)


def test_letting_go_late_does_not_make_a_lease_longer() -> None:
    state = served(leases=LeaseBounds(longest_s=10.0, idle_s=2.0))
    state.handle(job(1, "loop"), at(0))
    released = ev.LeaseClosed(lease="loop", qpu="q", reason="released", at=at(90))
    (closed, *_) = state.handle(released, at(90)).events
    assert isinstance(closed, ev.LeaseClosed)
    assert (closed.at, closed.held_s) == (at(10), 10.0)
