"""Graphs: both file formats, precise errors, and cuts that are as large as can be."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows._graphs import BUILT_IN, Graph, best_cut, from_file, graph_of
from flows._inputs import InputError
from tests.errors import naming


def _file(folder: Path, text: str) -> str:
    file = folder / "g.txt"
    file.write_text(text)
    return str(file)


def _random(nodes: int, seed: int, whole: bool = True) -> Graph:
    rng = np.random.default_rng(seed)
    pairs = [(u, v) for u in range(nodes) for v in range(u + 1, nodes) if rng.random() < 0.5]
    weights = rng.integers(-3, 6, len(pairs)) if whole else rng.normal(size=len(pairs))
    edges = tuple((u, v, float(w)) for (u, v), w in zip(pairs, weights, strict=True))
    return Graph(title="random", names=tuple(map(str, range(nodes))), edges=edges)


@pytest.mark.parametrize(
    ("name", "nodes", "edges", "cut"),
    [
        ("ring-10", 10, 10, 10),
        ("petersen", 10, 15, 12),
        ("mobius-12", 12, 18, 16),
        ("mobius-16", 16, 24, 22),
    ],
)
def test_built_in_graphs_are_what_they_are_called(
    name: str, nodes: int, edges: int, cut: float
) -> None:
    graph = graph_of(name)
    assert (graph.nodes, len(graph.edges)) == (nodes, edges)
    degrees = np.bincount([node for u, v, _ in graph.edges for node in (u, v)])
    assert len(set(degrees)) == 1
    found = best_cut(graph)
    assert found.is_exact
    assert found.value == graph.cut(found.sides) == cut


def test_an_edge_list_is_read(tmp_path: Path) -> None:
    text = "# a square\nalice bob\n\nbob, carol, 2.5   % heavy\ncarol dave -1\ndave alice 1e0\n"
    graph = from_file(_file(tmp_path, text))
    assert graph.names == ("alice", "bob", "carol", "dave")
    assert graph.edges == ((0, 1, 1.0), (0, 3, 1.0), (1, 2, 2.5), (2, 3, -1.0))


def test_gset_is_read(tmp_path: Path) -> None:
    graph = from_file(_file(tmp_path, "4 3\n1 2 1\n2 3 -1\n1 4 1\n"))
    assert graph.nodes == 4
    assert graph.names == ("1", "2", "3", "4")
    assert graph.edges == ((0, 1, 1.0), (0, 3, 1.0), (1, 2, -1.0))


def test_gset_may_have_nodes_without_edges(tmp_path: Path) -> None:
    assert from_file(_file(tmp_path, "9 1\n1 2 1\n")).nodes == 9


def test_a_first_edge_of_numbers_is_no_header_among_its_like(tmp_path: Path) -> None:
    assert len(from_file(_file(tmp_path, "1 2\n2 3\n3 1\n")).edges) == 3


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a b\na\n", 2, "'u v' or 'u v weight'"),
        ("a b 1 2\n", 1, "'u v' or 'u v weight'"),
        ("a b 1\nb c heavy\n", 2, "weight"),
        ("a b 1\nb c inf\n", 2, "finite"),
        ("a b\nc c\n", 2, "different"),
        ("a b\nb c\nb a\n", 3, naming("line 1")),
        ("3 2\n1 2 1\n2 4 1\n", 3, naming("nodes", 1, 3)),
        ("3 2\n1 2 1\n0 3 1\n", 3, naming("nodes", 1, 3)),
        ("3 5\n1 2 1\n2 3 1\n", 1, naming(2)),
        ("3 2\n1 2 1\n2 x 1\n", 3, "'u v weight'"),
        ("3 2\n1 2 1\n2 1 1\n", 3, naming("line 2")),
    ],
)
def test_a_malformed_file_names_line_and_expectation(
    text: str, line: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        from_file(_file(tmp_path, text))
    assert f"g.txt, line {line}:" in str(caught.value)


def test_a_file_of_comments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="comments"):
        from_file(_file(tmp_path, "# nothing\n"))


def test_a_graph_of_zero_weights_has_nothing_to_cut(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weight"):
        from_file(_file(tmp_path, "a b 0\nb c 0.0\n"))


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(InputError, match=naming("ring-10", "petersen")):
        graph_of("peterson")
    with pytest.raises(InputError, match=naming("folder/none.txt")):
        graph_of("folder/none.txt")


@given(nodes=st.integers(2, 8), seed=st.integers(0, 10_000), whole=st.booleans())
def test_the_best_cut_is_the_best_of_all(nodes: int, seed: int, whole: bool) -> None:
    graph = _random(nodes, seed, whole)
    largest = max(graph.cut(sides) for sides in product((0, 1), repeat=nodes))
    found = best_cut(graph)
    assert found.value == pytest.approx(largest)
    assert graph.cut(found.sides) == found.value


def test_twenty_nodes_are_cut_exactly_in_blocks() -> None:
    ring = Graph(
        title="ring",
        names=tuple(map(str, range(21))),
        edges=tuple(sorted((min(n, (n + 1) % 21), max(n, (n + 1) % 21), 1.0) for n in range(21))),
    )
    assert best_cut(ring).value == 20


def test_larger_graphs_are_searched_and_it_is_said() -> None:
    ladder = Graph(
        title="ladder",
        names=tuple(map(str, range(30))),
        edges=tuple((n, n + 1, 1.0) for n in range(29)),
    )
    found = best_cut(ladder, seed=1)
    assert not found.is_exact
    assert found.value >= 27
    assert found == best_cut(ladder, seed=1)


def test_built_in_names_are_the_titles() -> None:
    assert all(name == graph.title for name, graph in BUILT_IN.items())
