"""Excitations on qubits: exact circuits, exact energy curves, honest ranking."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

pytest.importorskip("ffsim", reason="the chemistry extra is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit.quantum_info import Statevector
from scipy.sparse import csr_matrix

from flows._active_space import SpaceChoice, active_space, exact_energy, molecular
from flows._fermions import Excitation, Problem, Support, encode
from flows._molecules import MOLECULES
from flows._variational import build


@cache
def _problem(name: str, length: float) -> tuple[Problem, float]:
    molecule = MOLECULES[name]
    choice = SpaceChoice(electrons=molecule.electrons, orbitals=molecule.orbitals)
    space = active_space(molecular(molecule.geometry(length), choice), choice)
    return encode(space), exact_energy(space)


def _water() -> Problem:
    return _problem("h2o", 1.1)[0]


def _reference(problem: Problem) -> np.ndarray:
    state = np.zeros(2**problem.spin_orbitals)
    state[sum(1 << int(i) for i in np.flatnonzero(problem.reference))] = 1
    return state


@cache
def _matrix(excitation: Excitation) -> csr_matrix:
    return excitation.generator.to_qiskit().to_matrix(sparse=True).real


def _turned(excitation: Excitation, angle: float, state: np.ndarray) -> np.ndarray:
    """exp(angle · generator) of a generator whose cube is its negative."""
    once = _matrix(excitation) @ state
    return state + np.sin(angle) * once + (1 - np.cos(angle)) * (_matrix(excitation) @ once)


def test_the_hamiltonian_has_hartree_fock_and_exact_energy() -> None:
    problem, exact = _problem("h2o", 1.1)
    matrix = problem.hamiltonian.to_qiskit().to_matrix()
    reference = _reference(problem)
    assert (reference @ matrix @ reference).real == pytest.approx(problem.hf_energy, abs=1e-7)
    numbers = [(k >> 4).bit_count() == (k & 15).bit_count() == 2 for k in range(256)]
    sector = matrix[np.ix_(numbers, numbers)]
    assert np.linalg.eigvalsh(sector)[0] == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize("pool", ["excitations", "wider"])
def test_generators_are_real_antisymmetric_with_eigenvalues_i_0_and_minus_i(pool: str) -> None:
    for excitation in getattr(_water(), pool):
        whole = excitation.generator.to_qiskit().to_matrix(sparse=True)
        assert abs(whole.imag).max() < 1e-12
        matrix = whole.real
        assert abs(matrix + matrix.T).max() < 1e-12
        assert abs(matrix @ matrix @ matrix + matrix).max() < 1e-12
        assert excitation.flip.sum() in (2, 4)


def test_symmetry_leaves_few_excitations() -> None:
    problem, _ = _problem("lih", 1.6)
    assert len(problem.excitations) == 10  # 8 singles and 16 doubles without symmetry
    assert problem.wider == ()  # two electrons: singles and doubles reach everything
    assert len(_water().wider) > len(_water().excitations)


def test_the_ranking_solves_each_two_state_problem() -> None:
    problem = _water()
    matrix = problem.hamiltonian.to_qiskit().to_matrix(sparse=True).real
    reference = _reference(problem)
    for excitation in problem.excitations:

        def energy(angle: float, excitation: Excitation = excitation) -> float:
            state = _turned(excitation, angle, reference)
            return float(state @ (matrix @ state))

        best = energy(excitation.angle)
        assert best == pytest.approx(energy(0) - excitation.gain, abs=1e-9)
        assert best <= min(energy(excitation.angle + d) for d in (-0.2, -0.01, 0.01, 0.2)) + 1e-12


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 6), wide=st.booleans())
def test_a_circuit_is_the_product_of_its_exponentials(seed: int, count: int, wide: bool) -> None:
    problem, rng = _water(), np.random.default_rng(seed)
    pool = problem.wider if wide else problem.excitations
    chosen = [pool[k] for k in rng.integers(0, len(pool), count)]
    support = Support(problem.reference, [e.flip for e in chosen])
    ansatz = build(chosen, support)
    angles = rng.normal(size=len(ansatz.blocks))
    state = _reference(problem)
    for excitation, angle in zip(ansatz.excitations, angles, strict=True):
        state = _turned(excitation, angle, state)
    expected = state @ (problem.hamiltonian.to_qiskit().to_matrix(sparse=True).real @ state)
    reduced = Statevector(ansatz.circuit.assign_parameters(angles))
    hamiltonian = support.restrict(problem.hamiltonian).to_qiskit()
    assert reduced.expectation_value(hamiltonian).real == pytest.approx(expected, abs=1e-9)
    # What was left out does nothing where it stood.
    whole = _reference(problem)
    free = iter(angles)
    kept = list(ansatz.excitations)
    for excitation in chosen:
        acts = bool(kept) and excitation is kept[0]
        angle = next(free) if acts else 0.7
        kept = kept[1:] if acts else kept
        whole = _turned(excitation, angle, whole)
    np.testing.assert_allclose(whole, state, atol=1e-9)


def test_first_blocks_cost_almost_nothing() -> None:
    problem, _ = _problem("lih", 2.5)
    support = Support(problem.reference, [e.flip for e in problem.excitations[:3]])
    ansatz = build(problem.excitations[:3], support)
    assert support.num_qubits == 3
    assert ansatz.circuit.count_ops()["cx"] <= 6
    assert [len(block.shifts) for block in ansatz.blocks] == [2, 4, 4]
    assert set(ansatz.circuit.count_ops()) == {"ry", "cx"}


def test_curves_hold_at_every_angle() -> None:
    problem, rng = _water(), np.random.default_rng(5)
    chosen = problem.excitations[:6]
    support = Support(problem.reference, [e.flip for e in chosen])
    ansatz = build(chosen, support)
    hamiltonian = support.restrict(problem.hamiltonian).to_qiskit()

    def energy(angles: np.ndarray) -> float:
        state = Statevector(ansatz.circuit.assign_parameters(angles))
        return float(state.expectation_value(hamiltonian).real)

    here = rng.normal(size=len(ansatz.blocks))
    curves = ansatz.curves(np.array([energy(row) for row in ansatz.points(here)]))
    for index, curve in enumerate(curves):
        for turn in (-2.0, 0.3, 1.1):
            waves = [1, np.cos(turn), np.sin(turn), np.cos(2 * turn), np.sin(2 * turn)]
            moved = here.copy()
            moved[index] += turn
            assert curve @ waves == pytest.approx(energy(moved), abs=1e-9)


def test_points_can_begin_at_a_block() -> None:
    problem, _ = _problem("lih", 2.5)
    support = Support(problem.reference, [e.flip for e in problem.excitations[:3]])
    ansatz = build(problem.excitations[:3], support)
    rows = ansatz.points(np.zeros(3), first=1)
    assert rows.shape == (9, 3)
    assert not rows[:, 0].any()


def test_an_excitation_outside_the_support_is_refused() -> None:
    problem = _water()
    support = Support(problem.reference, [problem.excitations[0].flip])
    with pytest.raises(ValueError, match="support"):
        build(problem.excitations[:5], support)
