"""The generative eigensolver: its circuits, its transformer, and the flow as users run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ffsim", reason="the chemistry extra is not installed")
pytest.importorskip("optax", reason="the learning extra is not installed")

from flows._active_space import SpaceChoice, active_space, exact_energy, molecular
from flows._fermions import encode
from flows._generative.circuits import ANGLES, Vocabulary
from flows._generative.transformer import beginning, improved, logits, proposed
from flows._inputs import InputError
from flows._molecules import Scan, built_in_curve
from flows.generative import generative
from orchestrator.runs import Run
from tests.errors import naming

needs_engine = pytest.mark.usefixtures("prefect_server")
Check = Callable[[dict[str, Any]], dict[str, Any]]


def test_circuits_are_products_of_excitations_of_the_reference() -> None:
    (point,) = built_in_curve("h2", Scan(lengths=[0.735])).points
    choice = SpaceChoice(basis="sto-3g", electrons=2, orbitals=2, spin=None, charge=0)
    space = active_space(molecular(point, choice), choice)
    words = Vocabulary.of(encode(space))
    assert words.tokens == len(words.excitations) * len(ANGLES) + 1
    energy, nothing = words.energy, words.tokens - 1
    assert words.acting([nothing, 0, nothing]) == (0,)
    assert energy([nothing, 0]) == energy([0])
    assert energy([]) == pytest.approx(space.hf_energy)
    found = [energy([token]) for token in range(words.tokens)]
    assert min(found) >= exact_energy(space) - 1e-9
    # The double excitation alone reaches the ground state at its angle, near -0.11 or 0.11.
    assert min(found) == pytest.approx(exact_energy(space), abs=1e-3)
    # An angle and its opposite undo each other, so the sign of both is that of the token.
    assert energy([0, len(ANGLES) - 1]) == pytest.approx(space.hf_energy)
    assert (words.random(3, 5, [1, 2]) == words.random(3, 5, [1, 2])).all()


def test_a_transformer_sees_only_what_came_before() -> None:
    weights = beginning(7, 6, seed=1)
    rows = np.random.default_rng(1).integers(0, 7, (4, 6))
    whole = logits(weights, rows, np)
    changed = rows.copy()
    changed[:, 4:] = (changed[:, 4:] + 1) % 7
    again = logits(weights, changed, np)
    assert np.allclose(whole[:, :5], again[:, :5], atol=1e-6)
    assert not np.allclose(whole[:, 5], again[:, 5], atol=1e-6)


@pytest.mark.slow
def test_what_teaches_becomes_likelier() -> None:
    weights = beginning(12, 6, seed=1)
    rows = np.array([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])

    def hits(now: Any) -> int:
        drawn = proposed(now, 200, 6, [3])
        return int((drawn[:, None, :] == rows[None]).all(axis=2).sum())

    before = hits(weights)
    for _ in range(12):
        weights = improved(weights, rows, np.array([0.5, 0.5]))
    assert before == 0
    assert hits(weights) > 20


@needs_engine
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"length": 0}, naming("length", 0)),
        ({"seeds": 2}, naming("seeds", 2, 5)),
        ({"precision": -1.0}, naming("precision", -1)),
        ({"molecule": "unobtainium"}, naming("unobtainium")),
    ],
)
def test_what_cannot_be_generated_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        generative(**parameters)
    assert run.spans() == []


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("qpu", ["aer", "vlq"])
def test_circuits_are_generated_beside_random_ones(
    qpu: str, run_on: Callable[[str], Run], kept: Check
) -> None:
    current = run_on(qpu)
    few = {"molecule": "h2", "bond": 0.735, "length": 2, "rounds": 2, "circuits": 4}
    result = kept(generative(**few))
    assert 10 <= result["circuits"] <= 2 * 2 * 5 * 4
    assert result["summary"][0].split(" won")[0] in ("Nobody", "Exact diagonalisation")
    (comparison,) = result["comparisons"]
    assert {way["name"] for way in comparison["ways"]} == set(result["errors_mha"])
    assert result["exact"] == pytest.approx(-1.137306, abs=1e-5)
    for name, error in result["errors_mha"].items():
        assert error["error"] >= -1e-6 or name == "variational"
    random = result["history"]["random"]
    if qpu == "aer":  # with exact energies the best only gets better
        assert random == sorted(random, reverse=True)
        jobs = len(current.spans())
        again = generative(**few)
        assert again["table"] == result["table"]
        for name, errors in result["history"].items():
            assert again["history"][name] == pytest.approx(errors, abs=1e-9)
        assert len(current.spans()) == 2 * jobs
