"""Graphs of nodes that exclude each other: generated, built in, from tables and edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows._conflict_graphs import SPACING_UM, ConflictGraph, conflict_graph
from flows._inputs import InputError
from flows._mis_picture import layout
from tests.errors import naming


def unit_disk_edges(graph: ConflictGraph) -> list[tuple[int, int]]:
    places, radius = graph.positions, graph.radius_um
    assert places is not None
    assert radius is not None
    return [
        (u, v)
        for u in range(graph.nodes)
        for v in range(u + 1, graph.nodes)
        if np.hypot(*(places[u] - places[v])) <= radius
    ]


@pytest.mark.parametrize("nodes", [2, 12, 60])
def test_a_generated_unit_disk_graph_is_one(nodes: int) -> None:
    graph = conflict_graph(f"unit-disk-{nodes}", None, 1)
    assert graph.nodes == nodes
    assert list(graph.conflicts.edges) == unit_disk_edges(graph)
    assert graph.positions is not None
    sites = graph.positions / SPACING_UM
    assert len(np.unique(sites, axis=0)) == nodes
    np.testing.assert_array_equal(sites, sites.round())
    for u, v in graph.conflicts.edges:
        assert np.abs(sites[u] - sites[v]).max() == 1
    again = conflict_graph(f"unit-disk-{nodes}", None, 1)
    assert again.conflicts == graph.conflicts
    if nodes == 60:
        assert conflict_graph("unit-disk-60", None, 2).conflicts != graph.conflicts


def test_a_random_graph_has_three_neighbours_on_average() -> None:
    graph = conflict_graph("random-400", None, 5)
    assert 2.5 < 2 * len(graph.conflicts.edges) / 400 < 3.5
    assert graph.positions is None
    assert len(conflict_graph("random-2", None, 5).conflicts.edges) == 1


def test_a_built_in_graph_keeps_its_edges() -> None:
    graph = conflict_graph("petersen", None, 1)
    assert (graph.nodes, len(graph.conflicts.edges)) == (10, 15)
    assert not graph.is_weighted


def test_an_edge_list_is_read_and_its_weights_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "path.txt"
    file.write_text("a b 2\nb c\n")
    graph = conflict_graph(str(file), None, 1)
    assert graph.names == ("a", "b", "c")
    assert graph.conflicts.edges == ((0, 1), (1, 2))
    assert len(graph.notes) == 1


@pytest.mark.parametrize(
    ("text", "names", "weights"),
    [
        ("x,y\n0,0\n3,4\n9,0\n", ("0", "1", "2"), (1, 1, 1)),
        ("# sites\nname;x;y;weight\na;0;0;2\nb;3;4;1\nc;9;0;0.5\n", ("a", "b", "c"), (2, 1, 0.5)),
        ('Y\tX\tnode\n0\t0\t"1"\n4\t3\t"2"\n0\t9\t"3"\n', ("1", "2", "3"), (1, 1, 1)),
    ],
)
def test_a_table_of_nodes_is_read(tmp_path, text, names, weights) -> None:
    file = tmp_path / "sites.csv"
    file.write_text(text)
    graph = conflict_graph(str(file), 5.0, 1)
    assert graph.names == names
    assert graph.conflicts.weights == weights
    assert graph.conflicts.edges == ((0, 1),)
    assert graph.positions is not None
    assert graph.positions.tolist() == [[0, 0], [3, 4], [9, 0]]


@pytest.mark.parametrize(
    ("text", "radius", "named"),
    [
        ("x,y\n0,0\n3,4\n", None, ["radius"]),
        ("x,y\n0,0\n", 5.0, [1, 2]),
        ("x,y\n0,0\n3\n", 5.0, ["line 3", 2]),
        ("x,y\n0,0\n3,east\n", 5.0, ["line 3", "east"]),
        ("x,y\n0,0\n3,nan\n", 5.0, ["line 3", "nan"]),
        ("x,y,z\n0,0,0\n3,4,1\n", 5.0, ["line 1", "name"]),
        ("x,y,x\n0,0,0\n3,4,1\n", 5.0, ["line 1"]),
        ("x,y,w\n0,0,1\n3,4,0\n", 5.0, ["line 3", "above 0"]),
        ("id,x,y\na,0,0\na,3,4\n", 5.0, ["line 3", "line 2"]),
        ("x,y\n0,0\n0,0\n", 5.0, ["same place"]),
        ('x,y\n0,0\n"3,4\n', 5.0, ["line 3", "quotes"]),
        ("x,y\n0,0\n1e12,4\n", 5.0, ["1e9"]),
        ("a b\nb c\n", 5.0, ["radius"]),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, text, radius, named) -> None:
    file = tmp_path / "sites.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=naming(*named)):
        conflict_graph(str(file), radius, 1)


@pytest.mark.parametrize(
    ("source", "radius", "named"),
    [
        ("unit-disk-1", None, ["unit-disk-1", 2]),
        ("unit-disk-999999", None, [2000]),
        ("unit-disc-12", None, ["unit-disc-12", "unit-disk-N"]),
        ("petersem", None, ["petersem", "petersen"]),
        ("unit-disk-12", 5.0, ["radius", 5]),
        ("ring-10", 5.0, ["radius", 5]),
        ("none.csv", None, ["none.csv"]),
    ],
)
def test_names_that_mean_nothing_are_refused(source, radius, named) -> None:
    with pytest.raises(InputError, match=naming(*named)):
        conflict_graph(source, radius, 1)


def test_a_graph_without_positions_is_laid_out_apart() -> None:
    places = layout(conflict_graph("petersen", None, 1))
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(10, 1)]
    assert apart.min() > 0.1
    assert np.isfinite(places).all()
    assert layout(conflict_graph("random-500", None, 1)).shape == (500, 2)
