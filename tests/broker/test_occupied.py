"""Time that a task occupied a QPU without a result: it counts, and is billed where the site says so."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from backends.api import QpuTaskId, TaskState, Usage
from backends.fake.script import script_target
from backends.metering import Metering
from backends.profiles import load_profile
from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.state import BrokerState, replay
from orchestrator.broker.runtime import qpu_driver as execution
from orchestrator.broker.runtime.site_rules import qpu_rules
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import JobId, Payer, ProjectAccount

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVE = Payer("chem", "eve")


def rules(metering: Metering, **changes: object) -> QpuRules:
    made = qpu_rules(QpuSettings(name="q", backend="fake"), script_target(metering=metering), NOW)
    return replace(made, **changes)  # type: ignore[arg-type]


def job(name: str = "j", shots: int = 100) -> ev.JobSubmitted:
    return ev.JobSubmitted(
        job=JobId(name),
        run="r",
        stage=None,
        call=0,
        qpu="q",
        backend="fake",
        payload_kind="sampler",
        digest="d",
        pubs=(ItemShape(points=1, shots=shots, num_qubits=2),),
        num_qubits=2,
        seed=None,
        project="chem",
        user="eve",
    )


class Site:
    """A state machine that records its events and decisions."""

    def __init__(self, served: QpuRules) -> None:
        self.state, self.recorded = BrokerState(), list[tuple[ev.Event, datetime]]()
        self.state.configure("q", served)

    def tell(self, event: ev.Event, after_s: float = 0.0) -> None:
        at = NOW + timedelta(seconds=after_s)
        outcome = self.state.handle(event, at)
        assert outcome.refused is None
        self.recorded += [(one, at) for one in outcome.events]

    def used_s(self) -> float:
        use = self.state.histories["q"].use
        return sum(one.seconds for key, one in use.items() if key == "\x1f".join(EVE))

    def spent(self) -> float:
        budgets = self.state.books.status(str(ProjectAccount("chem")))
        return sum(budget.spent for budget in budgets)


def test_a_task_that_waits_at_the_qpu_occupies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s, ended = 0.0, list[ev.Event]()
    monkeypatch.setattr(execution, "time", SimpleNamespace(monotonic=lambda: clock_s))
    states = [TaskState.QUEUED] * 5 + [TaskState.RUNNING, TaskState.CANCELLED]

    class Queueing:
        def status(self, _task: QpuTaskId) -> TaskState:
            nonlocal clock_s
            clock_s += 100.0
            return states.pop(0)

    async def report(event: ev.Event, _received: object) -> None:
        ended.append(event)

    async def follow() -> None:
        with ThreadPoolExecutor(1) as threads:
            driven = execution.QpuDriver(
                qpu="q",
                backend=Queueing(),  # type: ignore[arg-type]
                can_find=True,
                report=report,
                receive=lambda _tag, _result: pytest.fail("there is no result"),
                calls=threads,
                waits=threads,
            )
            await driven.follow("j.0", QpuTaskId("t"))

    asyncio.run(follow())
    (cancelled,) = ended
    assert isinstance(cancelled, ev.TaskStopped)
    assert cancelled.usage.qpu_seconds == 200.0


END = {
    "failed": lambda s: ev.TaskErred(
        tag="j.0", error="x", error_type="TaskFailed", usage=Usage(qpu_seconds=s)
    ),
    "cancelled": lambda s: ev.TaskStopped(tag="j.0", usage=Usage(qpu_seconds=s)),
}


def ended(site: Site, end: str, seconds: float = 7.0) -> None:
    site.tell(job())
    site.tell(ev.TaskStarted(tag="j.0", qpu_task="t"))
    if end == "cancelled":
        site.tell(ev.JobCancelRequested(job=JobId("j")), 6.0)
    site.tell(END[end](seconds), seconds)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
@pytest.mark.parametrize("billed", [False, True])
def test_occupied_time_counts_in_fair_share_and_is_billed_by_the_sites_rule(
    end: str, billed: bool
) -> None:
    site = Site(rules(Metering(unit="s", **{f"bills_{end}": billed})))
    ended(site, end)
    assert site.used_s() == 7.0
    assert site.spent() == (7.0 if billed else 0.0)
    task = site.state.tasks["j.0"]
    assert task.usage.qpu_seconds == 7.0
    assert task.usage.shots == 0
    again = replay(site.recorded)
    assert again.histories == site.state.histories
    assert again.books.accounts == site.state.books.accounts


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_task_that_completes_after_all_is_counted_once(end: str) -> None:
    site = Site(rules(Metering(unit="s", bills_failed=True, bills_cancelled=True)))
    ended(site, end)
    whole = Usage(
        qpu_seconds=9.0,
        shots=100,
        tasks=1,
        charges=(Metering(unit="s").charge(qpu_seconds=9.0, shots=100, num_qubits=2),),
    )
    site.tell(ev.TaskCompleted(tag="j.0", usage=whole), 9.0)
    site.tell(ev.TaskCompleted(tag="j.0", usage=whole), 10.0)
    assert site.used_s() == pytest.approx(9.0, abs=1e-3)
    assert site.spent() == pytest.approx(9.0)


def test_ledgers_of_before_have_no_occupied_time() -> None:
    site = Site(rules(Metering(unit="s", bills_failed=True)))
    ended(site, "failed", 0.0)
    assert site.used_s() == site.spent() == 0.0
    read = ev.event_from_json(
        "task-failed", '{"tag": "t", "error": "x", "error_type": "TaskFailed"}'
    )
    assert read == ev.TaskErred(tag="t", error="x", error_type="TaskFailed")


def test_a_scaled_clock_counts_qpu_seconds() -> None:
    timing = load_profile("vlq").timing
    for scale, seconds in ((1.0, 7.0), (0.5, 14.0), (0.01, None), (0.0, None)):
        site = Site(rules(Metering(unit="s"), timing=timing, clock_scale=scale))
        site.tell(job(shots=50_000))
        site.tell(ev.TaskStarted(tag="j.0", qpu_task="t"))
        predicted = site.state.tasks["j.0"].planned.predicted_s
        assert predicted is not None
        site.tell(END["failed"](7.0), 7.0)
        assert site.used_s() == pytest.approx(min(seconds or predicted, predicted)) or scale == 1.0


def test_who_cancels_what_runs_goes_last_in_fair_share() -> None:
    """Otherwise a user who repeatedly submits and cancels would always go first."""
    site = Site(rules(Metering(unit="s")))
    before = site.state.histories.get("q")
    assert before is None or not before.use
    ended(site, "cancelled", 3600.0)
    situation = site.state.histories["q"].situation(NOW + timedelta(hours=1), {})
    assert situation.use[EVE] == pytest.approx(3600.0)


def test_profiles_state_what_they_bill_without_a_result() -> None:
    rule = {
        name: (
            load_profile(name).metering.bills_failed,
            load_profile(name).metering.bills_cancelled,
        )
        for name in ("helmi", "piast-q", "vlq")
    }
    assert rule == {"helmi": (False, True), "piast-q": (True, True), "vlq": (False, False)}
