"""The flows' physics against numbers from elsewhere, with Qiskit's own estimator as the QPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qiskit.primitives import StatevectorEstimator

from flows._graphs import BUILT_IN, Graph, best_cut
from flows.maxcut import angles as find_angles
from flows.maxcut import ising, search_for, tune

H2_EXACT = -1.137306  # Hartree; STO-3G at 0.735 Å, in every textbook


class IdealQpu:
    """What a stage asks of a QPU, answered by Qiskit's statevector."""

    target = SimpleNamespace(payload_kinds=frozenset({"sampler", "estimator"}))

    def lease(self) -> AbstractContextManager[None]:
        return nullcontext()

    def estimator(self, *, precision: float | None = None, seed: int | None = None) -> Any:
        return StatevectorEstimator(default_precision=precision or 0.0, seed=seed)


@pytest.fixture(scope="module")
def hydrogen() -> Any:
    for module in ("pyscf", "ffsim"):
        pytest.importorskip(module, reason=f"{module} is not installed (the chemistry extra)")
    from flows._active_space import SpaceChoice
    from flows._molecules import MOLECULES
    from flows.dissociation import integrals

    return integrals.fn.__wrapped__(MOLECULES["h2"].geometry(0.735), SpaceChoice())


def test_hydrogen_is_diagonalised_to_its_known_energy(hydrogen: Any) -> None:
    from flows.dissociation import exact

    assert exact.fn.__wrapped__(hydrogen) == pytest.approx(H2_EXACT, abs=1e-6)


def test_the_quantum_stage_finds_hydrogen_on_any_estimator(hydrogen: Any) -> None:
    from flows.dissociation import Settings, ground_state

    state = ground_state.fn.__wrapped__(IdealQpu(), hydrogen, Settings())
    assert state.energy == pytest.approx(H2_EXACT, abs=1e-6)
    assert (state.std_error, state.converged) == (0.0, True)


def test_parameter_shifts_give_the_slope_of_finite_differences(hydrogen: Any) -> None:
    from flows._fermions import Support
    from flows._variational import build

    problem = hydrogen.problem
    support = Support(problem.reference, [e.flip for e in problem.excitations])
    ansatz = build(problem.excitations, support)
    hamiltonian = support.restrict(problem.hamiltonian).to_qiskit()

    def energies(rows: Any) -> Any:
        pub = (ansatz.circuit, hamiltonian, rows, 0.0)
        return StatevectorEstimator().run([pub]).result()[0].data.evs

    here = np.random.default_rng(3).uniform(-1, 1, len(ansatz.blocks))
    curves = ansatz.curves(energies(ansatz.points(here)))
    steps = 1e-4 * np.eye(len(here))
    slopes = (energies(here + steps) - energies(here - steps)) / 2e-4
    assert np.abs(slopes).max() > 1e-2
    np.testing.assert_allclose(curves[:, 2] + 2 * curves[:, 4], slopes, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "largest"), [("ring-10", 10), ("petersen", 12), ("mobius-12", 16), ("mobius-16", 22)]
)
def test_largest_cuts_of_the_built_in_graphs(name: str, largest: float) -> None:
    found = best_cut(BUILT_IN[name])
    assert (found.value, found.is_exact) == (largest, True)
    assert BUILT_IN[name].cut(found.sides) == largest


def test_a_weighted_cut_leaves_negative_edges_inside() -> None:
    graph = Graph(
        title="triangle", names=("a", "b", "c"), edges=((0, 1, 2.0), (0, 2, 3.0), (1, 2, -4.0))
    )
    found = best_cut(graph)
    assert (found.value, found.sides) == (5.0, (1, 0, 0))


def test_the_observable_is_the_cut() -> None:
    graph = Graph(title="path", names=("a", "b", "c"), edges=((0, 1, 2.0), (1, 2, -1.5)))
    diagonal = np.diag(ising(graph).operator().to_matrix()).real
    for index, (c, b, a) in enumerate(product((0, 1), repeat=3)):
        assert diagonal[index] == pytest.approx(graph.cut((a, b, c)))


def test_one_layer_on_a_ring_has_its_known_optimum() -> None:
    """Farhi et al.: three quarters of a ring's edges, whatever its length."""
    graph = BUILT_IN["ring-10"]
    tuned = tune(StatevectorEstimator(), graph, 1, search_for(True, graph, None))
    assert tuned.gain == pytest.approx(7.5, abs=0.01)
    assert list(tuned.history) == sorted(tuned.history)


def test_the_quantum_stage_beats_guessing_and_reports_what_it_measured() -> None:
    graph = BUILT_IN["petersen"]
    tuned = find_angles.fn.__wrapped__(IdealQpu(), graph, 2, None, 1)
    again = StatevectorEstimator().run(
        [(ising(graph).circuit(2), ising(graph).operator(), np.array(tuned.angles))]
    )
    assert float(again.result()[0].data.evs) == pytest.approx(tuned.gain, abs=1e-9)
    assert len(graph.edges) / 2 + 2 < tuned.gain <= 12
