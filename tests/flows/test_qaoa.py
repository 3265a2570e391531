"""QAOA: its cost is the cut, its known values come out, and its search only rises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows._graphs import BUILT_IN, Graph, best_cut
from flows._qaoa import Instance, Ising, Search, ramp, tune_all
from flows.maxcut import ising, search_for, tune
from tests.flows.statevector import Estimator, amplitudes

WEIGHTED = Graph(
    title="weighted",
    names=("a", "b", "c", "d"),
    edges=((0, 1, 2.0), (1, 2, -1.5), (0, 3, 0.25), (2, 3, 1.0)),
)


@given(sides=st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_the_cost_of_a_basis_state_is_its_cut(sides: list[int]) -> None:
    place = sum(side << node for node, side in enumerate(sides))
    diagonal = ising(WEIGHTED).operator().to_matrix().diagonal().real
    assert diagonal[place] == pytest.approx(WEIGHTED.cut(sides))


@pytest.mark.parametrize(("layers", "share"), [(1, 3 / 4), (2, 5 / 6)])
def test_a_long_ring_is_cut_as_theory_says(layers: int, share: float) -> None:
    """Farhi et al. (arXiv:1411.4028): (2p + 1)/(2p + 2) on rings longer than 2p + 1."""
    ring = BUILT_IN["ring-10"]
    found = tune(Estimator(), ring, layers, Search())
    assert found.gain / 10 == pytest.approx(share, abs=3e-3)
    assert found.gain / 10 <= share + 1e-9


def test_one_layer_on_cubic_graphs_without_triangles_gives_its_known_ratio() -> None:
    """1/2 + 1/(3√3) of the edges, the same paper."""
    graph = BUILT_IN["petersen"]
    found = tune(Estimator(), graph, 1, Search())
    assert found.gain / len(graph.edges) == pytest.approx(0.5 + 1 / (3 * np.sqrt(3)), abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(factor=st.sampled_from([1e-3, 0.5, 40.0]), layers=st.integers(1, 2))
def test_weights_may_have_any_scale(factor: float, layers: int) -> None:
    scaled = Graph(
        title="scaled",
        names=WEIGHTED.names,
        edges=tuple((u, v, w * factor) for u, v, w in WEIGHTED.edges),
    )
    angles = np.array([ramp(layers, 0.6, 1.0)])
    states = [amplitudes(ising(graph).circuit(layers), angles) for graph in (WEIGHTED, scaled)]
    np.testing.assert_allclose(states[0], states[1], atol=1e-9)


def test_the_search_is_a_few_broadcast_pubs_and_never_falls() -> None:
    graph, estimator = BUILT_IN["petersen"], Estimator()
    found = tune(estimator, graph, 2, Search(rounds=3))
    assert estimator.pubs[:2] == [81, 16]
    assert len(estimator.pubs) <= 2 + 2 * 3
    assert found.evaluations == sum(estimator.pubs)
    assert list(found.history) == sorted(found.history)
    assert graph.cut([0] * 10) < found.gain <= best_cut(graph).value


def test_sampling_scans_and_does_not_climb() -> None:
    graph, estimator = BUILT_IN["petersen"], Estimator(seed=1)
    search = search_for(False, graph, None)
    assert search.precision == pytest.approx(0.75)
    tune(estimator, graph, 2, search)
    assert estimator.pubs == [25, 9]


def test_the_search_fits_the_qpu_and_the_graph() -> None:
    graph = BUILT_IN["ring-10"]
    assert search_for(True, graph, None).precision == 0
    assert search_for(True, graph, 0.5).precision == 0.5
    wide = Graph(title="wide", names=tuple(map(str, range(20))), edges=((0, 1, 1.0),))
    assert search_for(True, wide, None).grid < search_for(True, graph, None).grid


def test_cuts_that_are_all_negative_are_survived() -> None:
    graph = Graph(title="against", names=("a", "b"), edges=((0, 1, -2.0),))
    found = tune(Estimator(), graph, 1, Search())
    assert -2.0 <= found.gain <= 0.0


FIELDS = Ising(
    fields=(0.7, -0.2, 0.0, 1.1), couplings=((0, 1, 0.5), (1, 3, -1.5), (2, 3, 0.25)), constant=2.0
)


@given(bits=st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_a_gain_with_fields_is_that_of_its_spins(bits: list[int]) -> None:
    place = sum(bit << node for node, bit in enumerate(bits))
    spins = [1 - 2 * bit for bit in bits]
    value = 2.0 + sum(h * spins[n] for n, h in enumerate(FIELDS.fields))
    value += sum(c * spins[u] * spins[v] for u, v, c in FIELDS.couplings)
    diagonal = FIELDS.operator().to_matrix().diagonal().real
    assert diagonal[place] == pytest.approx(value)


def test_a_layer_turns_phases_by_the_gain() -> None:
    """After one phase layer without a mixer, amplitudes differ by exp(−i γ gain / scale)."""
    state = amplitudes(FIELDS.circuit(1), np.array([[0.0, 1.3]]))[:, 0]
    gains = FIELDS.operator().to_matrix().diagonal().real
    wanted = np.exp(-1.3j * gains / FIELDS.scale())
    np.testing.assert_allclose(state / state[0], wanted / wanted[0], atol=1e-12)


@pytest.mark.parametrize("precision", [0.0, 0.2])
def test_several_circuits_are_tuned_as_each_by_itself(precision: float) -> None:
    models = [FIELDS, ising(WEIGHTED), ising(BUILT_IN["ring-10"])]
    instances = [
        Instance(
            circuit=model.circuit(layers),
            gain=model.operator(),
            layers=layers,
            search=Search(precision=precision, grid=3 + layers, rounds=layers),
        )
        for layers, model in enumerate(models, 1)
    ]
    together = Estimator(seed=1)
    found = tune_all(together, instances)
    if not precision:  # noise comes in another order
        assert found == [tune_all(Estimator(), [instance])[0] for instance in instances]
    for tuned, instance in zip(found, instances, strict=True):
        assert len(tuned.angles) == 2 * instance.layers
        assert list(tuned.history) == sorted(tuned.history)
    assert sum(tuned.evaluations for tuned in found) == sum(together.pubs)
    assert tune_all(together, []) == []
