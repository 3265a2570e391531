"""Predictions of runs that share workers, against a simulation that goes tick by tick.

It is written from docs/explanation/couplings.md, and has no part of the prediction. A tick is a
second, or a part of one where a stage that other nodes join may end between two seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.couplings.models import FlowModel, QpuModel
from orchestrator.couplings.prediction import predict
from tests.couplings.chains import LATENCIES, SECONDS, Latencies, Step, chain


@dataclass(eq=False)
class Worker:
    """A worker job of one node, or the job of a stage that needs more. Times are in ticks.

    is_short: whether nodes were missing when it could have started.
    """

    number: int
    asked: int
    held: bool = False
    least: int = 1
    most: int = 1
    own: bool = False
    is_short: bool = False
    nodes: int = 0
    started: int | None = None
    ready: int | None = None


@dataclass(eq=False)
class Run:
    """A chain in progress. left: part of its stage's work; at_qpu: when its task gets there."""

    of: list[Step]
    at: int = -1
    left: Fraction = Fraction(0)
    width: int = 0
    since: int = 0
    at_qpu: int | None = None
    on_qpu_until: int | None = None
    needs_nodes: bool = False
    is_open: bool = False
    gives_way: bool = False
    is_over: bool = False
    workers: list[Worker] = field(default_factory=list)

    @property
    def step(self) -> Step:
        return self.of[self.at]

    @property
    def shared(self) -> list[Worker]:
        return [one for one in self.workers if not one.own]


@dataclass(eq=False)
class Task:
    """Work on the QPU. since: when its stage began, which goes first of two that arrive at once."""

    run: Run | None
    arrived: int
    ticks: int
    since: int = 0


