"""Predictions against closed forms, and against a simulation that goes second by second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.couplings.models import QpuModel
from orchestrator.couplings.prediction import predict
from tests.couplings.chains import LATENCIES, SECONDS, Latencies, Step, chain


@st.composite
def steps(draw: st.DrawFn, *, wide: bool) -> Step:
    """Return a stage. wide: it may need more than one node at least."""
    if draw(st.booleans()):
        on_qpu_s, own_s = draw(SECONDS), draw(st.integers(0, 9))
        return Step(quantum=True, times={1: on_qpu_s + own_s}, own_s=own_s)
    most = draw(st.integers(1, 4))
    falling = sorted(draw(st.lists(SECONDS, min_size=most, max_size=most)), reverse=True)
    least = draw(st.integers(1, most)) if wide else 1
    return Step(quantum=False, times=dict(enumerate(falling, start=1)), least=least)


def ended_s(of: Sequence[Step], nodes: int, begin_s: int, ready_s: int, extra_s: int) -> int:
    """Return when a chain ends that has its nodes from ``ready_s`` on, and the QPU to itself."""
    now_s = begin_s
    for step in of:
        if step.quantum:
            now_s += max(step.own_s, extra_s) + step.times[1] - step.own_s
        else:
            now_s = max(now_s, ready_s) + step.times[min(nodes, max(step.times))]
    return now_s


CHAINS = st.lists(steps(wide=False), min_size=1, max_size=6)


@settings(deadline=None)
@given(CHAINS, st.integers(2, 4), LATENCIES, st.integers(1, 3), st.booleans())
def test_exclusive_runs_follow_each_other(
    of: list[Step], nodes: int, late: Latencies, copies: int, is_large: bool
) -> None:
    cluster = late.cluster(nodes * copies if is_large else nodes)
    flows = [chain(str(n), of, nodes) for n in range(copies)]
    found = predict(flows, cluster, QpuModel(start_s=late.qpu), "exclusive")
    begin_s, node_s, held_s, end_s = max(late.start + late.wait, late.qpu), 0, 0, 0
    for _ in flows:
        end_s = ended_s(of, nodes, begin_s, begin_s + late.boot, 0)
        node_s += nodes * (end_s + late.end - begin_s)
        held_s += end_s - begin_s
        begin_s = end_s + (0 if is_large else late.end)
    assert found.makespan_s == pytest.approx(end_s)
    assert found.node_seconds == pytest.approx(node_s)
    assert found.qpu_held_s == pytest.approx(held_s)


@settings(deadline=None)
@given(CHAINS, st.integers(2, 4), LATENCIES)
def test_a_multiplexed_run_keeps_its_nodes(of: list[Step], nodes: int, late: Latencies) -> None:
    found = predict(
        [chain("f", of, nodes)], late.cluster(nodes), QpuModel(start_s=late.qpu), "multiplexed"
    )
    begin_s = late.start + late.wait
    end_s = ended_s(of, nodes, 0, begin_s + late.boot, late.qpu)
    assert found.makespan_s == pytest.approx(end_s)
    if end_s != begin_s:  # jobs that would start as the run ends may do so or not
        uses = end_s > begin_s and not all(step.quantum for step in of)
        held_s = end_s + late.end - begin_s if uses else 0
        assert found.node_seconds == pytest.approx(nodes * held_s)
    assert found.qpu_used_s == pytest.approx(sum(s.times[1] - s.own_s for s in of if s.quantum))


@dataclass
class Chain:
    """A chain in progress. asked: when it asked for what its stage needs, None while that runs."""

    of: list[Step]
    at: int = 0
    asked: int | None = None
    until: int | None = None
    nodes: int = 0
    since: int = 0
    is_over: bool = field(default=False)


def grant(waiting: list[Chain], free: int, now: int, late: Latencies) -> None:
    """Start classical stages in the order in which they asked, up to one that does not fit."""
    for run in [one for one in waiting if not one.of[one.at].quantum]:
        step = run.of[run.at]
        if run.asked is None or now < run.asked + late.start + late.wait:
            continue
        if free < step.least:
            return
        run.nodes, run.since, run.asked = min(free, max(step.times)), now, None
        run.until = now + late.boot + step.times[run.nodes]
        free -= run.nodes
        waiting.remove(run)


def second_by_second(chains: Sequence[list[Step]], nodes: int, late: Latencies) -> tuple[int, int]:
    """Return makespan and node-seconds of chains that are split, from a look at each second."""
    runs = [Chain(of) for of in chains]
    leaving: list[tuple[int, int]] = []
    waiting: list[Chain] = []
    qpu_free, node_s = 0, 0
    for now in range(100_000):
        for run in runs:
            if run.until == now:
                if run.nodes:
                    leaving.append((now + late.end, run.nodes))
                    node_s += run.nodes * (now + late.end - run.since)
                run.until, run.nodes, run.at = None, 0, run.at + 1
            run.is_over = run.at == len(run.of)
            if not run.is_over and run.until is None and run.asked is None:
                run.asked = now
                waiting.append(run)
        if all(run.is_over for run in runs):
            return now, node_s
        free = nodes - sum(run.nodes for run in runs) - sum(n for at, n in leaving if at > now)
        grant(waiting, free, now, late)
        for run in [one for one in waiting if one.of[one.at].quantum]:
            if run.asked is not None and run.asked + late.qpu <= now and qpu_free <= now:
                qpu_free = run.until = now + run.of[run.at].times[1]
                run.asked = None
                waiting.remove(run)
    raise AssertionError("the chains never end")


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(steps(wide=True), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(4, 5),
    LATENCIES,
)
def test_split_runs_wait_for_each_other_as_second_by_second(
    chains: list[list[Step]], nodes: int, late: Latencies
) -> None:
    flows = [chain(str(n), of, nodes) for n, of in enumerate(chains)]
    found = predict(flows, late.cluster(nodes), QpuModel(start_s=late.qpu), "split")
    makespan_s, node_s = second_by_second(chains, nodes, late)
    assert found.makespan_s == pytest.approx(makespan_s)
    assert found.node_seconds == pytest.approx(node_s)
