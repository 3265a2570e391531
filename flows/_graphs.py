"""Weighted graphs, built in or from files (edge lists, GSet, DIMACS), and their largest cuts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.suggestions import did_you_mean
from flows._inputs import InputError, SourceLine, is_whole, read_lines

__all__ = ["BUILT_IN", "Cut", "Graph", "best_cut", "from_file", "graph_of"]

_EXACT_UP_TO = 24
_RESTARTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An undirected graph without loops; edges are (u, v, weight) with u < v, nodes from 0."""

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


_MOST_NODES = 20_000
_EDGE = "'u v' or 'u v weight'"
_COMMENT = re.compile(r"(?:^|\s)[#%]")
_SEPARATOR = re.compile(r"[,;]")
_NAME = re.compile(r"-?\w")
_FROM = ("source", "from", "src", "u", "i", "node1", "tail", "start")
_TO = ("target", "to", "dst", "v", "j", "node2", "head", "end")
_WEIGHT = ("weight", "w", "value", "cost")
_DIMACS_LETTERS = ("a", "c", "e", "n", "p")

_Rows = Sequence[tuple[SourceLine, list[str]]]


def graph_of(source: str) -> Graph:
    """Return a built-in graph by name, or read a file. Raises `InputError`."""
    if source in BUILT_IN:
        return BUILT_IN[source]
    if not any(c in source for c in "/\\.") and not Path(source).exists():
        raise InputError(
            f"graph {source!r} is neither built in nor a file; expected a path or one of "
            f"{', '.join(BUILT_IN)}{did_you_mean(source, BUILT_IN)}"
        )
    return from_file(source)


def from_file(path: str) -> Graph:
    """Read an edge list, or a file in GSet's or DIMACS's format.

    - Edge list: ``u v [weight]`` per line, separated by spaces, tabs, commas or semicolons; the
      weight is 1 where it is left out. Nodes have any names. ``#`` and ``%`` begin comments. The
      first line may name the columns, such as ``source,target,weight``.
    - GSet: first ``nodes edges``, then exactly so many lines ``u v [weight]``. Nodes are counted
      from 1, or from 0 if there is a node 0 and none with the highest number.
    - DIMACS: ``c`` lines are comments, ``p edge nodes edges`` is the header, and ``e u v
      [weight]`` is an edge with nodes counted from 1. An edge may be given in both directions.

    Raises `InputError`, with the line where one is wrong or can be read in two ways.
    """
    lines = read_lines(path)
    if lines[0].text.startswith("%%MatrixMarket"):
        raise lines[0].error(f"an edge list, not a Matrix Market file; write each entry as {_EDGE}")
    if any(_is_problem(line.text.split()) for line in lines):
        return _weighted(_dimacs(Path(path), lines))
    rows = [(line, words) for line in lines if (words := _words(line))]
    if not rows:
        raise InputError(f"{path}: only comments; expected edges, {_EDGE} on each line")
    if _names_columns(rows):
        if not rows[1:]:
            raise rows[0][0].error(f"edges after the heading, {_EDGE} on each line")
        rows = rows[1:]
    sizes = _sizes(rows)
    if sizes is not None:
        return _weighted(_counted(Path(path), rows[0][0], sizes, rows[1:]))
    _check_kinds_of_names(rows)
    return _weighted(_edge_list(Path(path), rows))


def _words(line: SourceLine) -> list[str]:
    text = _COMMENT.split(line.text, maxsplit=1)[0].strip()
    marks = set(_SEPARATOR.findall(text))
    if not marks:
        return text.split()
    words = [word.strip() for word in _SEPARATOR.split(text)]
    if len(marks) > 1 or any(not word or " " in word or "\t" in word for word in words):
        raise line.error(f"{_EDGE} with one comma or semicolon between two entries, none empty")
    return words


def _names_columns(rows: _Rows) -> bool:
    """Whether the first line is a heading; nodes may have the same names as columns."""
    words = [word.lower() for word in rows[0][1]]
    columns = (_FROM, _TO, _WEIGHT)[: len(words)]
    if len(words) not in (2, 3) or not all(
        w in names for w, names in zip(words, columns, strict=False)
    ):
        return False
    nodes = {word.lower() for _, others in rows[1:] for word in others[:2]}
    return nodes.isdisjoint(words)


def _weighted(graph: Graph) -> Graph:
    if not any(weight for _, _, weight in graph.edges):
        raise InputError(f"{graph.title}: every weight is 0; expected some edge that counts")
    return graph


def _sizes(rows: _Rows) -> tuple[int, int] | None:
    """Return nodes and edges if the first line states them; raise `InputError` if ambiguous."""
    (first, header), others = rows[0], rows[1:]
    if len(header) != 2 or not others or not all(map(is_whole, header)):
        return None
    nodes, edges = (first.whole(word, "'nodes edges'") for word in header)
    if all(len(words) == 3 for _, words in others):
        return nodes, edges
    names = [word for _, words in others for word in words[:2]]
    if not all(map(is_whole, names)):
        return None
    known = {int(name) for name in names}
    if min(known) < 0 or max(known) > nodes:
        return None
    if edges == len(others) == nodes and _is_adjacency([words for _, words in others]):
        raise first.error(f"an edge list, not METIS's lists of neighbours; write {_EDGE} lines")
    pair = {nodes, edges}
    repeated = any({int(word) for word in words[:2]} == pair for _, words in others)
    if edges == len(others):
        if edges < nodes and not repeated:
            raise first.error(
                "either 'nodes edges' or an edge, and here it can be both; write "
                f"'p edge {nodes} {edges}' and 'e u v' lines, or move the edge further down"
            )
        return nodes, edges
    if edges > nodes + 1:
        raise first.error(f"the number of edges that follow, {len(others)}, as the second number")
    return None