class Count:
    """All runs, looked at in each tick."""

    def __init__(
        self,
        chains: Sequence[list[Step]],
        coupling: str,
        nodes: int,
        late: Latencies,
        *,
        bounds: tuple[int, int],
        ahead_s: int = 0,
        by_job: bool = False,
        ticks: int = 1,
    ) -> None:
        self.runs = [Run(of) for of in chains]
        self.coupling, self.nodes, self.late = coupling, nodes, late
        self.least, self.most = bounds
        self.by_job, self.ticks = by_job, ticks
        self.now, self.node_ticks = 0, 0
        self.leaving: list[tuple[int, int]] = []
        self.numbers = itertools.count()
        self.queue = [Task(None, 0, ahead_s * ticks)] if ahead_s else []
        self.on_qpu: Task | None = None
        self.qpu_until = 0

    def result(self) -> tuple[float, float]:
        """Return makespan and node-seconds."""
        for self.now in range(10**6):
            self.look()
            if all(run.is_over for run in self.runs):
                return self.now / self.ticks, self.node_ticks / self.ticks
            for run in self.runs:
                if run.width:
                    run.left -= Fraction(1, self.ticks * run.step.times[run.width])
        raise AssertionError("the runs never end")

    def look(self) -> None:
        for run in self.runs:
            self.go_on(run)
        if self.on_qpu is not None and self.qpu_until <= self.now:
            self.on_qpu = None
        is_new = True
        while is_new:
            for run in self.runs:
                if not run.is_over:
                    self.ask(run)
            is_new = self.start()
        for run in self.runs:
            self.widen(run)
        self.use_qpu()
        assert all(run.left >= 0 for run in self.runs)  # else no tick is its end

    def go_on(self, run: Run) -> None:
        """Let a stage end, and the next one begin."""
        if run.is_over:
            return
        if run.at >= 0:
            if run.step.quantum:
                if run.on_qpu_until is None or run.on_qpu_until > self.now:
                    return
            elif not run.width or run.left > 0:
                return
        for worker in [one for one in run.workers if one.own]:
            self.end(run, worker)
        run.at, run.width, run.left, run.since = run.at + 1, 0, Fraction(1), self.now
        run.at_qpu = run.on_qpu_until = None
        if run.at == len(run.of):
            run.is_over, run.left = True, Fraction(0)
            for worker in list(run.workers):
                self.end(run, worker)
            return
        if run.step.quantum:
            own_s = 0 if self.by_job else run.step.own_s
            run.at_qpu = self.now + max(own_s, self.late.qpu) * self.ticks

    def ask(self, run: Run) -> None:
        """Have as many workers as the coupling says, if a stage shares them."""
        wanted, held = self.wanted(run)
        if not any(step.least == 1 for step in run.of if not step.quantum):
            wanted = 0
        shares = not run.step.quantum and run.step.least == 1
        is_short = any(one.own and one.is_short and one.started is None for one in run.workers)
        run.gives_way = not shares and (run.gives_way or is_short)
        if run.gives_way:
            wanted = 0
        for worker in run.workers:
            if worker.held and not held:
                worker.held, worker.asked = False, self.now
        while len(run.shared) < wanted:
            run.workers.append(Worker(next(self.numbers), self.now, held=held))
        while len(run.shared) > wanted:
            before = [one for one in run.shared if one.started is None]
            idle = run.shared if not run.width else []
            if not before and not idle:
                break
            self.end(run, (before or idle)[-1])
        step = run.step
        if not step.quantum and step.least > 1 and not any(one.own for one in run.workers):
            widest = max(step.times)
            run.workers.append(
                Worker(next(self.numbers), self.now, least=step.least, most=widest, own=True)
            )

    def wanted(self, run: Run) -> tuple[int, bool]:
        if self.coupling == "malleable":
            step = run.step
            useful = 0 if step.quantum or step.least > 1 else max(step.times)
            return min(max(useful, self.least), self.most), False
        if self.coupling == "gated" and not run.is_open:
            run.needs_nodes |= not run.step.quantum
            run.is_open = run.needs_nodes and self.free_in() <= self.work_before(run)
        return self.most, self.coupling == "gated" and not run.is_open

    def free_in(self) -> int:
        """Return for how long the QPU is busy."""
        running = self.qpu_until - self.now if self.on_qpu is not None else 0
        return running + sum(task.ticks for task in self.queue)

    def work_before(self, run: Run) -> int:
        """Return how long a run works before its first quantum stage; 0 if it has none."""
        classical = list(itertools.takewhile(lambda step: not step.quantum, run.of))
        if len(classical) == len(run.of):
            return 0
        return self.ticks * sum(
            step.times[min(max(step.times), max(self.most, step.least))] for step in classical
        )

    def start(self) -> bool:
        """Start jobs in the order in which they were asked for, up to one that does not fit.

        Return whether it keeps jobs from starting that could have done so before.
        """
        late = (self.late.start + self.late.wait) * self.ticks
        waiting = [one for run in self.runs for one in run.workers if one.started is None]
        waiting = [one for one in waiting if not one.held and one.asked + late <= self.now]
        waiting.sort(key=lambda one: (one.asked, one.number))
        for at, worker in enumerate(waiting):
            started = sum(one.nodes for run in self.runs for one in run.workers)
            free = self.nodes - started - sum(n for until, n in self.leaving if until > self.now)
            if free < worker.least:
                is_new = any(not one.is_short for one in waiting[at:])
                for one in waiting[at:]:
                    one.is_short = True
                return is_new
            worker.nodes, worker.started = min(free, worker.most), self.now
            worker.ready = self.now + self.late.boot * self.ticks
        return False

    def widen(self, run: Run) -> None:
        """Let a classical stage use the workers that are ready."""
        if run.is_over or run.step.quantum:
            return
        able = [one for one in run.workers if one.own == (run.step.least > 1)]
        ready = sum(one.nodes for one in able if one.ready is not None and one.ready <= self.now)
        run.width = min(ready, max(run.step.times))

    def use_qpu(self) -> None:
        for run in self.runs:
            if run.at_qpu is not None and run.at_qpu <= self.now:
                on_qpu_s = run.step.times[1] - (0 if self.by_job else run.step.own_s)
                task = Task(run, run.at_qpu, on_qpu_s * self.ticks, run.since)
                self.queue.append(task)
                run.at_qpu = None
        if self.on_qpu is None and self.queue:
            task = min(self.queue, key=lambda one: (one.arrived, one.since))
            self.queue.remove(task)
            self.on_qpu, self.qpu_until = task, self.now + task.ticks
            if task.run is not None:
                task.run.on_qpu_until = self.qpu_until

    def end(self, run: Run, worker: Worker) -> None:
        run.workers.remove(worker)
        if worker.started is not None:
            until = self.now + self.late.end * self.ticks
            self.leaving.append((until, worker.nodes))
            self.node_ticks += worker.nodes * (until - worker.started)


