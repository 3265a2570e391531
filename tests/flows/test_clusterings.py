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

POINTS = generated(2).scaled()


@st.composite
def labelled(draw):
    count = draw(st.integers(4, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))
    return rng.normal(size=(count, 2)), np.array(labels)


def silhouette_by_definition(points, labels) -> list[float]:
    """Rousseeuw 1987: (b − a) / max(a, b), of mean distances within and to the nearest other."""
    clusters = sorted({*labels} - {-1})
    values = []
    for point, label in zip(points, labels, strict=True):
        distance = np.linalg.norm(points - point, axis=1)
        own = labels == label
        if label == -1 or len(clusters) < 2 or own.sum() == 1:
            values.append(0.0)
            continue
        a = distance[own].sum() / (own.sum() - 1)
        b = min(distance[labels == other].mean() for other in clusters if other != label)
        values.append((b - a) / max(a, b))
    return values


@settings(deadline=None)
@given(labelled())
def test_silhouettes_are_as_defined(case) -> None:
    points, labels = case
    found = silhouettes(points, labels)
    np.testing.assert_allclose(found, silhouette_by_definition(points, labels), atol=1e-9)


@settings(deadline=None)
@given(labelled(), st.integers(0, 2**32 - 1))
def test_agreement_counts_pairs(case, seed) -> None:
    """Hubert and Arabie 1985, from the pairs that both, one or neither put together."""
    _, ours = case
    theirs = np.random.default_rng(seed).integers(0, 3, len(ours))
    pairs = [*combinations(range(len(ours)), 2)]
    both = sum(ours[i] == ours[j] and theirs[i] == theirs[j] for i, j in pairs)
    first = sum(ours[i] == ours[j] for i, j in pairs)
    second = sum(theirs[i] == theirs[j] for i, j in pairs)
    expected, most = first * second / len(pairs), (first + second) / 2
    index = 1.0 if most == expected else (both - expected) / (most - expected)
    assert agreement(ours, theirs) == pytest.approx(index)


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


def test_one_cluster_of_all_points_is_no_candidate() -> None:
    whole = rated(POINTS, np.zeros(len(POINTS), dtype=np.int64), "one", "DBSCAN")
    assert whole.silhouette == 0.0
    found = candidates(POINTS, [whole])
    assert found.conflicts.weights == ()
    assert set(joined(found, ())) == {-1}
