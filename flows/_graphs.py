"""Weighted graphs: built-in ones, files that hold one, and their largest cuts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows._inputs import InputError, SourceLine, read_lines

__all__ = ["BUILT_IN", "Cut", "Graph", "best_cut", "from_file", "graph_of"]

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


def graph_of(source: str) -> Graph:
    """Return a built-in graph by name, or read a file. Raises `InputError`."""
    if source in BUILT_IN:
        return BUILT_IN[source]
    if not Path(source).expanduser().exists() and not any(c in source for c in "/\\."):
        near = difflib.get_close_matches(source, BUILT_IN, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"graph {source!r} is neither built in nor a file; {hint}expected a path or one of "
            f"{', '.join(BUILT_IN)}"
        )
    return from_file(source)


def from_file(path: str) -> Graph:
    """Read an edge list, ``u v [weight]`` per line, or a file in GSet's format.

    Edge list: nodes have any names; the weight is 1 where it is left out. GSet's: first
    ``nodes edges``, then exactly so many lines ``u v weight``, nodes counted from 1; it is
    taken for that if the first line has two whole numbers and every other line three words.
    ``#`` and ``%`` begin comments. Raises `InputError` with the line that is wrong.
    """
    rows = []
    for line in read_lines(path):
        words = line.text.split("#")[0].split("%")[0].replace(",", " ").split()
        if words:
            rows.append((line, words))
    if not rows:
        raise InputError(f"{path}: only comments; expected edges, 'u v [weight]' on each line")
    first, header = rows[0]
    if len(rows) > 1 and len(header) == 2 and all(len(words) == 3 for _, words in rows[1:]):
        try:
            count, edges = int(header[0]), int(header[1])
        except ValueError:
            pass
        else:
            return _weighted(_gset(Path(path), first, (count, edges), rows[1:]))
    return _weighted(_edge_list(Path(path), rows))


def _weighted(graph: Graph) -> Graph:
    if not any(weight for _, _, weight in graph.edges):
        raise InputError(f"{graph.title}: every weight is 0; expected some edge that counts")
    return graph


_Rows = Sequence[tuple[SourceLine, list[str]]]


def _gset(path: Path, header: SourceLine, sizes: tuple[int, int], rows: _Rows) -> Graph:
    nodes, edges = sizes
    if nodes < 2 or edges < 1:
        raise header.error("'nodes edges' of a graph with at least two nodes and one edge")
    if len(rows) != edges:
        raise header.error(f"the number of edges that follow, {len(rows)}, as the second number")
    found = _Edges()
    for line, words in rows:
        expected = f"'u v weight' with nodes from 1 to {nodes}"
        u, v = (line.whole(word, expected) for word in words[:2])
        if not (1 <= u <= nodes and 1 <= v <= nodes):
            raise line.error(expected)
        found.add(line, u - 1, v - 1, line.real(words[2], expected))
    return Graph(
        title=path.stem,
        names=tuple(str(n) for n in range(1, nodes + 1)),
        edges=found.ordered(),
    )


def _edge_list(path: Path, rows: _Rows) -> Graph:
    numbers: dict[str, int] = {}
    found = _Edges()
    for line, words in rows:
        expected = "'u v' or 'u v weight'"
        if len(words) not in (2, 3):
            raise line.error(expected)
        weight = line.real(words[2], f"{expected} with a number as weight") if words[2:] else 1.0
        u, v = (numbers.setdefault(word, len(numbers)) for word in words[:2])
        found.add(line, u, v, weight)
    return Graph(title=path.stem, names=tuple(numbers), edges=found.ordered())


class _Edges:
    """Collects edges and refuses loops and repetitions, naming both lines."""

    def __init__(self) -> None:
        self._weights: dict[tuple[int, int], float] = {}
        self._lines: dict[tuple[int, int], int] = {}

    def add(self, line: SourceLine, u: int, v: int, weight: float) -> None:
        if u == v:
            raise line.error("an edge between two different nodes")
        edge = (min(u, v), max(u, v))
        if edge in self._weights:
            raise line.error(f"every edge once; line {self._lines[edge]} has the same two nodes")
        self._weights[edge], self._lines[edge] = weight, line.number

    def ordered(self) -> tuple[tuple[int, int, float], ...]:
        return tuple((u, v, self._weights[u, v]) for u, v in sorted(self._weights))


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