@st.composite
def steady(draw: st.DrawFn) -> Step:
    """Return a stage that takes the same time on any number of nodes, so that seconds suffice."""
    if draw(st.booleans()):
        on_qpu_s, own_s = draw(SECONDS), draw(st.integers(0, 9))
        return Step(quantum=True, times={1: on_qpu_s + own_s}, own_s=own_s)
    most = draw(st.integers(1, 3))
    least = draw(st.sampled_from((1, 1, most)))
    seconds = draw(SECONDS)
    return Step(quantum=False, times=dict.fromkeys(range(1, most + 1), seconds), least=least)


@st.composite
def doubling(draw: st.DrawFn) -> Step:
    """Return a stage that two nodes may do in half the time."""
    step = draw(steady())
    if step.quantum:
        return step
    seconds = draw(SECONDS)
    return Step(quantum=False, times={1: 2 * seconds, 2: draw(st.sampled_from((1, 2))) * seconds})


def bounded(flow: FlowModel, bounds: tuple[int, int]) -> FlowModel:
    return FlowModel(name=flow.name, stages=flow.stages, nodes_min=bounds[0], nodes_max=bounds[1])


def agree(
    chains: list[list[Step]],
    coupling: str,
    nodes: int,
    late: Latencies,
    bounds: tuple[int, int],
    ahead_s: int,
    by_job: bool,
    ticks: int,
) -> None:
    flows = [bounded(chain(str(n), of, bounds[1]), bounds) for n, of in enumerate(chains)]
    qpu = QpuModel(start_s=late.qpu, ahead_s=ahead_s, by_job=by_job)
    found = predict(flows, late.cluster(nodes), qpu, coupling)
    count = Count(
        chains, coupling, nodes, late, bounds=bounds, ahead_s=ahead_s, by_job=by_job, ticks=ticks
    )
    makespan_s, node_s = count.result()
    assert found.makespan_s == pytest.approx(makespan_s)
    assert found.node_seconds == pytest.approx(node_s)


BOUNDS = st.tuples(st.integers(0, 2), st.integers(1, 3)).filter(lambda pair: pair[0] <= pair[1])
SHARING = st.sampled_from(("malleable", "gated", "multiplexed"))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(steady(), min_size=1, max_size=4), min_size=1, max_size=4),
    SHARING,
    LATENCIES,
    BOUNDS,
    st.integers(0, 60),
    st.booleans(),
    st.integers(1, 9),
)
def test_runs_wait_for_each_other_as_second_by_second(
    chains: list[list[Step]],
    coupling: str,
    late: Latencies,
    bounds: tuple[int, int],
    ahead_s: int,
    by_job: bool,
    nodes: int,
) -> None:
    least = max(step.least for of in chains for step in of)
    agree(chains, coupling, max(nodes, least), late, bounds, ahead_s, by_job, 1)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(doubling(), min_size=1, max_size=4),
    SHARING,
    LATENCIES,
    st.tuples(st.integers(0, 2), st.just(2)),
    st.integers(0, 60),
)
def test_a_run_gets_faster_as_nodes_join_tick_by_tick(
    of: list[Step], coupling: str, late: Latencies, bounds: tuple[int, int], ahead_s: int
) -> None:
    agree([of], coupling, 4, late, bounds, ahead_s, False, 16)
