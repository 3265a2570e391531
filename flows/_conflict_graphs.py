"""Graphs whose nodes exclude each other: generated, built in, or from files."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from backends.suggestions import did_you_mean
from flows._graphs import BUILT_IN, Graph, from_file
from flows._independent_sets import Conflicts
from flows._inputs import InputError, SourceLine, read_lines

__all__ = ["MOST_NODES", "SPACING_UM", "ConflictGraph", "conflict_graph"]

_Positions = NDArray[np.float64]

MOST_NODES = 2000
# Between sites of a generated unit-disk graph: what arrays of neutral atoms have.
SPACING_UM = 5.5
_FILLING = 0.7
# Neighbours and diagonal neighbours on the lattice exclude each other, sites two apart do not.
_REACH = math.sqrt(2 * math.sqrt(2))
_MEAN_NEIGHBOURS = 3.0
_GENERATED = re.compile(r"(unit-disk|random)-([1-9]\d{0,5})")
_X, _Y = ("x", "x_um"), ("y", "y_um")
_NAME, _WEIGHT = ("name", "node", "id", "label"), ("weight", "w")
_POINT = "'name,x,y' or 'name,x,y,weight', coordinates in µm"


@dataclass(frozen=True, eq=False, kw_only=True)
class ConflictGraph:
    """Nodes, of which two that share an edge exclude each other.

    conflicts: weights and edges. positions: µm, shape (nodes, 2), None where the graph has none.
    radius_um: nodes nearer than that share an edge, and no others; None without positions. notes:
    what of the file was not used.
    """

    title: str
    names: tuple[str, ...]
    conflicts: Conflicts
    positions: _Positions | None = None
    radius_um: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.names)

    @property
    def is_weighted(self) -> bool:
        """Whether the nodes have different weights."""
        return len(set(self.conflicts.weights)) > 1


def conflict_graph(source: str, radius_um: float | None, seed: int) -> ConflictGraph:
    """Return a graph by name, or read a file. Raises `InputError`.

    Args:
        source: ``unit-disk-N`` or ``random-N`` for N nodes; one of `flows._graphs.BUILT_IN`; the
            path of an edge list in any format of `flows._graphs.from_file`; or that of a table of
            nodes, whose first line names the columns ``x`` and ``y`` and perhaps ``name`` and
            ``weight``.
        radius_um: For a table of nodes: nodes nearer than that exclude each other.
        seed: Of what is generated.
    """
    generated = _GENERATED.fullmatch(source)
    if generated and not Path(source).exists():
        nodes = int(generated[2])
        if not 2 <= nodes <= MOST_NODES:
            raise InputError(f"graph {source!r}: expected 2 to {MOST_NODES} nodes")
        _no_radius(radius_um, source)
        made = _unit_disk if generated[1] == "unit-disk" else _random
        return made(source, nodes, np.random.default_rng(seed))
    if source in BUILT_IN:
        _no_radius(radius_um, source)
        return _from_edges(BUILT_IN[source])
    if not any(c in source for c in "/\\.") and not Path(source).exists():
        known = ("unit-disk-N", "random-N", *BUILT_IN)
        raise InputError(
            f"graph {source!r} is neither generated nor built in nor a file; expected a path or one "
            f"of {', '.join(known)}{did_you_mean(source, known)}"
        )
    rows = _table(source)
    if rows is not None:
        if radius_um is None:
            raise InputError(
                f"{source} has coordinates and no edges; give radius=MICROMETRES: nodes nearer than "
                "that exclude each other"
            )
        return _from_points(Path(source), rows, radius_um)
    _no_radius(radius_um, source)
    graph = from_file(source)
    if graph.nodes > MOST_NODES:
        raise InputError(f"{source}: {graph.nodes} nodes; expected at most {MOST_NODES}")
    return _from_edges(graph)


def _no_radius(radius_um: float | None, source: str) -> None:
    if radius_um is not None:
        raise InputError(
            f"radius {radius_um:g}: {source} states its edges; leave radius out, which is for tables "
            "of nodes with coordinates"
        )


def _unit_disk(title: str, nodes: int, rng: np.random.Generator) -> ConflictGraph:
    """Fill sites of a square lattice at random (Ebadi et al., arXiv:2202.09372)."""
    side = math.ceil(math.sqrt(nodes / _FILLING))
    sites = np.sort(rng.permutation(side * side)[:nodes])
    positions = SPACING_UM * np.column_stack([sites % side, sites // side]).astype(np.float64)
    return _disk(
        title, tuple(map(str, range(nodes))), positions, [1.0] * nodes, _REACH * SPACING_UM
    )


def _random(title: str, nodes: int, rng: np.random.Generator) -> ConflictGraph:
    """Join each pair with the same probability, so that a node has three neighbours on average."""
    share = min(1.0, _MEAN_NEIGHBOURS / (nodes - 1))
    upper = np.triu(rng.random((nodes, nodes)) < share, 1)
    edges = tuple((int(u), int(v)) for u, v in np.argwhere(upper))
    names = tuple(map(str, range(nodes)))
    return ConflictGraph(
        title=title, names=names, conflicts=Conflicts(weights=(1.0,) * nodes, edges=edges)
    )


def _from_edges(graph: Graph) -> ConflictGraph:
    weighted = any(weight != 1 for _, _, weight in graph.edges)
    return ConflictGraph(
        title=graph.title,
        names=graph.names,
        conflicts=Conflicts(
            weights=(1.0,) * graph.nodes, edges=tuple((u, v) for u, v, _ in graph.edges)
        ),
        notes=("The weights of edges do not count: an edge excludes.",) if weighted else (),
    )


def _disk(
    title: str,
    names: tuple[str, ...],
    positions: _Positions,
    weights: Sequence[float],
    radius_um: float,
) -> ConflictGraph:
    pairs = cKDTree(positions).query_pairs(radius_um)
    edges = tuple(sorted((min(pair), max(pair)) for pair in pairs))
    return ConflictGraph(
        title=title,
        names=names,
        conflicts=Conflicts(weights=tuple(weights), edges=edges),
        positions=positions,
        radius_um=radius_um,
    )


_Rows = list[tuple[SourceLine, list[str]]]


def _table(path: str) -> _Rows | None:
    """Return the lines of a table of nodes, heading first; None for any other file."""
    lines = [line for line in read_lines(path) if line.text.strip()[:1] not in ("", "#")]
    if not lines:
        return None
    separator = next((mark for mark in ",;\t" if mark in lines[0].text), None)
    if separator is None:
        return None
    heading = {cell.strip().lower() for cell in lines[0].text.split(separator)}
    if heading.isdisjoint(_X) or heading.isdisjoint(_Y):
        return None
    rows: _Rows = []
    for line in lines:
        try:
            (cells,) = csv.reader([line.text], delimiter=separator, strict=True)
        except (csv.Error, ValueError):
            raise line.error("quotes that are closed in the same line") from None
        rows.append((line, [cell.strip() for cell in cells]))
    return rows


def _from_points(path: Path, rows: _Rows, radius_um: float) -> ConflictGraph:
    (first, heading), *others = rows
    columns = [cell.lower() for cell in heading]
    unknown = [c for c in columns if c not in (*_X, *_Y, *_NAME, *_WEIGHT)]
    if unknown or len(set(columns)) < len(columns):
        raise first.error("columns called name, x, y and weight, each once")
    if not 2 <= len(others) <= MOST_NODES:
        raise InputError(f"{path}: {len(others)} nodes; expected 2 to {MOST_NODES}, {_POINT}")
    name, weight = (_column(columns, names) for names in (_NAME, _WEIGHT))
    x, y = (columns.index(next(c for c in columns if c in names)) for names in (_X, _Y))
    names, weights, places = [], [], []
    seen: dict[str, int] = {}
    for number, (line, cells) in enumerate(others):
        if len(cells) != len(columns):
            raise line.error(f"{len(columns)} columns, as in the first line")
        names.append(str(number) if name is None else cells[name])
        if names[-1] in seen:
            raise line.error(f"every node once; line {seen[names[-1]]} has the same name")
        seen[names[-1]] = line.number
        places.append([line.real(cells[x], _POINT), line.real(cells[y], _POINT)])
        weights.append(1.0 if weight is None else line.real(cells[weight], _POINT))
        if weights[-1] <= 0:
            raise line.error("a weight above 0")
    positions = np.array(places)
    if len(np.unique(positions, axis=0)) < len(positions):
        raise InputError(f"{path}: two nodes are at the same place; expected different coordinates")
    if not np.abs(positions).max() < 1e9:
        raise InputError(f"{path}: coordinates of more than 1e9 µm")
    return _disk(path.stem, tuple(names), positions, weights, radius_um)


def _column(columns: Sequence[str], names: Sequence[str]) -> int | None:
    return next((index for index, column in enumerate(columns) if column in names), None)
