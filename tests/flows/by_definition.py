"""What the clustering flow computes, by plain enumeration: silhouettes, pairs, independent sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from flows._independent_sets import Conflicts, weight_of

_WEIGHTS = st.floats(0.1, 50)


def silhouettes(points: Any, labels: Any) -> list[float]:
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


def adjusted_rand(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Hubert and Arabie 1985, from the pairs that both, one or neither put together."""
    pairs = [*combinations(range(len(ours)), 2)]
    both = sum(ours[i] == ours[j] and theirs[i] == theirs[j] for i, j in pairs)
    first = sum(ours[i] == ours[j] for i, j in pairs)
    second = sum(theirs[i] == theirs[j] for i, j in pairs)
    expected, most = first * second / len(pairs), (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def is_independent(given: Conflicts, nodes: Any) -> bool:
    return not any(u in nodes and v in nodes for u, v in given.edges)


def independent_sets(given: Conflicts) -> Iterator[list[int]]:
    """Yield every set of nodes without a conflict, the empty one first."""
    for bits in product((0, 1), repeat=len(given.weights)):
        nodes = [node for node, bit in enumerate(bits) if bit]
        if is_independent(given, nodes):
            yield nodes


def largest_weight(given: Conflicts) -> float:
    return max(weight_of(given, nodes) for nodes in independent_sets(given))


@st.composite
def conflicts(draw: Any, most: int = 8, weights: Any = _WEIGHTS) -> Conflicts:
    count = draw(st.integers(0, most))
    drawn = draw(st.lists(weights, min_size=count, max_size=count))
    pairs = [(u, v) for u in range(count) for v in range(u + 1, count)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return Conflicts(weights=tuple(drawn), edges=tuple(sorted(edges)))
