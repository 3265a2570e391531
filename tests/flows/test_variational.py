"""Ground states: within chemical accuracy of exact where bonds are short, long and breaking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ffsim", reason="the chemistry extra is not installed")

from flows._active_space import SpaceChoice, active_space, exact_energy, molecular
from flows._fermions import Problem, encode
from flows._geometries import Geometry
from flows._molecules import MOLECULES
from flows._variational import Plan, _beyond_noise, solve
from tests.flows.statevector import Estimator

CHEMICAL_ACCURACY = 1.6e-3


def _problem(name: str, length: float) -> tuple[Problem, float]:
    molecule = MOLECULES[name]
    choice = SpaceChoice(electrons=molecule.electrons, orbitals=molecule.orbitals)
    space = active_space(molecular(molecule.geometry(length), choice), choice)
    return encode(space), exact_energy(space)


def test_hydrogen_is_exact() -> None:
    problem, exact = _problem("h2", 0.735)
    found = solve(Estimator(), problem, Plan())
    assert found.energy == pytest.approx(-1.137306, abs=1e-6)
    assert found.energy == pytest.approx(exact, abs=1e-9)
    assert (found.qubits, found.converged, found.std_error) == (1, True, 0.0)


@pytest.mark.parametrize("length", [0.9, 2.4])
def test_lithium_hydride_is_within_chemical_accuracy(length: float) -> None:
    problem, exact = _problem("lih", length)
    estimator = Estimator()
    found = solve(estimator, problem, Plan())
    assert exact - 1e-7 <= found.energy <= exact + CHEMICAL_ACCURACY
    assert found.energy < problem.hf_energy
    assert found.evaluations == sum(estimator.pubs)
    assert found.converged
    # Every iteration is one PUB; the others start a descent or scan for growth.
    assert found.iterations <= len(estimator.pubs) <= found.iterations + 2 * 10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "length"), [("h4", 2.4), ("h2o", 2.2), ("hf", 2.6)])
def test_breaking_bonds_are_within_chemical_accuracy(name: str, length: float) -> None:
    problem, exact = _problem(name, length)
    found = solve(Estimator(), problem, Plan())
    assert exact - 1e-7 <= found.energy <= exact + CHEMICAL_ACCURACY


def test_an_equal_run_is_equal() -> None:
    problem, _ = _problem("lih", 1.6)
    plan = Plan(max_iterations=3)
    assert solve(Estimator(), problem, plan) == solve(Estimator(), problem, plan)


def test_iterations_are_bounded_and_the_last_measures_once() -> None:
    problem, exact = _problem("lih", 3.0)
    estimator = Estimator()
    found = solve(estimator, problem, Plan(max_iterations=2))
    assert found.iterations == 2
    assert not found.converged
    assert estimator.pubs[-1] == 1
    assert exact < found.energy < problem.hf_energy
    none = Estimator()
    start = solve(none, problem, Plan(max_iterations=0))
    assert none.pubs == [1]
    assert found.energy < start.energy < problem.hf_energy


def test_sampling_stays_small_and_its_error_is_told() -> None:
    problem, exact = _problem("lih", 2.4)
    estimator = Estimator(seed=3)
    plan = Plan(precision=0.02, max_iterations=2, start_most=3, grow_gain=None)
    found = solve(estimator, problem, plan)
    assert found.qubits == 3
    assert found.two_qubit_gates <= 6
    assert found.std_error == pytest.approx(0.02)
    assert found.evaluations <= 2 * 11 + 1
    assert abs(found.energy - exact) < 0.02 * 4 + 0.02


@pytest.mark.parametrize("distance", [1.0, 1.6, 2.4, 3.2])
def test_sampled_energies_err_by_little_more_than_their_precision(distance: float) -> None:
    problem, _ = _problem("lih", distance)
    plan = Plan(precision=0.03, max_iterations=2, start_most=3, grow_gain=None)
    best = solve(Estimator(), problem, replace(plan, precision=0.0, max_iterations=50)).energy
    errors = [solve(Estimator(seed), problem, plan).energy - best for seed in range(20)]
    assert np.sqrt(np.mean(np.square(errors))) < 1.5 * 0.03
    assert abs(np.mean(errors)) < 0.03


def test_shifts_cost_a_quarter_of_the_shots() -> None:
    problem, _ = _problem("lih", 2.4)
    estimator = Estimator(seed=3)
    solve(estimator, problem, Plan(precision=0.02, max_iterations=2, start_most=3, grow_gain=None))
    assert estimator.precisions[:2] == pytest.approx([0.02, 0.04])
    assert estimator.pubs[0] == 1
    assert set(estimator.precisions[0::2]) == {0.02}


@given(slopes=st.lists(st.integers(-1000, 1000), min_size=1), thousandths=st.integers(0, 1000))
def test_slopes_within_noise_lead_nowhere(slopes: list[int], thousandths: int) -> None:
    given_slopes, noise = np.array(slopes) / 1000, thousandths / 1000
    kept = _beyond_noise(given_slopes, np.full(len(slopes), noise))
    assert np.all(np.abs(kept) <= np.abs(given_slopes))
    assert np.all(kept * given_slopes >= 0)
    assert np.all(kept[np.abs(given_slopes) <= noise] == 0)
    assert noise > 0 or np.array_equal(kept, given_slopes)


def test_noise_does_not_send_the_search_away() -> None:
    problem, exact = _problem("h2", 1.5)
    plan = Plan(precision=0.05, max_iterations=4, grow_gain=None)
    errors = [solve(Estimator(seed), problem, plan).energy - exact for seed in range(10)]
    assert np.abs(errors).max() < 5 * 0.05
    assert abs(np.mean(errors)) < 0.05


def test_a_state_that_cannot_change_needs_no_qpu() -> None:
    helium = Geometry(symbols=("He",), positions=((0, 0, 0),), x=0, label="He")
    space = active_space(molecular(helium, SpaceChoice()), SpaceChoice())
    found = solve(None, encode(space), Plan())
    assert (found.qubits, found.evaluations, found.converged) == (0, 0, True)
    assert found.energy == pytest.approx(exact_energy(space))


def test_a_radical_is_solved() -> None:
    radical = Geometry(symbols=("O", "H"), positions=((0, 0, 0), (0, 0, 1.3)), x=0, label="OH")
    choice = SpaceChoice(electrons=3, orbitals=3)
    space = active_space(molecular(radical, choice), choice)
    found = solve(Estimator(), encode(space), Plan())
    assert abs(found.energy - exact_energy(space)) <= CHEMICAL_ACCURACY
