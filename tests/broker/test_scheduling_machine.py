"""A QPU with windows, budgets, slices, leases and shared tasks, under random histories in time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.api import Usage
from backends.metering import FloorPerTask, Metering
from backends.payloads import SEED_STRIDE
from backends.payloads.sampler import piece_seed
from backends.shapes import ItemShape
from backends.timing import TimingModel
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.job_request import LeaseWish
from orchestrator.broker.core.packing import SHOT_BLOCK, TaskLimits
from orchestrator.broker.core.policies import POLICIES, make_policy
from orchestrator.broker.core.prediction import load_of
from orchestrator.broker.core.qpu_history import QpuHistory
from orchestrator.broker.core.records import job_view
from orchestrator.broker.core.rules import Calendar, QpuRules, Window
from orchestrator.broker.core.state import BrokerState, Effects, replay
from orchestrator.broker.core.views import JobState
from orchestrator.config.bounds import LeaseBounds, Rate
from orchestrator.identity import JobId, ProjectAccount

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMING = TimingModel(init_s=0.5, shot_s=1e-3)
METERING = Metering(formula=FloorPerTask(per_shot_s=1e-3, floor_s=0.9), unit="billed-s")
BUDGET = 60.0
WINDOWS = Calendar.of(
    Window(start=NOW + timedelta(seconds=s), end=NOW + timedelta(seconds=s + 40))
    for s in (100, 500)
)


class Scheduled(RuleBasedStateMachine):
    """Work comes, time passes, tasks take exactly as long as the device's model says."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        coalesces=st.booleans(),
        circuits=st.none() | st.integers(1, 5),
        most=st.integers(1, 2),
        slices=st.booleans(),
        rate=st.booleans(),
    )
    def open(
        self,
        policy: str,
        coalesces: bool,
        circuits: int | None,
        most: int,
        slices: bool,
        rate: bool,
    ) -> None:
        bound = {"longest_wait_s": 60.0} if policy not in ("fifo", "priority") else {}
        self.rules = QpuRules(
            limits=TaskLimits(
                max_concurrent_tasks=most, max_circuits=circuits, coalesces=coalesces
            ),
            policy=make_policy(policy, bound),
            calendar=WINDOWS,
            timing=TIMING,
            metering=METERING,
            slice_s=5.0 if slices else None,
            rate=Rate(starts=3, per_s=10.0) if rate else None,
            leases=LeaseBounds(longest_s=30.0, idle_s=2.0),
        )
        self.state = BrokerState()
        self.state.configure("q", self.rules)
        self.history: list[tuple[ev.Event, datetime]] = []
        self.now = NOW
        self.ends: dict[str, datetime] = {}
        self.leases: dict[str, ev.LeaseOpened] = {}
        self.planned_at: list[datetime] = []
        self.feed(
            ev.BudgetSet(account=str(ProjectAccount("a")), unit="billed-s", amount=BUDGET, by="o")
        )

    def feed(self, event: ev.Event) -> Effects:
        return self.note(self.state.handle(event, self.now))

    def note(self, outcome: Effects) -> Effects:
        self.history += [(event, self.now) for event in outcome.events]
        for event in outcome.events:
            if isinstance(event, ev.TaskPlanned):
                self.check_plan(event)
            elif isinstance(event, ev.LeaseOpened):
                self.leases[event.lease] = event
            elif isinstance(event, ev.LeaseClosed):
                assert event.at <= self.leases.pop(event.lease).until
        return outcome

    def check_plan(self, planned: ev.TaskPlanned) -> None:
        """Look at a task as it was planned: window, rate, lease and starvation bound."""
        jobs = {job: record.submitted for job, record in self.state.jobs.items()}
        load = load_of(planned.parts, jobs)
        device_s = TIMING.duration_s(circuits=load.circuits, shots=load.shots, num_qubits=2)
        ends = self.now + timedelta(seconds=device_s)
        assert WINDOWS.closure_at(self.now) is None
        closure = WINDOWS.next_closure(self.now)
        assert closure is None or ends <= closure.start
        self.ends[planned.tag] = ends
        self.planned_at.append(self.now)
        if self.rules.rate is not None and len(self.planned_at) > self.rules.rate.starts:
            before = self.planned_at[-self.rules.rate.starts - 1]
            assert (self.now - before).total_seconds() >= self.rules.rate.per_s
        if planned.lease is not None:
            assert self.now < self.leases[planned.lease].until

    @rule(
        pubs=st.lists(
            st.tuples(st.integers(1, 4), st.sampled_from([20, 300, 4000, 20_000])),
            min_size=1,
            max_size=2,
        ),
        project=st.sampled_from("abc"),
        seed=st.none() | st.integers(0, 9),
        priority=st.integers(-2, 2),
        lease=st.none() | st.sampled_from("lm"),
    )
    def submit(
        self,
        pubs: list[tuple[int, int]],
        project: str,
        seed: int | None,
        priority: int,
        lease: str | None,
    ) -> None:
        job = ev.JobSubmitted(
            job=JobId(f"j{len(self.state.jobs)}"),
            run="r",
            stage=None,
            call=0,
            qpu="q",
            backend="fake",
            payload_kind="sampler",
            digest="d",
            pubs=tuple(ItemShape(points=p, shots=s) for p, s in pubs),
            num_qubits=2,
            seed=seed,
            project=project,
            priority=priority,
            lease=None if lease is None else LeaseWish(id=lease, longest_s=99, idle_s=99),
        )
        outcome = self.feed(job)
        assert (outcome.refused is None) == (job.job in self.state.jobs)
        if project != "a":
            assert outcome.refused is None

    @rule(seconds=st.sampled_from([0.5, 3.0, 30.0, 90.0]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass as a shell does: stop at each end of a task and at each look."""
        until = self.now + timedelta(seconds=seconds)
        while True:
            look = self.state.next_look(self.now)
            stops = [*self.ends.values(), *([look] if look is not None else []), until]
            self.now = max(self.now, min(stops))
            due = [tag for tag, at in self.ends.items() if at <= self.now]
            if due:
                self.complete(due[0])
            elif look is not None and look <= self.now:
                self.note(self.state.tick(self.now))
                assert self.state.next_look(self.now) != look
            elif self.now >= until:
                return

    def complete(self, tag: str) -> None:
        del self.ends[tag]
        parts = self.state.tasks[tag].planned.parts
        jobs = {part.job: self.state.jobs[part.job].submitted for part in parts}
        load = load_of(parts, jobs)
        device_s = TIMING.duration_s(circuits=load.circuits, shots=load.shots, num_qubits=2)
        charge = METERING.charge(qpu_seconds=device_s, shots=load.shots, num_qubits=2)
        usage = Usage(qpu_seconds=device_s, shots=load.shots, tasks=1, charges=(charge,))
        self.feed(ev.TaskCompleted(tag=tag, usage=usage))

    @precondition(lambda self: self.ends)
    @rule(data=st.data(), lost=st.booleans())
    def fail(self, data: st.DataObject, lost: bool) -> None:
        tag = data.draw(st.sampled_from(sorted(self.ends)))
        del self.ends[tag]
        failed = ev.TaskErred(tag=tag, error="broke", error_type="TaskFailed")
        self.feed(ev.TaskStopped(tag=tag) if lost else failed)

    @precondition(lambda self: self.state.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.feed(ev.JobCancelRequested(job=data.draw(st.sampled_from(sorted(self.state.jobs)))))

    @rule(lease=st.sampled_from("lm"))
    def release(self, lease: str) -> None:
        self.feed(ev.LeaseClosed(lease=lease, qpu="q", reason="released", at=self.now))

    @rule()
    def restart(self) -> None:
        before = self.state
        self.state = replay(self.history)
        self.state.configure("q", self.rules)
        assert self.state.books == before.books
        empty = QpuHistory()
        assert self.state.histories.get("q", empty) == before.histories.get("q", empty)

    @invariant()
    def nobody_starves(self) -> None:
        """After what may start has started, whoever is overdue is kept by something but others."""
        bound_s = self.rules.policy.longest_wait_s
        if bound_s is None or not self.planned_at or self.planned_at[-1] != self.now:
            return
        (last, _) = next(
            (event, at) for event, at in reversed(self.history) if isinstance(event, ev.TaskPlanned)
        )
        lead = self.state.jobs[last.parts[0].job]
        waited_s = (self.now - lead.submitted_at).total_seconds()
        if last.lease is not None or self.state.context("q", self.now).lease is not None:
            return
        free_s = WINDOWS.free_s(self.now)
        for queued in [self.state.queues["q"][job] for job in self.state.queued("q")]:
            if self.now.timestamp() - queued.submitted_s > bound_s and queued.least_s <= free_s:
                # It may be overtaken by another that is overdue, too, and came earlier.
                assert waited_s > bound_s
                assert lead.arrival <= queued.arrival

    @invariant()
    def a_lease_never_outlives_its_bound(self) -> None:
        lease = self.state.context("q", self.now).lease
        if lease is not None:
            assert self.now <= lease.opened.until
            assert lease.opened.until <= lease.opened_at + timedelta(seconds=30)

    @invariant()
    def billed_is_the_usage_of_completed_tasks(self) -> None:
        done = [task for task in self.state.tasks.values() if task.state == "completed"]
        billed = sum(charge.amount for task in done for charge in task.usage.charges)
        accounts = [self.state.books.accounts.get(str(ProjectAccount(p)), {}) for p in "abc"]
        spent = sum(account["billed-s"].spent for account in accounts if account)
        assert abs(spent - billed) < 1e-6
        views = [job_view(record, self.state.tasks) for record in self.state.jobs.values()]
        shares = sum(c.amount for view in views for c in view.usage.charges)
        assert abs(shares - billed) < 1e-6

    @invariant()
    def budgets_hold(self) -> None:
        for account in self.state.books.accounts.values():
            assert account["billed-s"].reserved > -1e-6
        of_a = self.state.books.accounts[str(ProjectAccount("a"))]["billed-s"]
        # A task that failed is tried again, so a job may cost more slices than it had planned for.
        failed = any(task.state in ("failed", "cancelled") for task in self.state.tasks.values())
        assert failed or of_a.spent + of_a.reserved <= BUDGET + 1e-6
        over = all(record.state.is_final for record in self.state.jobs.values())
        if over and self.state.jobs:
            assert all(
                abs(a["billed-s"].reserved) < 1e-6 for a in self.state.books.accounts.values()
            )

    @invariant()
    def merged_counts_are_those_of_one_run(self) -> None:
        for record in self.state.jobs.values():
            job = record.submitted
            if record.state is not JobState.COMPLETED or job.seed is None:
                continue
            parts = [
                part
                for tag in dict.fromkeys(record.tasks)
                if self.state.tasks[tag].state == "completed"
                for part in self.state.tasks[tag].planned.parts
                if part.job == job.job
            ]
            unsliced = whole(job)
            assert counts(job.seed, parts) == counts(job.seed, unsliced)

    @invariant()
    def nothing_that_may_start_waits(self) -> None:
        looks = self.state.next_look(self.now)
        assert looks is None or looks > self.now
        assert not self.state.tick(self.now).events


def whole(job: ev.JobSubmitted) -> list[ev.Part]:
    """Return a job's blocks as one task would run them."""
    return [
        ev.Part(
            job=job.job,
            pub=index,
            first_point=0,
            end_point=shape.points,
            first_shot=first,
            end_shot=min(first + SHOT_BLOCK, shape.shots),
        )
        for index, shape in enumerate(job.pubs)
        for first in range(0, shape.shots, SHOT_BLOCK)
    ]


def counts(seed: int, parts: list[ev.Part]) -> Counter[tuple[int, int, int]]:
    """Toss coins as a simulator does: point by point, each with the seed that follows."""
    merged: Counter[tuple[int, int, int]] = Counter()
    for part in (block for whole_part in parts for block in whole_part.by_block()):
        start = piece_seed(seed + part.pub, part)
        assert start is not None
        for place in range(part.points):
            coins = np.random.default_rng(start + SEED_STRIDE * place).integers(0, 2, part.shots)
            ones = int(coins.sum())
            merged[part.pub, part.first_point + place, 1] += ones
            merged[part.pub, part.first_point + place, 0] += part.shots - ones
    return merged


TestScheduled = Scheduled.TestCase
TestScheduled.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_tossing_coins_tells_slices_of_another_lattice_apart() -> None:
    (block, *rest) = whole(
        ev.JobSubmitted(
            job=JobId("j"),
            run="r",
            stage=None,
            call=0,
            qpu="q",
            backend="fake",
            payload_kind="sampler",
            digest="d",
            pubs=(ItemShape(points=1, shots=20_000),),
            num_qubits=2,
            seed=1,
        )
    )
    halves = [replace(block, end_shot=4000), replace(block, first_shot=4000)]
    assert counts(1, [*halves, *rest]) != counts(1, [block, *rest])
