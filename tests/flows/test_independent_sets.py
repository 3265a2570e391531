"""Independent sets: the exact choice is the best of all, and the gain says the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows._independent_sets import (
    Conflicts,
    best_set,
    components,
    gain,
    largest_within,
    repaired,
    weight_of,
)
from tests.flows.by_definition import conflicts, is_independent, largest_weight


@given(conflicts(9))
def test_the_best_set_is_the_best_of_all(given_: Conflicts) -> None:
    found = best_set(given_)
    assert is_independent(given_, found)
    assert weight_of(given_, found) == pytest.approx(largest_weight(given_))


def test_a_large_graph_of_four_clusterings_is_solved() -> None:
    rng = np.random.default_rng(3)
    weights = tuple(rng.uniform(1, 9, 96))
    intervals = [  # 24 clusters of each of four clusterings of 240 points on a line
        (10 * i + s, 10 * i + s + 10) for s in (0, 3, 5, 8) for i in range(24)
    ]
    edges = tuple(
        (u, v)
        for u in range(96)
        for v in range(u + 1, 96)
        if max(intervals[u][0], intervals[v][0]) < min(intervals[u][1], intervals[v][1])
    )
    # Of intervals, the best choice is found from left to right.
    best = [0.0] * 261
    for end in range(1, 261):
        ending = [w + best[a] for (a, b), w in zip(intervals, weights, strict=True) if b == end]
        best[end] = max([best[end - 1], *ending])
    given_ = Conflicts(weights=weights, edges=edges)
    found = best_set(given_)
    assert is_independent(given_, found)
    assert weight_of(given_, found) == pytest.approx(best[-1])


@given(conflicts())
def test_components_are_apart_and_complete(given_: Conflicts) -> None:
    parts = components(given_)
    assert sorted(node for part in parts for node in part) == [*range(len(given_.weights))]
    where = {node: index for index, part in enumerate(parts) for node in part}
    assert all(where[u] == where[v] for u, v in given_.edges)
    assert weight_of(given_, best_set(given_)) == pytest.approx(
        sum(largest_weight(given_.among(part)) for part in parts)
    )
    for part in parts:  # none can be divided
        inner = given_.among(part)
        reached = {0}
        for _ in part:
            reached |= {b for u, v in inner.edges for a, b in ((u, v), (v, u)) if a in reached}
        assert len(reached) == len(part)


@given(conflicts(7))
def test_the_gain_is_largest_at_the_best_set(given_: Conflicts) -> None:
    if not given_.weights:
        return
    diagonal = gain(given_).operator().to_matrix().diagonal().real
    assert diagonal.max() == pytest.approx(largest_weight(given_))
    for index, value in enumerate(diagonal):
        nodes = [n for n in range(len(given_.weights)) if index >> n & 1]
        if is_independent(given_, nodes):
            assert value == pytest.approx(weight_of(given_, nodes))
        else:
            assert value < diagonal.max()


@given(conflicts(), st.integers(1, 8))
def test_what_is_not_asked_is_the_lightest_or_dominated(given_: Conflicts, most: int) -> None:
    for part in components(given_):
        asked = largest_within(given_, part, most)
        assert set(asked) <= set(part)
        assert 1 <= len(asked) <= most
        if len(part) <= most:
            assert asked == part
        if len(asked) < most:  # only dominated ones went
            best = largest_weight(given_.among(part))
            assert largest_weight(given_.among(asked)) == pytest.approx(best)


@given(conflicts(), st.data())
def test_a_repaired_choice_is_consistent_and_nothing_fits_beside_it(
    given_: Conflicts, data
) -> None:
    nodes = range(len(given_.weights))
    wish = data.draw(st.sets(st.sampled_from([*nodes]))) if given_.weights else set()
    found = set(repaired(given_, wish))
    assert is_independent(given_, found)
    assert all(not is_independent(given_, found | {n}) for n in nodes if n not in found)
    if is_independent(given_, wish):
        assert wish <= found
