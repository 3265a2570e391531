"""Pauli sums as bits: conversions lose nothing, and the reduction to a support is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit.quantum_info import SparsePauliOp, random_pauli_list

from flows._fermions import PauliSum, Support


def _operator(seed: int, qubits: int, terms: int = 12) -> SparsePauliOp:
    rng = np.random.default_rng(seed)
    paulis = random_pauli_list(qubits, terms, seed=seed, phase=True)
    return SparsePauliOp(paulis, rng.normal(size=terms) + 1j * rng.normal(size=terms))


def _index(bits: np.ndarray) -> int:
    return int(sum(1 << i for i in np.flatnonzero(bits)))


seeds = st.integers(0, 10_000)


@given(seed=seeds, qubits=st.integers(1, 4))
def test_there_and_back_is_the_same_operator(seed: int, qubits: int) -> None:
    operator = _operator(seed, qubits)
    back = PauliSum.of(operator).to_qiskit()
    np.testing.assert_allclose(back.to_matrix(), operator.to_matrix(), atol=1e-9)


@given(seed=seeds)
def test_elements_are_those_of_the_matrix(seed: int) -> None:
    operator, rng = _operator(seed, 3), np.random.default_rng(seed)
    row, column = rng.integers(0, 2, (2, 3)).astype(bool)
    expected = operator.to_matrix()[_index(row), _index(column)]
    assert PauliSum.of(operator).element(row, column) == pytest.approx(expected)


@settings(max_examples=60)
@given(seed=seeds, qubits=st.integers(2, 5), count=st.integers(0, 5))
def test_a_support_keeps_every_element_between_its_states(
    seed: int, qubits: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 2, qubits).astype(bool)
    support = Support(reference, rng.integers(0, 2, (count, qubits)).astype(bool))
    operator = _operator(seed, qubits, 30)
    restricted = support.restrict(PauliSum.of(operator))
    labels = [
        np.array([label >> k & 1 for k in range(support.num_qubits)], dtype=bool)
        for label in range(2**support.num_qubits)
    ]
    flips = [label.astype(int) @ support.basis.astype(int) % 2 for label in labels]
    states = [reference ^ flip.astype(bool) for flip in flips]
    places = [_index(state) for state in states]
    full = operator.to_matrix()[np.ix_(places, places)]
    ours = [[restricted.element(row, column) for column in labels] for row in labels]
    np.testing.assert_allclose(ours, full, atol=1e-9)
    if support.num_qubits:
        np.testing.assert_allclose(restricted.to_qiskit().to_matrix(), full, atol=1e-9)


@given(seed=seeds, count=st.integers(1, 6))
def test_coordinates_add_up_to_the_flip(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    directions = rng.integers(0, 2, (count, 6)).astype(bool)
    support = Support(np.zeros(6, dtype=bool), directions)
    assert support.num_qubits == np.linalg.matrix_rank(support.basis.astype(int)) <= count
    chosen = rng.integers(0, 2, count) @ directions % 2
    label = support.coordinates(chosen.astype(bool))
    assert label is not None
    np.testing.assert_array_equal(label.astype(int) @ support.basis % 2, chosen)


def test_a_flip_outside_has_no_coordinates_and_its_terms_vanish() -> None:
    support = Support(np.zeros(2, dtype=bool), [np.array([True, True])])
    assert support.coordinates(np.array([True, False])) is None
    only_outside = support.restrict(PauliSum.of(SparsePauliOp(["IX", "YZ"])))
    assert len(only_outside.coefficients) == 0
    np.testing.assert_allclose(only_outside.to_qiskit().to_matrix(), np.zeros((2, 2)))


def test_the_reference_becomes_all_zeros() -> None:
    reference = np.array([True, False, True])
    support = Support(reference, np.eye(3, dtype=bool))
    occupations = support.restrict(PauliSum.of(SparsePauliOp(["IIZ", "IZI", "ZII"], [1, 10, 100])))
    zeros = np.zeros(3, dtype=bool)
    assert occupations.element(zeros, zeros) == pytest.approx(-1 + 10 - 100)
