"""Every policy orders the queue by its formula and bounds the wait."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.broker.core.policies import (
    POLICIES,
    FairShare,
    JobQueue,
    Policy,
    Priority,
    QueuedJob,
    Shortest,
    Situation,
    Weighted,
    make_policy,
)
from orchestrator.broker.core.qpu_history import QpuHistory
from orchestrator.identity import JobId, Payer


def urgency(policy: Policy, job: QueuedJob, situation: Situation) -> float:
    return policy.job_score(job) + policy.account_score(job.payer, situation)


PAYERS = [Payer(project, user) for project in "pq" for user in "ab"]
seconds = st.floats(0, 1e4).map(lambda value: round(value, 2))


@st.composite
def queued(draw, most: int = 25) -> list[QueuedJob]:
    """Jobs in order of arrival, so in order of time."""
    times = sorted(draw(st.lists(st.integers(0, 100_000), min_size=1, max_size=most)))
    return [
        QueuedJob(
            job=JobId(f"j{number}"),
            arrival=number,
            payer=draw(st.sampled_from(PAYERS)),
            priority=draw(st.integers(-2, 2)),
            submitted_s=float(at),
            seconds=draw(seconds),
        )
        for number, at in enumerate(times)
    ]


situations = st.builds(
    Situation,
    now_s=st.floats(100_000, 200_000),
    use=st.dictionaries(st.sampled_from(PAYERS), st.floats(0, 1e4)),
    shares=st.dictionaries(st.sampled_from("pq"), st.floats(0, 5)),
)
policies = st.sampled_from(sorted(POLICIES)).map(make_policy)


@given(policies, queued(), situations)
@settings(deadline=None)
def test_the_queue_is_sorted_by_urgency_the_overdue_in_front(policy, jobs, situation) -> None:
    queue = JobQueue(policy)
    for job in jobs:
        queue.put(job)
    bound = policy.longest_wait_s
    late = [j for j in jobs if bound is not None and situation.now_s - j.submitted_s > bound]
    order = list(queue.ordered(situation))
    assert sorted(order, key=lambda j: j.arrival) == jobs
    assert order[: len(late)] == late
    values = [urgency(policy, job, situation) for job in order[len(late) :]]
    # Sums of other parts may differ in the last digits.
    assert all(a >= b - 1e-6 * max(1.0, abs(a)) for a, b in itertools.pairwise(values))


@given(policies, queued(), situations, st.data())
@settings(deadline=None)
def test_what_is_taken_out_is_gone_and_the_rest_keeps_its_order(
    policy, jobs, situation, data
) -> None:
    queue = JobQueue(policy)
    for job in jobs:
        queue.put(job)
    before = list(queue.ordered(situation))
    gone = set(data.draw(st.lists(st.sampled_from([j.job for j in jobs]))))
    for job in gone:
        queue.discard(job)
    assert list(queue.ordered(situation)) == [j for j in before if j.job not in gone]
    assert len(queue) == len(jobs) - len(gone)


@given(policies, queued(), situations)
@settings(deadline=None)
def test_terms_add_up_to_the_urgency_but_for_what_all_jobs_share(policy, jobs, situation) -> None:
    rest = [
        sum(policy.terms(job, situation).values()) - urgency(policy, job, situation) for job in jobs
    ]
    assert max(rest) - min(rest) < 1e-6


def test_first_in_first_out_is_the_order_of_arrival() -> None:
    queue = JobQueue(make_policy("fifo"))
    jobs = [QueuedJob(job=JobId(f"j{n}"), arrival=n, priority=n, seconds=9.0 - n) for n in range(9)]
    for job in reversed(jobs):
        queue.put(job)
    assert list(queue.ordered(Situation(now_s=1e6))) == jobs


@given(queued(), st.integers(1, 5), st.floats(10, 5000))
def test_ageing_bounds_how_long_a_priority_may_overtake(jobs, step, ageing_s) -> None:
    policy, situation = Priority(ageing_s=ageing_s), Situation(now_s=2e5)
    low = jobs[0]
    soon = replace(
        low, priority=low.priority + step, submitted_s=low.submitted_s + 0.9 * step * ageing_s
    )
    late = replace(soon, submitted_s=low.submitted_s + 1.1 * step * ageing_s)
    assert urgency(policy, soon, situation) > urgency(policy, low, situation)
    assert urgency(policy, late, situation) < urgency(policy, low, situation)


@given(st.floats(0, 1e4), st.floats(1, 1e4))
def test_of_equal_shares_the_one_that_used_less_goes_first(less, more) -> None:
    use = {Payer("p", "a"): less, Payer("q", "a"): less + more}
    situation, policy = Situation(now_s=1.0, use=use), FairShare()
    assert policy.account_score(Payer("p", "a"), situation) > policy.account_score(
        Payer("q", "a"), situation
    )
    new = Payer("r", "z")
    assert policy.account_score(new, situation) == 1.0


def test_a_larger_share_makes_up_for_more_use() -> None:
    use = {Payer("p", "a"): 30.0, Payer("q", "a"): 10.0}
    even = Situation(now_s=1.0, use=use, shares={"p": 3.0, "q": 1.0})
    score = FairShare().account_score
    assert score(Payer("p", "a"), even) == pytest.approx(score(Payer("q", "a"), even))
    for least in (0.0, 5e-324):
        assert score(Payer("p", "a"), replace(even, shares={"p": least})) == 0.0


@given(queued(most=8))
def test_shortest_goes_by_predicted_seconds_until_the_bound(jobs) -> None:
    policy = Shortest(longest_wait_s=1e9)
    queue = JobQueue(policy)
    for job in jobs:
        queue.put(job)
    order = list(queue.ordered(Situation(now_s=2e5)))
    assert order == sorted(jobs, key=lambda job: (job.seconds, job.arrival))


def test_the_default_lets_a_short_job_overtake_for_four_hours_at_most() -> None:
    policy, now = Weighted(), Situation(now_s=1e6)
    long = QueuedJob(job=JobId("long"), arrival=0, submitted_s=1e6 - 4 * 3600, seconds=1e9)
    short = QueuedJob(job=JobId("short"), arrival=1, seconds=0.0)
    at_once, later = (replace(short, submitted_s=1e6 - s) for s in (1.0, -1.0))
    assert urgency(policy, at_once, now) > urgency(policy, long, now)
    assert urgency(policy, later, now) < urgency(policy, long, now)


def test_use_loses_half_its_weight_every_seven_days() -> None:
    history, payer = QpuHistory(), Payer("p", "a")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    history.use_by(payer, 8.0, now)
    history.use_by(payer, 2.0, now + timedelta(days=7))
    assert history.situation(now + timedelta(days=7), {}).use == {payer: 6.0}
    assert history.situation(now + timedelta(days=14), {}).use == {payer: 3.0}
