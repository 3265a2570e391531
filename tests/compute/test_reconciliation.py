"""What the reconciler decides, from what is wanted, what Slurm says and what Dask has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.compute.reconciliation import (
    Cancel,
    Fleet,
    GiveUp,
    Hold,
    Observation,
    Release,
    Retire,
    Submit,
    Want,
    WorkerJob,
    reconcile,
    waiting_notice,
    waits_for_nodes,
)
from orchestrator.slurm.states import SlurmJob, SlurmState

POOL = "shared"


def job(number: int, **known) -> WorkerJob:
    return WorkerJob(**{"id": number, "number": number, "pool": POOL, "at_s": number, **known})


def listed(*states: SlurmState | str, reason: str = "") -> dict[int, SlurmJob]:
    return {
        number: SlurmJob(id=number, name="n", user="u", state=SlurmState(state), reason=reason)
        for number, state in enumerate(states)
    }


def seen(slurm=None, workers=(), busy=(), now_s=1000.0) -> Observation:
    return Observation(
        now_s=now_s, slurm=slurm, workers=dict.fromkeys(workers, 1), busy=frozenset(busy)
    )


def fleet(*jobs: WorkerJob, **counts) -> Fleet:
    return Fleet(jobs=jobs, **counts)


def decided(before: Fleet, jobs: int, at: Observation, held: bool = False):
    return reconcile(before, {POOL: Want(jobs=jobs, held=held)}, at)[1]


def test_missing_jobs_are_submitted() -> None:
    assert decided(fleet(), 2, seen({})) == [Submit(pool=POOL)] * 2
    assert decided(fleet(job(0)), 2, seen(listed("PENDING"))) == [Submit(pool=POOL)]


def test_nothing_is_submitted_while_slurm_does_not_answer() -> None:
    after, actions = reconcile(fleet(job(0)), {POOL: Want(jobs=3)}, seen(None))
    assert (after, actions) == (fleet(job(0)), [])


@pytest.mark.parametrize("state", ["CANCELLED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "FAILED"])
def test_a_job_that_ended_unasked_is_replaced(state) -> None:
    before = fleet(job(0, joined_s=1.0), job(1, joined_s=1.0))
    after, actions = reconcile(
        before, {POOL: Want(jobs=2)}, seen(listed(state, "RUNNING"), workers=[1])
    )
    assert actions == [Submit(pool=POOL)]
    assert [one.id for one in after.jobs] == [1]


def test_a_state_that_is_not_known_is_no_end() -> None:
    assert decided(fleet(job(0)), 1, seen(listed("UNKNOWN"))) == []


def test_a_job_is_gone_once_slurm_does_not_list_it_twice() -> None:
    after, actions = reconcile(fleet(job(0)), {POOL: Want(jobs=1)}, seen({}))
    assert actions == []
    after, actions = reconcile(after, {POOL: Want(jobs=1)}, seen({}))
    assert actions == [Submit(pool=POOL)]


def test_a_job_whose_workers_dask_has_is_not_gone() -> None:
    before = fleet(job(0, joined_s=1.0, missing=7))
    assert decided(before, 1, seen({}, workers=[0])) == []


def test_a_smaller_number_cancels_those_that_wait_then_those_that_are_idle() -> None:
    before = fleet(*(job(number, joined_s=1.0) for number in (0, 1)), job(2), job(3))
    at = seen(listed("RUNNING", "RUNNING", "RUNNING", "PENDING"), workers=[0, 1], busy=[1])
    assert decided(before, 3, at) == [Cancel(job=3)]
    assert decided(before, 2, at) == [Cancel(job=2), Cancel(job=3)]
    assert decided(before, 1, at) == [Retire(job=0), Cancel(job=2), Cancel(job=3)]


def test_a_retired_job_ends_once_its_workers_are_idle() -> None:
    before = fleet(job(0, joined_s=1.0, leaving_s=990.0))
    running = listed("RUNNING")
    assert decided(before, 0, seen(running, workers=[0], busy=[0])) == []
    assert decided(before, 0, seen(running, workers=[0], now_s=990.5)) == []
    assert decided(before, 0, seen(running, workers=[0])) == [Cancel(job=0)]
    assert decided(before, 0, seen(running)) == [Cancel(job=0)]


def test_the_jobs_of_an_unwanted_pool_are_cancelled_although_they_work() -> None:
    before = fleet(job(0, pool="stage-1", joined_s=1.0), job(1))
    at = seen(listed("RUNNING", "PENDING"), workers=[0], busy=[0])
    assert decided(before, 1, at) == [Cancel(job=0)]


def test_waiting_jobs_are_held_and_released() -> None:
    waiting = listed("PENDING", "RUNNING")
    held = fleet(job(0, held=True), job(1))
    after, actions = reconcile(held, {POOL: Want(jobs=2)}, seen(waiting, workers=[1]))
    assert actions == [Release(job=0)]
    assert not after.jobs[0].held
    assert decided(after, 2, seen(waiting, workers=[1]), held=True) == [Hold(job=0)]
    assert decided(fleet(), 1, seen({}), held=True) == [Submit(pool=POOL, held=True)]


def test_a_hold_by_somebody_else_stays() -> None:
    assert decided(fleet(job(0)), 1, seen(listed("PENDING", reason="JobHeldAdmin"))) == []


def test_jobs_that_never_join_are_given_up() -> None:
    now, found = fleet(), []
    for number in range(4):
        now, found = reconcile(now, {POOL: Want(jobs=1)}, seen(listed(*["FAILED"] * number)))
        if isinstance(found[0], GiveUp):
            break
        assert found == [Submit(pool=POOL)]
        now = replace(now, jobs=(*now.jobs, job(number)))
    assert number == 3
    assert (found[0].pool, found[0].job.id, found[0].reason) == (POOL, 2, "FAILED")


def test_a_job_that_joins_ends_the_count_of_failures() -> None:
    before = fleet(job(0), job(1), failures={POOL: 2})
    after, _ = reconcile(before, {POOL: Want(jobs=2)}, seen(listed("RUNNING"), workers=[0]))
    assert after.failures == {}


def test_preemption_is_no_fault_of_the_job() -> None:
    before = fleet(job(0), failures={POOL: 2})
    assert decided(before, 1, seen(listed("PREEMPTED"))) == [Submit(pool=POOL)]


def test_jobs_that_die_soon_after_they_joined_are_given_up_in_the_end() -> None:
    before = fleet(job(0, joined_s=999.0), losses={POOL: 19})
    (first, *_) = decided(before, 1, seen(listed("FAILED")))
    assert isinstance(first, GiveUp)
    assert decided(fleet(job(0, joined_s=1.0), losses={POOL: 19}), 1, seen(listed("FAILED"))) == [
        Submit(pool=POOL)
    ]


def test_a_job_that_can_never_start_is_given_up_with_slurms_words() -> None:
    (given, cancel) = decided(
        fleet(job(0)), 1, seen(listed("PENDING", reason="PartitionTimeLimit"))
    )
    assert isinstance(given, GiveUp)
    assert "PartitionTimeLimit" in given.reason
    assert cancel == Cancel(job=0)
    assert decided(fleet(job(0)), 1, seen(listed("PENDING", reason="Priority"))) == []


def test_a_notice_says_what_jobs_wait_for() -> None:
    notice = waiting_notice(fleet(job(0)), seen(listed("PENDING", reason="Priority")))
    assert notice == "waiting for Slurm: 1 worker job pending (Priority)"
    assert not waiting_notice(fleet(job(0)), seen(listed("RUNNING")))


states = st.sampled_from([*SlurmState])


@given(
    found=st.lists(st.tuples(states, st.booleans(), st.booleans(), st.booleans()), max_size=8),
    jobs=st.integers(0, 8),
    held=st.booleans(),
)
def test_a_second_look_at_the_same_finds_nothing_to_submit(found, jobs, held) -> None:
    """Once its submissions are there, an unchanged cluster needs no more; no job is named twice."""
    before = fleet(
        *(
            job(number, joined_s=1.0 if joined else None, leaving_s=5.0 if leaves else None)
            for number, (_, _, joined, leaves) in enumerate(found)
        )
    )
    at = seen(
        listed(*(state for state, *_ in found)),
        workers=[number for number, one in enumerate(found) if one[1]],
    )
    want = {POOL: Want(jobs=jobs, held=held)}
    after, actions = reconcile(before, want, at)
    gone = [action.job for action in actions if isinstance(action, Cancel | Retire)]
    assert len(gone) == len(set(gone))
    assert not {one.id for one in after.jobs} & {
        action.job for action in actions if isinstance(action, Cancel)
    }
    if any(isinstance(action, GiveUp) for action in actions):
        return
    new = [job(100 + n, held=held) for n, a in enumerate(actions) if isinstance(a, Submit)]
    active = [one for one in (*after.jobs, *new) if one.leaving_s is None]
    assert len(active) == jobs
    settled = replace(after, jobs=(*after.jobs, *new))
    pending = {
        one.id: SlurmJob(id=one.id, name="n", user="u", state=SlurmState.PENDING) for one in new
    }
    again = replace(at, slurm={**at.slurm, **pending})
    assert not [a for a in reconcile(settled, want, again)[1] if isinstance(a, Submit)]


@pytest.mark.parametrize(
    ("state", "reason", "waits"),
    [
        ("PENDING", "Resources", True),
        ("PENDING", "Priority", True),
        ("PENDING", "QOSMaxNodePerUserLimit", True),
        ("PENDING", "QOSMaxNodePerJobLimit", False),
        ("PENDING", "AssocGrpCPUMinutesLimit", False),
        ("PENDING", "BeginTime", False),
        ("PENDING", "None", False),
        ("RUNNING", "None", False),
    ],
)
def test_only_some_reasons_are_that_other_jobs_have_the_nodes(state, reason, waits) -> None:
    at, now = fleet(job(0, pool="stage-1")), seen(listed(state, reason=reason))
    assert waits_for_nodes(at, now, {"stage-1"}) is waits
    assert not waits_for_nodes(at, now, {"stage-2"})
    assert not waits_for_nodes(at, seen(listed(state, reason=reason), now_s=1.0), {"stage-1"})
