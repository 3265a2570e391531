"""Clusterings: silhouettes and agreement by their definitions, candidates by their points."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="the clustering extra is not installed")

from flows._clusterings import (
    ALGORITHMS,
    Method,
    agreement,
    candidates,
    clustered,
    completed,
    joined,
    rated,
    silhouettes,
    trials,
)
from flows._independent_sets import best_set
from flows._points import generated
from tests.flows import by_definition

POINTS = generated(2).scaled()


@st.composite
def labelled(draw):
    count = draw(st.integers(4, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))
    return rng.normal(size=(count, 2)), np.array(labels)


@settings(deadline=None)
@given(labelled())
def test_silhouettes_are_as_defined(case) -> None:
    points, labels = case
    found = silhouettes(points, labels)
    np.testing.assert_allclose(found, by_definition.silhouettes(points, labels), atol=1e-9)


@settings(deadline=None)
@given(labelled(), st.integers(0, 2**32 - 1))
def test_agreement_counts_pairs(case, seed) -> None:
    _, ours = case
    theirs = np.random.default_rng(seed).integers(0, 3, len(ours))
    assert agreement(ours, theirs) == pytest.approx(by_definition.adjusted_rand(ours, theirs))


@settings(deadline=None)
@given(labelled())
def test_points_without_a_cluster_get_the_nearest_ones(case) -> None:
    points, labels = case
    whole = completed(points, labels)
    known = np.flatnonzero(labels >= 0)
    np.testing.assert_array_equal(whole[known], labels[known])
    for index in np.flatnonzero(labels < 0) if len(known) else ():
        nearest = known[np.linalg.norm(points[known] - points[index], axis=1).argmin()]
        assert whole[index] == labels[nearest]


@pytest.mark.parametrize(
    "trial", trials(0, None, None, 1, 100) + trials(1, 6, 4, 1, 100), ids=lambda trial: trial.name
)
def test_every_trial_makes_a_clustering(trial: Method) -> None:
    found = clustered(POINTS, trial)
    assert found.labels.shape == found.silhouettes.shape == (len(POINTS),)
    assert set(found.labels) - {-1} == set(range(found.clusters))
    assert trial.clusters in (0, found.clusters)
    again = clustered(POINTS, trial)
    np.testing.assert_array_equal(found.labels, again.labels)


def test_each_algorithm_is_tried_within_what_there_can_be() -> None:
    for near in (None, 2, 3, 30):
        tried = trials(3, near, 5, 1, 9)
        assert {trial.algorithm for trial in tried} == set(ALGORITHMS)
        assert all(2 <= trial.clusters <= 9 for trial in tried if trial.algorithm != "DBSCAN")
        assert len({(t.algorithm, t.clusters, t.reach) for t in tried}) == len(tried)


def test_candidates_exclude_each_other_where_they_share_a_point() -> None:
    bases = [clustered(POINTS, trial) for trial in trials(0, 5, None, 1, 100)]
    found = candidates(POINTS, bases)
    sets = [frozenset(np.flatnonzero(row)) for row in found.members]
    assert len(set(sets)) == len(sets)
    edges = {(u, v) for u, v in combinations(range(len(sets)), 2) if sets[u] & sets[v]}
    assert set(found.conflicts.edges) == edges
    weights = {}
    for base in bases:
        values = silhouettes(POINTS, base.labels)
        for label in range(base.clusters):
            own = frozenset(np.flatnonzero(base.labels == label))
            weights[own] = max(weights.get(own, 0.0), sum(values[sorted(own)]))
    positive = {own: weight for own, weight in weights.items() if weight > 0}
    assert dict(zip(sets, found.conflicts.weights, strict=True)) == pytest.approx(positive)
    chosen = best_set(found.conflicts)
    labels = joined(found, chosen)
    assert [frozenset(np.flatnonzero(labels == n)) for n in range(len(chosen))] == [
        sets[node] for node in chosen
    ]


@settings(deadline=None)
@given(st.data())
def test_a_consensus_of_any_clusterings_is_the_best_choice_of_their_clusters(data) -> None:
    count = data.draw(st.integers(4, 9))
    points = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).normal(size=(count, 2))
    several = st.lists(st.integers(-1, 3), min_size=count, max_size=count)
    bases = []
    for number in range(data.draw(st.integers(1, 3))):
        drawn = data.draw(several)
        names = {label: place for place, label in enumerate(sorted({*drawn} - {-1}))}
        labels = np.array([names.get(label, -1) for label in drawn], dtype=np.int64)
        bases.append(rated(points, labels, str(number), "DBSCAN"))
    found = candidates(points, bases)
    weights: dict[frozenset[int], float] = {}
    for base in bases:
        values = by_definition.silhouettes(points, base.labels)
        for label in {*base.labels.tolist()} - {-1}:
            own = frozenset(n for n in range(count) if base.labels[n] == label)
            weights[own] = max(weights.get(own, 0.0), sum(values[n] for n in own))
    clusters = [own for own, weight in weights.items() if weight > 1e-9]
    best = max(
        sum(weights[own] for own in chosen)
        for size in range(len(clusters) + 1)
        for chosen in combinations(clusters, size)
        if all(not one & other for one, other in combinations(chosen, 2))
    )
    chosen = best_set(found.conflicts)
    assert sum(found.conflicts.weights[node] for node in chosen) == pytest.approx(best, abs=1e-6)
    labels = joined(found, chosen)
    made = [frozenset(np.flatnonzero(labels == n).tolist()) for n in range(len(chosen))]
    assert sum(weights[own] for own in made) == pytest.approx(best, abs=1e-6)
    known = completed(points, labels)
    consensus = rated(points, labels, "consensus", "consensus").silhouette
    assert consensus == pytest.approx(np.mean(by_definition.silhouettes(points, known)))


def test_one_cluster_of_all_points_is_no_candidate() -> None:
    whole = rated(POINTS, np.zeros(len(POINTS), dtype=np.int64), "one", "DBSCAN")
    assert whole.silhouette == 0.0
    found = candidates(POINTS, [whole])
    assert found.conflicts.weights == ()
    assert set(joined(found, ())) == {-1}
