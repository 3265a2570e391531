"""Weighted graphs, some of them built in, and their largest cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUILT_IN", "Cut", "Graph", "best_cut"]

_EXACT_UP_TO = 24
_RESTARTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An undirected graph without loops. edges: (u, v, weight) with u < v, nodes from 0.

    names: how the file calls node 0, 1, ….
    """

    title: str
    names: tuple[str, ...]
    edges: tuple[tuple[int, int, float], ...]

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.names)

    def cut(self, sides: Sequence[int] | NDArray[np.int64]) -> float:
        """Return the weight between the two sides; ``sides[i]`` is 0 or 1."""
        return float(sum(w for u, v, w in self.edges if sides[u] != sides[v]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A cut, its side per node, and whether no other is larger."""

    value: float
    sides: tuple[int, ...]
    is_exact: bool


def _circulant(title: str, nodes: int, jumps: Sequence[int]) -> Graph:
    """Join every node to those some jumps further round a circle."""
    pairs = {frozenset((n, (n + jump) % nodes)) for n in range(nodes) for jump in jumps}
    edges = sorted((min(pair), max(pair), 1.0) for pair in pairs)
    return Graph(title=title, names=tuple(map(str, range(nodes))), edges=tuple(edges))


_PETERSEN = [
    edge for n in range(5) for edge in ((n, (n + 1) % 5), (n, n + 5), (n + 5, (n + 2) % 5 + 5))
]

BUILT_IN = {
    "ring-10": _circulant("ring-10", 10, [1]),
    "petersen": Graph(
        title="petersen",
        names=tuple(map(str, range(10))),
        edges=tuple(sorted((min(edge), max(edge), 1.0) for edge in _PETERSEN)),
    ),
    "mobius-12": _circulant("mobius-12", 12, [1, 6]),
    "mobius-16": _circulant("mobius-16", 16, [1, 8]),
}


def best_cut(graph: Graph, seed: int = 0) -> Cut:
    """Return the largest cut: proven up to 24 nodes, by local search with restarts beyond."""
    if graph.nodes <= _EXACT_UP_TO:
        return _enumerated(graph)
    return _searched(graph, seed)


def _enumerated(graph: Graph) -> Cut:
    """Try every cut, one half of the bits at a time; the last node stays on side 0."""
    free = graph.nodes - 1
    low = min(free, 18)
    index = np.arange(2**low)
    best, at = -np.inf, 0
    for high in range(2 ** (free - low)):
        values = np.zeros(len(index))
        for u, v, weight in graph.edges:
            sides = [(index >> n) & 1 if n < low else (high >> (n - low)) & 1 for n in (u, v)]
            values += weight * (sides[0] ^ sides[1])
        if values.max() > best:
            best, at = float(values.max()), int(values.argmax()) + (high << low)
    sides_found = tuple((at >> n) & 1 for n in range(graph.nodes))
    return Cut(value=graph.cut(sides_found), sides=sides_found, is_exact=True)


def _searched(graph: Graph, seed: int) -> Cut:
    """Flip single nodes while that gains, from many random starts."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((graph.nodes, graph.nodes))
    for u, v, weight in graph.edges:
        weights[u, v] = weights[v, u] = weight
    best = Cut(value=0.0, sides=(0,) * graph.nodes, is_exact=False)
    for _ in range(_RESTARTS):
        spins = rng.choice([-1.0, 1.0], size=graph.nodes)
        gains = spins * (weights @ spins)
        while gains.max() > 1e-9:
            spins[gains.argmax()] *= -1
            gains = spins * (weights @ spins)
        sides = tuple(int(spin < 0) for spin in spins)
        value = graph.cut(sides)
        if value > best.value:
            best = Cut(value=value, sides=sides, is_exact=False)
    return best