def _is_adjacency(rows: Sequence[Sequence[str]]) -> bool:
    """Whether line i lists the neighbours of node i, counted from 1."""
    found = {(i, int(word)) for i, words in enumerate(rows, 1) for word in words}
    return all(i != j and (j, i) in found for i, j in found)


def _counted(path: Path, header: SourceLine, sizes: tuple[int, int], rows: _Rows) -> Graph:
    nodes, edges = sizes
    _check_sizes(header, nodes, edges)
    if len(rows) != edges:
        raise header.error(f"the number of edges that follow, {len(rows)}, as the second number")
    named = {word for _, words in rows for word in words[:2]}
    base = 0 if "0" in named and str(nodes) not in named else 1
    found = _Edges()
    for line, words in rows:
        found.add(line, *_numbered(line, words, base, nodes))
    return _graph(path, found, base, nodes)


def _dimacs(path: Path, lines: Sequence[SourceLine]) -> Graph:
    header: SourceLine | None = None
    nodes, edges, given = 0, 0, 0
    found = _Edges()
    for line in lines:
        words = line.text.split()
        if not words or words[0] == "c":
            continue
        if header is None:
            if not _is_problem(words) or words[1] not in ("edge", "col"):
                raise line.error("'p edge NODES EDGES' before any edge")
            header, nodes, edges = line, *(line.whole(word, "a number") for word in words[2:])
            _check_sizes(header, nodes, edges)
        elif words[0] != "e":
            raise line.error("a comment, 'c …', or an edge, 'e u v' or 'e u v weight'")
        else:
            given += 1
            found.add(line, *_numbered(line, words[1:], 1, nodes), may_be_mirrored=True)
    if header is not None and edges not in (given, len(found.ordered())):
        raise header.error(f"the number of edges that follow, {given}, as the last number")
    return _graph(path, found, 1, nodes)


def _is_problem(words: Sequence[str]) -> bool:
    """Whether a line is the header of a DIMACS file."""
    return len(words) == 4 and words[0] == "p" and all(map(is_whole, words[2:]))


def _check_sizes(header: SourceLine, nodes: int, edges: int) -> None:
    if nodes < 2 or edges < 1:
        raise header.error("the numbers of nodes and edges, at least two nodes and one edge")
    if nodes > _MOST_NODES:
        raise header.error(f"at most {_MOST_NODES} nodes")


def _numbered(line: SourceLine, words: list[str], base: int, nodes: int) -> tuple[int, int, float]:
    expected = f"'u v weight' with nodes from {base} to {nodes + base - 1}"
    if len(words) not in (2, 3):
        raise line.error(expected)
    u, v = (line.whole(word, expected) - base for word in words[:2])
    if not (0 <= u < nodes and 0 <= v < nodes):
        raise line.error(expected)
    return u, v, line.real(words[2], expected) if words[2:] else 1.0


def _graph(path: Path, found: _Edges, base: int, nodes: int) -> Graph:
    names = tuple(str(n) for n in range(base, nodes + base))
    return Graph(title=path.stem, names=names, edges=found.ordered())


def _check_kinds_of_names(rows: _Rows) -> None:
    """Refuse headers and comments that could pass for edges between nodes of odd names."""
    letters = [line for line, words in rows if words[0] in _DIMACS_LETTERS]
    others = [word for _, words in rows for word in words[words[0] in _DIMACS_LETTERS : 2] if word]
    if letters and all(map(is_whole, others)):
        raise letters[0].error(
            "an edge list, or 'p edge NODES EDGES' before the edges of a DIMACS file; if "
            f"{letters[0].text.split()[0]!r} is a node, give it a longer name"
        )
    numbered = any(all(map(is_whole, words[:2])) for _, words in rows)
    for line, words in rows:
        if numbered and not any(map(is_whole, words[:2])):
            raise line.error(
                f"{_EDGE} with numbers as names, as on other lines; a comment begins with #, and "
                "a heading, on the first line, is such as 'source target weight'"
            )


def _edge_list(path: Path, rows: _Rows) -> Graph:
    numbers: dict[str, int] = {}
    found = _Edges()
    for line, words in rows:
        if len(words) not in (2, 3):
            raise line.error(_EDGE)
        if not all(map(_NAME.match, words[:2])):
            raise line.error(f"{_EDGE} with names that begin with a letter or a digit")
        weight = line.real(words[2], f"{_EDGE} with a number as weight") if words[2:] else 1.0
        u, v = (numbers.setdefault(word, len(numbers)) for word in words[:2])
        found.add(line, u, v, weight)
    return Graph(title=path.stem, names=tuple(numbers), edges=found.ordered())


class _Edges:
    """Collects edges and refuses loops and repetitions, naming both lines."""

    def __init__(self) -> None:
        self._given: dict[tuple[int, int], tuple[tuple[int, int], float, int]] = {}

    def add(
        self, line: SourceLine, u: int, v: int, weight: float, *, may_be_mirrored: bool = False
    ) -> None:
        if u == v:
            raise line.error("an edge between two different nodes")
        edge = (min(u, v), max(u, v))
        known = self._given.get(edge)
        if known is None:
            self._given[edge] = ((u, v), weight, line.number)
        elif not (may_be_mirrored and known[:2] == ((v, u), weight)):
            raise line.error(f"every edge once; line {known[2]} has the same two nodes")

    def ordered(self) -> tuple[tuple[int, int, float], ...]:
        return tuple((u, v, self._given[u, v][1]) for u, v in sorted(self._given))
