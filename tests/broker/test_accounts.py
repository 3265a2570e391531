"""Budgets in the state machine: set aside at admission, settled at the end, never overdrawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.api import Usage
from backends.metering import FloorPerTask, Metering
from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.budgets import (
    Books,
    BudgetExhausted,
    BudgetStatus,
)
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Fifo
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.snapshot import forgettable, freeze, thaw
from orchestrator.broker.core.state import BrokerState, replay
from orchestrator.identity import JobId, ProjectAccount, RunAccount, account_from_text

NOW = datetime(2026, 11, 24, tzinfo=UTC)
VLQ = Metering(formula=FloorPerTask(per_shot_s=0.01, floor_s=0.9), unit="billed-s")
CHEM = str(ProjectAccount("chem"))


class Till:
    """A broker with one QPU billed as VLQ is, and everything it recorded."""

    def __init__(self, **limits: Any) -> None:
        self.rules = QpuRules(
            limits=TaskLimits(max_concurrent_tasks=1, **limits), policy=Fifo(), metering=VLQ
        )
        self.state = BrokerState()
        self.state.configure("q", self.rules)
        self.history: list[tuple[ev.Event, datetime]] = []

    def do(self, event: ev.Event) -> BudgetExhausted | None:
        now = NOW + timedelta(seconds=len(self.history))
        outcome = self.state.handle(event, now)
        self.history += [(recorded, now) for recorded in outcome.events]
        return outcome.refused

    def limit(self, amount: float | None, account: str = CHEM) -> None:
        event = ev.BudgetSet(account=account, unit="billed-s", amount=amount, by="olga")
        assert self.do(event) is None

    def submit(self, name: str, shots: int = 10, **changes: Any) -> BudgetExhausted | None:
        values: dict[str, Any] = {
            "run": "r",
            "stage": None,
            "call": 0,
            "qpu": "q",
            "backend": "fake",
            "payload_kind": "sampler",
            "digest": name,
            "pubs": (ItemShape(points=1, shots=shots),),
            "num_qubits": 1,
            "seed": None,
            "project": "chem",
            "user": "ada",
        }
        return self.do(ev.JobSubmitted(job=JobId(name), **values | changes))

    def end(self, tag: str, shots: int = 10) -> None:
        charge = VLQ.charge(qpu_seconds=1.0, shots=shots, num_qubits=1)
        usage = Usage(qpu_seconds=1.0, shots=shots, tasks=1, charges=(charge,))
        self.do(ev.TaskCompleted(tag=tag, usage=usage))

    def stands(self, account: str = CHEM) -> BudgetStatus:
        (status,) = self.state.books.status(account)
        return status


def test_a_refusal_tells_what_was_asked_and_what_is_left() -> None:
    till = Till()
    till.limit(2.0)
    assert till.submit("j1") is None
    assert till.submit("j2") is None
    refused = till.submit("j3")
    assert str(refused) == (
        "the budget of project 'chem' does not cover this job on QPU 'q': it needs about 0.9 "
        "billed-s, and 0.2 of 2 billed-s are left (0 spent, 1.8 set aside for open jobs). Nothing "
        "was started for it; ask an operator to raise it, or ask for less"
    )
    assert "j3" not in till.state.jobs
    till.end("j1.0")
    till.limit(0.5, str(RunAccount("r", "ada")))
    assert str(till.submit("j4")) == (
        "the budget of project 'chem' does not cover this job on QPU 'q': it needs about 0.9 "
        "billed-s, and 0.2 of 2 billed-s are left (0.9 spent, 0.9 set aside for open jobs). "
        "Nothing was started for it; ask an operator to raise it, or ask for less"
    )
    till.limit(None)
    told = str(till.submit("j4"))
    assert told.startswith("the budget of run 'r' does not cover this job on QPU 'q'")
    assert "its 0.5 billed-s are overdrawn by 1.3 billed-s (0.9 spent, 0.9 set aside" in told
    assert "continue it with its run id and a higher --budget" in told


def test_a_reservation_goes_with_the_end_of_the_job() -> None:
    till = Till()
    till.limit(10.0)
    for name, shots in (("j1", 10), ("j2", 200), ("j3", 10)):
        assert till.submit(name, shots) is None
    assert till.stands().reserved == pytest.approx(0.9 + 2.0 + 0.9)
    till.end("j1.0")
    assert (till.stands().spent, till.stands().reserved) == pytest.approx((0.9, 2.9))
    till.do(ev.TaskErred(tag="j2.0", error="broke", error_type="TaskFailed"))
    assert (till.stands().spent, till.stands().reserved) == pytest.approx((0.9, 0.9))
    till.do(ev.JobCancelRequested(job=JobId("j3")))
    till.do(ev.TaskStopped(tag="j3.0"))
    assert till.stands() == BudgetStatus(
        unit="billed-s", amount=10.0, spent=0.9, reserved=0.0, left=pytest.approx(9.1)
    )


def test_a_failed_job_comes_back_only_if_it_can_be_paid() -> None:
    till = Till()
    till.limit(1.0)
    assert till.submit("j1") is None
    till.do(ev.TaskErred(tag="j1.0", error="broke", error_type="TaskFailed"))
    assert till.submit("j2") is None
    assert till.do(ev.JobResumed(job=JobId("j1"))) is not None
    assert till.state.jobs[JobId("j1")].state.is_final
    till.limit(2.0)
    assert till.do(ev.JobResumed(job=JobId("j1"))) is None
    till.end("j2.0")
    till.end("j1.1")
    assert till.stands().spent == pytest.approx(1.8)


def test_a_sliced_job_that_cost_more_than_foreseen_comes_back_for_money_alone() -> None:
    till = Till(max_shots=10)
    till.limit(1.8)
    assert till.submit("j1", shots=20) is None
    till.end("j1.0", shots=200)  # 2.0, more than the whole was thought to take
    till.do(ev.TaskErred(tag="j1.1", error="broke", error_type="TaskFailed"))
    assert till.do(ev.JobResumed(job=JobId("j1"))) is not None
    till.limit(3.0)
    assert till.do(ev.JobResumed(job=JobId("j1"))) is None


def test_a_job_whose_client_is_gone_has_nothing_set_aside_until_it_comes_back() -> None:
    till = Till()
    till.limit(0.9)
    assert till.submit("j1") is None
    till.do(ev.TaskStopped(tag="j1.0"))
    till.do(ev.BrokerOpened(resume=False))
    assert till.state.jobs[JobId("j1")].held
    assert till.submit("j2") is None
    assert till.do(ev.JobResumed(job=JobId("j1"))) is not None
    till.do(ev.JobCancelRequested(job=JobId("j2")))
    assert till.do(ev.JobResumed(job=JobId("j1"))) is None


def test_what_was_finished_meanwhile_is_given_whatever_is_left() -> None:
    till = Till()
    till.limit(0.9)
    assert till.submit("j1") is None
    till.do(ev.BrokerOpened(resume=False))
    till.end("j1.0")
    till.limit(0.5)
    assert till.do(ev.JobResumed(job=JobId("j1"))) is None
    assert till.submit("j2") is not None


def test_a_run_is_limited_for_its_own_user_alone() -> None:
    till = Till()
    till.limit(0.0, str(RunAccount("r", "eve")))
    assert till.submit("j1") is None
    till.limit(0.0, str(RunAccount("r", "ada")))
    assert till.submit("j2") is not None
    assert till.submit("j3", run="other") is None
    # Who chooses a run id as another's account is written still limits only themselves.
    assert till.submit("j4", user="eve", run="ada/r") is None
    assert [account_from_text(str(RunAccount(*run))) for run in _RUNS] == [
        RunAccount(*run) for run in _RUNS
    ]
    assert len({str(RunAccount(run, user)) for run, user in _RUNS}) == len(_RUNS)


_RUNS = [("r", ""), ("r", "eve"), ("ada/r", "eve"), ("r", "eve@site"), ("eve/r", "ada")]


def test_what_a_run_spent_before_it_had_a_budget_counts() -> None:
    till = Till()
    assert till.submit("j1") is None
    till.end("j1.0")
    assert till.submit("j2") is None
    till.limit(2.5, str(RunAccount("r", "ada")))
    stands = till.stands(str(RunAccount("r", "ada")))
    assert (stands.spent, stands.reserved) == (0.9, 0.9)
    assert till.submit("j3") is not None


def test_books_are_the_same_after_a_restart_and_after_forgetting() -> None:
    till = Till()
    till.limit(5.0)
    till.limit(3.0, str(RunAccount("r", "ada")))
    for name in ("j1", "j2"):
        till.submit(name)
    till.end("j1.0")
    before = till.state.books
    assert replay(till.history).books == before
    gone = forgettable(till.state, most=10)
    assert gone == ["j1"]
    thawed = thaw(freeze(till.state, gone))
    assert thawed.books == before
    assert thawed.jobs.keys() == {"j2"}


def test_a_snapshot_from_before_there_were_books_counts_what_was_charged() -> None:
    till = Till()
    for name in ("j1", "j2", "j3"):
        till.submit(name)
    till.end("j1.0")
    till.end("j2.0")
    frozen = json.loads(freeze(till.state, [JobId("j1")]))
    del frozen["books"]
    assert thaw(json.dumps(frozen)).books.status(CHEM)[0].spent == pytest.approx(1.8)


_STEPS = st.lists(
    st.tuples(st.sampled_from(["submit", "end", "fail", "cancel", "resume"]), st.integers(1, 300)),
    max_size=40,
)


@given(amount=st.floats(0, 20), steps=_STEPS)
def test_no_history_overdraws_a_budget(amount: float, steps: Sequence[tuple[str, int]]) -> None:
    """With exact predictions, spent and reserved amounts stay within the budget."""
    till = Till()
    till.limit(amount)
    shots: dict[str, int] = {}
    for step, number in steps:
        _step(till, shots, step, number)
        stands = till.stands()
        assert stands.spent + stands.reserved <= amount + 1e-6
        over = all(job.state.is_final for job in till.state.jobs.values())
        assert not over or stands.reserved == pytest.approx(0.0, abs=1e-9)
    done = [t for t in till.state.tasks.values() if t.state == "completed"]
    assert till.stands().spent == pytest.approx(sum(t.usage.charges[0].amount for t in done))
    assert replay(till.history).books == till.state.books


def _step(till: Till, shots: dict[str, int], step: str, number: int) -> None:
    running = sorted(till.state.open_tasks("q"))
    if step == "submit":
        name = f"j{len(shots)}"
        shots[name] = number
        till.submit(name, number)
    elif step == "end" and running:
        till.end(running[0], shots[running[0].partition(".")[0]])
    elif step == "fail" and running:
        till.do(ev.TaskErred(tag=running[0], error="broke", error_type="TaskFailed"))
    elif till.state.jobs:
        job = sorted(till.state.jobs)[number % len(till.state.jobs)]
        if step == "cancel":
            till.do(ev.JobCancelRequested(job=job))
        elif step == "resume" and till.state.jobs[job].state.value in ("failed", "cancelled"):
            till.do(ev.JobResumed(job=job))


def test_accounts_that_never_had_anything_are_not_listed() -> None:
    books = Books()
    books.set(ev.BudgetSet(account=CHEM, unit="qpu-s", amount=1.0, by="o"), (), {})
    assert [status.left for status in books.status(CHEM)] == [1.0]
    books.set(ev.BudgetSet(account=CHEM, unit="qpu-s", amount=None, by="o"), (), {})
    assert books.status(CHEM) == []
