"""Graph files: a line that is not an edge is understood or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows._graphs import from_file
from flows._inputs import InputError
from tests.errors import naming

SQUARE = {(1, 2), (2, 3), (3, 4), (1, 4)}


def _file(folder: Path, text: str) -> str:
    file = folder / "g.txt"
    file.write_text(text)
    return str(file)


def _pairs(path: str) -> set[tuple[str, str]]:
    graph = from_file(path)
    return {(graph.names[u], graph.names[v]) for u, v, _ in graph.edges}


FORMS = {
    "spaces": "1 2\n2 3\n3 4\n1 4\n",
    "tabs": "1\t2\n2\t3\n3\t4\n1\t4\n",
    "commas": "1,2\n2, 3\n3 ,4\n1,4\n",
    "semicolons": "1;2;1\n2;3;1\n3;4;1\n1;4;1.0e0\n",
    "comments": "# 1 3\n1 2 # one\n% 2 4\n2 3\n\n3 4 %two\n1 4\n",
    "heading": "source,target\n1,2\n2,3\n3,4\n1,4\n",
    "heading with weight": "From To Weight\n1 2 1\n2 3 1\n3 4 1\n1 4 1\n",
    "sizes, unweighted": "4 4\n1 2\n2 3\n3 4\n1 4\n",
    "sizes, weighted": "4 4\n1 2 1\n2 3 1\n3 4 1\n1 4 1\n",
    "DIMACS": "c a square\nc 1 3\np edge 4 4\ne 1 2\ne 2 3\ne 3 4\nc e 2 4\ne 1 4\n",
    "DIMACS in both directions": "p col 4 8\n"
    + "".join(f"e {u} {v}\ne {v} {u}\n" for u, v in sorted(SQUARE)),
    "DIMACS with weights": "p edge 4 4\ne 1 2 1\ne 2 3 1.0\ne 3 4 1\ne 1 4 1\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_one_graph_in_every_form_is_one_graph(form: str, tmp_path: Path) -> None:
    path = _file(tmp_path, FORMS[form])
    assert {tuple(sorted(pair)) for pair in _pairs(path)} == {(str(u), str(v)) for u, v in SQUARE}
    graph = from_file(path)
    assert graph.nodes == 4
    assert {weight for _, _, weight in graph.edges} == {1.0}


def test_sizes_may_count_from_zero(tmp_path: Path) -> None:
    for text in ("3 2\n0 1 1\n1 2 5\n", "4 5\n0 1\n1 2\n2 3\n3 0\n0 2\n", "9 1\n0 1 1\n"):
        graph = from_file(_file(tmp_path, text))
        assert graph.nodes == int(text[0])
        assert graph.names[0] == "0"


def test_nodes_may_be_called_as_columns_are(tmp_path: Path) -> None:
    assert _pairs(_file(tmp_path, "u v\nv w\nw u\n")) == {("u", "v"), ("u", "w"), ("v", "w")}
    assert _pairs(_file(tmp_path, "c e\ne p\np c\n")) == {("c", "e"), ("c", "p"), ("e", "p")}


def test_a_first_edge_that_looks_like_sizes_is_an_edge(tmp_path: Path) -> None:
    assert len(_pairs(_file(tmp_path, "4 5\n3 4\n2 3\n1 2\n"))) == 4  # a path, from its end
    assert len(_pairs(_file(tmp_path, "1 3\n1 2\n2 3\n1 4\n"))) == 4
    assert len(_pairs(_file(tmp_path, "10 7\n7 3\n3 10\n"))) == 3


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("4 3\n1 2\n2 3\n1 4\n", 1, "both"),  # a path or a ring
        ("5 9\n1 2\n2 3\n3 4\n4 5\n", 1, naming(4)),
        ("5 5\n2 5\n1 3\n2 4\n3 5\n1 4\n", 1, "METIS"),
        ("3 2\n0 1\n2 3\n", 2, naming("nodes", 1, 3)),
        ("%%MatrixMarket matrix coordinate pattern symmetric\n4 4 1\n1 2\n", 1, "Matrix Market"),
        ("c generated\n1 2\n2 3\n", 1, "numbers"),
        ("1 2\n2 3\nc 1993\n", 3, "DIMACS"),
        ("e 1 2\ne 2 3\n", 1, "DIMACS"),
        ("nodes edges\n1 2\n2 3\n", 1, "numbers"),
        ("id,source,target\n1,1,2\n2,2,3\n", 1, "numbers"),
        ("weight,source,target\n5,1,2\n", 1, "numbers"),
        ("source,target\n", 1, "edges"),
        ("p edge 4 1\np edge 4 1\ne 1 2\n", 2, "'e u v'"),
        ("e 1 2\np edge 4 1\n", 1, "before"),
        ("p sp 4 1\na 1 2 3\n", 1, "'p edge NODES EDGES'"),
        ("p edge 4 2\ne 1 2\n", 1, naming(1)),
        ("p edge 4 1\nn 1 3\ne 1 2\n", 2, "'e u v'"),
        ("p edge 4 1\ne 0 2\n", 2, naming("nodes", 1, 4)),
        ("p edge 4 1\ne 1 5\n", 2, naming("nodes", 1, 4)),
        ("p edge 4 2\ne 1 2\ne 1 2\n", 3, naming("line 2")),
        ("p edge 4 2\ne 1 2 3\ne 2 1 4\n", 3, naming("line 2")),
        ("p edge 4 1\ne 1 2 x\n", 2, "'u v weight'"),
        ("p edge 1000000000 1\ne 1 2\n", 1, naming(20000)),
        ("1000000000 1\n1 2 1\n", 1, naming(20000)),
        ("a,,3\n", 1, "empty"),
        ("a,b,\n", 1, "empty"),
        ("a b,3\n", 1, "empty"),
        ("a;b,3\n", 1, "empty"),
        ("1;2;0,5\n", 1, "empty"),
        ("graph {\na -- b\n", 1, "letter"),
        ("// hello\na b\n", 1, "letter"),
        ("*Edges 4\na b\n", 1, "letter"),
        ("a b 1_0\n", 1, "weight"),
        ("a b ٣\n", 1, "weight"),
        ("a b 0x10\n", 1, "weight"),
        ("a b 1e999\n", 1, "finite"),
    ],
)
def test_what_is_no_edge_is_not_taken_for_one(
    text: str, line: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        from_file(_file(tmp_path, text))
    assert f"g.txt, line {line}:" in str(caught.value)


def test_hashes_within_names_are_part_of_them(tmp_path: Path) -> None:
    assert _pairs(_file(tmp_path, "a#1 b%2\nb%2 c#3 # a comment\n")) == {
        ("a#1", "b%2"),
        ("b%2", "c#3"),
    }


def test_random_graphs_are_the_same_in_every_format(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        nodes = int(rng.integers(3, 9))
        adjacent = np.triu(rng.random((nodes, nodes)) < 0.5, 1)
        edges = [(int(u) + 1, int(v) + 1) for u, v in np.argwhere(adjacent)]
        if not edges:
            continue
        weights = [round(float(w), 3) or 1.0 for w in rng.normal(size=len(edges))]
        swapped = [(v, u) if rng.random() < 0.5 else (u, v) for u, v in edges]
        truth = {(str(u), str(v), w) for (u, v), w in zip(edges, weights, strict=True)}
        lines = [f"{u} {v} {w}" for (u, v), w in zip(swapped, weights, strict=True)]
        rng.shuffle(lines)
        body = "\n".join(lines)
        for text in (
            f"{nodes} {len(edges)}\n{body}\n",
            f"c x\np edge {nodes} {len(edges)}\ne " + body.replace("\n", "\ne ") + "\n",
            body.replace(" ", ","),
            f"i;j;w\n{body.replace(' ', ';')}",
        ):
            graph = from_file(_file(tmp_path, text))
            found = {(*sorted((graph.names[u], graph.names[v])), w) for u, v, w in graph.edges}
            assert found == truth, text


def test_unweighted_files_with_sizes_are_that_graph_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    refused = 0
    for _ in range(300):
        nodes = int(rng.integers(3, 9))
        pairs = [(u, v) for u in range(1, nodes + 1) for v in range(u + 1, nodes + 1)]
        edges = [pairs[i] for i in rng.permutation(len(pairs))[: rng.integers(2, len(pairs) + 1)]]
        text = f"{nodes} {len(edges)}\n" + "".join(f"{u} {v}\n" for u, v in edges)
        try:
            graph = from_file(_file(tmp_path, text))
        except InputError:
            refused += 1
        else:
            assert graph.nodes == nodes
            assert {(u + 1, v + 1) for u, v, _ in graph.edges} == set(edges)
    assert refused < 100
