"""The choice of a QPU: every need is met, the best score wins, and each candidate says why."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.broker.core.choice import ChoiceRequest, QpuFacts, QpuNeeds, choose
from orchestrator.broker.ledger import Ledger
from orchestrator.config.bounds import ChoiceWeights
from orchestrator.data_labels import refusal
from tests.broker.labelled_lab import LABELS, PROJECTS, Lab

GOOD = QpuFacts(
    name="good",
    paradigms=frozenset({"gate"}),
    qubits=20,
    error=0.004,
    fidelity=0.9,
    wait_s=600.0,
    cost=10.0,
    unit="s",
    coupling_class="interactive",
)
QUICK = replace(GOOD, name="quick", fidelity=0.7, error=0.02, wait_s=0.0, cost=5.0)


def asked(**options: Any) -> ChoiceRequest:
    weights = ChoiceWeights(**options.pop("weights", {}))
    return ChoiceRequest(run="r", needs=QpuNeeds(**options), weights=weights)


def test_the_weights_decide_between_two_that_fit() -> None:
    both = [GOOD, QUICK]
    assert choose(asked(), both).qpu == "quick"
    assert choose(asked(weights={"wait": 0, "cost": 0}), both).qpu == "good"
    assert choose(asked(weights={"fidelity": 0}), both).qpu == "quick"
    long = choose(asked(weights={"cost": 0, "patience_s": 36000}), both)
    assert long.qpu == "good"
    first, second = long.candidates
    assert (first.qpu, second.qpu) == ("good", "quick")
    assert first.score is not None
    assert second.score is not None
    assert first.score > second.score
    assert second.refused is None


@pytest.mark.parametrize(
    "needs",
    [
        {"qubits": 21},
        {"paradigm": "analog"},
        {"max_error": 0.001},
        {"coupling_class": "realtime"},
        {"labels": ("embargoed",)},
        {"jurisdiction": "EU"},
    ],
)
def test_a_need_that_nobody_meets_chooses_none_with_a_reason_for_each(needs: Any) -> None:
    found = choose(asked(**needs), [GOOD, QUICK])
    assert found.qpu == ""
    assert all(one.refused and one.score is None for one in found.candidates)


def test_an_error_that_is_not_known_meets_no_bound_but_counts_as_the_mean_otherwise() -> None:
    dark = replace(GOOD, name="dark", error=None, fidelity=None)
    assert choose(asked(max_error=0.01), [dark]).qpu == ""
    assert choose(asked(coupling_class="batch"), [replace(dark, coupling_class=None)]).qpu == ""
    cloud = replace(QUICK, name="cloud", coupling_class="batch")
    assert choose(asked(coupling_class="interactive"), [cloud, GOOD]).qpu == "good"
    assert choose(asked(coupling_class="batch"), [cloud, GOOD]).qpu == "cloud"
    found = choose(asked(weights={"wait": 0, "cost": 0}), [dark, GOOD, QUICK])
    scores = {one.qpu: one.score for one in found.candidates}
    assert scores["dark"] == pytest.approx(0.8)


def test_costs_in_different_units_count_by_prices_alone() -> None:
    other = replace(GOOD, name="other", cost=1.0, unit="eqs")
    alone = {"fidelity": 0, "wait": 0}
    found = choose(asked(weights=alone), [GOOD, other])
    assert {one.score for one in found.candidates} == {0.5}
    dear = choose(asked(weights=alone | {"prices": {"s": 1.0, "eqs": 100.0}}), [GOOD, other])
    assert dear.qpu == "good"


def test_the_earlier_choice_stays_as_long_as_it_fits() -> None:
    assert choose(asked(), [GOOD, QUICK], before="good").qpu == "good"
    broken = replace(GOOD, fault="good is drained: cooling")
    assert choose(asked(), [broken, QUICK], before="good").qpu == "quick"
    assert choose(asked(), [QUICK], before="gone").qpu == "quick"


numbers = st.one_of(st.none(), st.floats(0, 1e6))
label_sets = st.lists(st.sampled_from(LABELS), unique=True).map(tuple)
facts = st.builds(
    QpuFacts,
    name=st.sampled_from([f"q{n}" for n in range(6)]),
    paradigms=st.sampled_from([frozenset({"gate"}), frozenset({"analog"})]),
    qubits=st.one_of(st.none(), st.integers(1, 30)),
    error=st.one_of(st.none(), st.floats(0, 1)),
    fidelity=st.one_of(st.none(), st.floats(0, 1)),
    wait_s=numbers,
    cost=numbers,
    unit=st.sampled_from(["s", "eqs"]),
    accepted=label_sets.map(frozenset),
    fault=st.sampled_from([None, "drained"]),
)


@given(
    facts=st.lists(facts, max_size=6, unique_by=lambda one: one.name),
    labels=label_sets,
    project=st.sampled_from(("", *PROJECTS)),
    qubits=st.integers(1, 20),
    weights=st.tuples(st.floats(0, 9), st.floats(0, 9), st.floats(0.1, 9)),
    before=st.sampled_from([None, "q0", "q1"]),
)
def test_what_is_chosen_meets_every_need(
    facts: list[QpuFacts], labels: Any, project: str, qubits: int, weights: Any, before: Any
) -> None:
    named = dict(zip(("fidelity", "wait", "cost"), weights, strict=True))
    request = replace(asked(labels=labels, qubits=qubits, weights=named), project=project)
    found = choose(request, facts, before=before)
    assert {one.qpu for one in found.candidates} == {one.name for one in facts}
    fitting = {one.qpu for one in found.candidates if one.refused is None}
    assert bool(found.qpu) == bool(fitting)
    for one in facts:
        if one.name in fitting:
            assert refusal(labels, one.accepted, qpu=one.name, project=project) is None
            assert one.fault is None
            assert one.qubits is None or one.qubits >= qubits
            assert "gate" in one.paradigms
    if found.qpu:
        assert found.qpu in fitting
    assert all(0 <= one.score <= 1 for one in found.candidates if one.score is not None)


def test_a_broker_chooses_records_why_and_keeps_its_choice(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    request = ChoiceRequest(
        run="r", stage="s-0", project="chem", needs=QpuNeeds(labels=("personal",))
    )

    async def check() -> None:
        accepts = {"home": ["personal"], "cloud": ["personal"]}
        async with lab.broker(accepts) as broker:
            first = await broker.choose(request, "ada")
            refused = {one.qpu for one in first.candidates if one.refused}
            assert refused == {"abroad"}
            other = "cloud" if first.qpu == "home" else "home"
            assert (await broker.choose(request, "ada")).qpu == first.qpu
            await broker.drain(first.qpu, "ops", "cooling")
            assert (await broker.choose(request, "ada")).qpu == other
        async with lab.broker(accepts) as broker:
            await broker.resume(first.qpu, "ops")
            assert (await broker.choose(request, "ada")).qpu == other, "after a restart, too"
        async with lab.broker({}) as broker:
            assert (await broker.choose(request, "ada")).qpu == ""

    asyncio.run(check())
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    chosen = [
        event.choice.qpu for event, _ in ledger.events("service") if event.kind == "qpu-chosen"
    ]
    ledger.close()
    assert len(chosen) == 3
    assert chosen[-1] == ""
