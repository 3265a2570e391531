"""Independent sets on QPUs of different paradigms, of which only the name differs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import registry
from flows._conflict_graphs import conflict_graph
from flows._independent_sets import Conflicts, best_set, weight_of
from flows._inputs import InputError
from flows._rydberg_sets import sequence, sweep
from flows._set_samples import (
    SetSamples,
    from_choice,
    from_rows,
    greedy_set,
    made_independent,
    random_samples,
)
from flows._set_sampling import Choice, SampledPart
from flows.mis import mis, model, reference
from orchestrator.runs import Run
from tests.errors import naming
from tests.flows.by_definition import conflicts, is_independent, largest_weight

needs_engine = pytest.mark.usefixtures("prefect_server")
slow = pytest.mark.slow

Check = Callable[[dict[str, Any]], dict[str, Any]]
PATH = Conflicts(weights=(3.0, 4.0, 3.0, 1.0), edges=((0, 1), (1, 2)))
some = conflicts(7, st.integers(1, 9).map(float)).filter(lambda known: known.weights)


def members(mask: int) -> list[int]:
    return [node for node in range(mask.bit_length()) if mask >> node & 1]


@given(some)
def test_the_lowest_energy_is_the_largest_weight(known: Conflicts) -> None:
    found = model(known)
    rows = np.array(list(product((0, 1), repeat=len(known.weights))))
    energies = found.energies(rows)
    assert energies.min() == pytest.approx(-largest_weight(known))
    for row in rows[energies <= energies.min() + 1e-9]:
        assert is_independent(known, set(np.flatnonzero(row).tolist()))


@given(some, st.lists(st.tuples(st.integers(0, 127), st.integers(1, 9)), min_size=1))
def test_samples_are_made_independent_sets(known: Conflicts, drawn: Any) -> None:
    nodes = len(known.weights)
    rows = [[mask >> node & 1 for node in range(nodes)] for mask, _ in drawn]
    samples = from_rows(rows, [count for _, count in drawn])
    made = made_independent(samples, known)
    assert sum(made.values()) == samples.shots == sum(count for _, count in drawn)
    for mask in made:
        chosen = members(mask)
        assert is_independent(known, set(chosen))
        for node in set(range(nodes)) - set(chosen):  # nothing more fits
            assert not is_independent(known, {*chosen, node})
    good = sum(count for mask, count in samples.counts if is_independent(known, set(members(mask))))
    assert samples.independent_share(known) == good / samples.shots


@given(some, st.integers(0, 9))
def test_a_greedy_set_is_independent_and_no_better_than_the_best(known: Conflicts, seed) -> None:
    found = greedy_set(known, seed)
    assert is_independent(known, set(found))
    assert weight_of(known, found) <= largest_weight(known) + 1e-9


def test_greedy_searches_come_near_the_best_of_a_large_graph() -> None:
    known = conflict_graph("unit-disk-60", None, 3).conflicts
    best, found = (weight_of(known, way) for way in (best_set(known), greedy_set(known, 1)))
    assert 0.9 * best < found <= best


def test_samples_of_components_are_joined() -> None:
    part = SampledPart(nodes=(0, 1, 2), asked=(0, 2), counts={"01": 2, "11": 1})
    other = SampledPart(nodes=(4, 5), asked=(4, 5), counts={"10": 3})
    joined = from_choice(Choice(parts=(part, other), evaluations=1), 6, 3, seed=1)
    assert joined == SetSamples(counts=((0b100001, 2), (0b100101, 1)), asked=5)
    assert from_choice(Choice(parts=(), evaluations=0), 4, 3, seed=1).counts == ((0, 3),)


def test_random_samples_are_seeded() -> None:
    assert random_samples(9, 50, 3) == random_samples(9, 50, 3)
    assert random_samples(9, 50, 3) != random_samples(9, 50, 4)
    assert random_samples(9, 50, 3).shots == 50


def test_the_reference_says_whether_it_is_exact() -> None:
    small = reference.fn(PATH, 1)
    assert (small.nodes, small.weight, small.is_exact) == ((0, 2, 3), 7.0, True)
    large = reference.fn(conflict_graph("random-400", None, 1).conflicts, 1)
    assert not large.is_exact


METHODS = {"aer": "QAOA", "annealer": "annealing", "atoms": "Rydberg blockade"}


@pytest.fixture(params=METHODS)
def any_run(run_on: Callable[[str], Run], request: pytest.FixtureRequest) -> Run:
    if request.param == "annealer":
        pytest.importorskip("dwave.samplers", reason="the annealing extra is not installed")
    return run_on(request.param)


@pytest.fixture(params=["aer", "annealer"])
def either_run(run_on: Callable[[str], Run], request: pytest.FixtureRequest) -> Run:
    if request.param == "annealer":
        pytest.importorskip("dwave.samplers", reason="the annealing extra is not installed")
    return run_on(request.param)


@slow
@needs_engine
def test_one_graph_is_solved_and_only_the_qpu_differs(any_run: Run, kept: Check) -> None:
    result = kept(mis(shots=500))
    graph = conflict_graph("unit-disk-12", None, 1)
    chosen = {graph.names.index(name) for name in result["chosen"]}
    assert is_independent(graph.conflicts, chosen)
    assert result["weight"] == len(chosen) == largest_weight(graph.conflicts)
    assert (result["reference"], result["reference_is"]) == (result["weight"], "exact")
    assert (result["won"], result["ratio"]) == ("neither", 1.0)
    assert result["qpu"] == any_run.default_qpu
    assert result["method"] == METHODS[any_run.default_qpu]
    assert result["hit_share"] > 10 * result["random_hit_share"]
    assert 0 < result["best_share"] <= 1
    assert "<svg" in result["plot"]
    kinds = sorted((span.kind, span.state) for span in any_run.spans())
    assert kinds == [("classical", "completed"), ("quantum", "completed")]
    assert mis(shots=500) == result


@slow
@needs_engine
def test_weights_and_places_come_from_a_table(either_run: Run, kept: Check, tmp_path: Path) -> None:
    file = tmp_path / "sites.csv"
    file.write_text("name,x,y,weight\na,0,6,1\nb,-5,0,2\nc,0,0,5.5\nd,5,0,2\n")
    result = kept(mis(str(file), radius=6.5, shots=200, layers=2))
    assert result["weighted"]
    assert (result["chosen"], result["weight"]) == (["c"], 5.5)


@slow
@needs_engine
def test_a_large_graph_is_annealed_and_asked_of_gates_in_part(either_run: Run, kept: Check) -> None:
    result = kept(mis("random-80", shots=50, layers=1, qubits=6))
    assert result["reference_is"] != "exact"
    if result["method"] == "annealing":
        assert result["asked"] == 80
        assert result["ratio"] >= 1
    else:
        assert result["asked"] < 80
    assert ("asked about" in " ".join(result["summary"])) == (result["asked"] < 80)


@needs_engine
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"graph": "none.csv"}, naming("none.csv")),
        ({"graph": "petersen", "radius": 5.0}, naming("radius")),
        ({"radius": float("nan")}, naming("radius", "nan")),
        ({"shots": 0}, naming("shots", 0)),
        ({"shots": 10**6}, naming("shots", 10**6)),
        ({"layers": 0}, naming("layers", 0)),
        ({"qubits": 17}, naming("qubits", 17, 16)),
        ({"seed": -1}, naming("seed", -1)),
    ],
)
def test_what_cannot_be_solved_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        mis(**parameters)
    assert run.spans() == []


@needs_engine
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"graph": "petersen"}, naming("petersen", "coordinates", "atoms")),
        ({"graph": "unit-disk-15"}, naming(15, 14, "atoms")),
        ({"graph": "sites.csv", "radius": 6.5}, naming("sites", "weights", "atoms")),
        ({"graph": "wide.csv", "radius": 6.5}, naming("wide", "38 µm")),
        # Without an edge, and no room: atoms so near exclude each other all the same.
        ({"graph": "even.csv", "radius": 3.0}, naming("even", "µm", "radius")),
    ],
)
def test_what_atoms_cannot_represent_is_refused_before_any_stage(
    parameters: dict[str, Any],
    said: str,
    run_on: Callable[[str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sites.csv").write_text("x,y,weight\n0,6,1\n-5,0,2\n0,0,5.5\n")
    Path("even.csv").write_text("x,y\n0,0\n5,0\n60,0\n")
    Path("wide.csv").write_text("x,y\n0,0\n5,0\n200,0\n")
    run = run_on("atoms")
    with pytest.raises(InputError, match=said):
        mis(**parameters)
    assert run.spans() == []


def described_qpu(device: str) -> Any:
    target = registry.describe("rydberg", {"device": device})
    return SimpleNamespace(name="atoms", target=target)


@pytest.mark.parametrize("device", ["analog", "free"])
@pytest.mark.parametrize("nodes", [2, 5, 12, 14])
@pytest.mark.parametrize("seed", range(4))
def test_edges_are_blockaded_and_other_pairs_are_not(device: str, nodes: int, seed: int) -> None:
    qpu = described_qpu(device)
    graph = conflict_graph(f"unit-disk-{nodes}", None, seed)
    found = sweep(graph, qpu)
    radius_um = qpu.target.rydberg.blockade_radius_um(found.amplitude)
    for u in range(nodes):
        for v in range(u + 1, nodes):
            apart = float(np.linalg.norm(found.positions[u] - found.positions[v]))
            assert apart >= 5
            assert (apart < radius_um) == ((u, v) in graph.conflicts.edges)
    assert found.notes == ()
    assert qpu.target.rydberg.name in sequence(found, qpu)


def test_a_gap_that_is_too_narrow_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "narrow.csv"
    file.write_text("x,y\n0,0\n6,0\n12.1,0\n")
    found = sweep(conflict_graph(str(file), 6.05, 1), described_qpu("analog"))
    assert len(found.notes) == 1


@pytest.mark.parametrize("radius", [3.0, 6.0, 8.0])
def test_atoms_are_put_farther_apart_where_the_laser_is_too_weak(
    tmp_path: Path, radius: float
) -> None:
    file = tmp_path / "corner.csv"
    file.write_text("x,y\n0,0\n5,0\n0,5\n")
    qpu = described_qpu("analog")
    graph = conflict_graph(str(file), radius, 1)
    found = sweep(graph, qpu)
    blockaded_um = qpu.target.rydberg.blockade_radius_um(found.amplitude)
    pairs = [(0, 1), (0, 2), (1, 2)]
    near = {pair for pair in pairs if _apart(found, *pair) < blockaded_um}
    assert near == set(graph.conflicts.edges)
    sequence(found, qpu)


def _apart(found: Any, u: int, v: int) -> float:
    return float(np.linalg.norm(found.positions[u] - found.positions[v]))


def test_a_graph_that_no_distances_tell_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "even.csv"
    file.write_text("x,y\n0,0\n5,0\n60,0\n")
    with pytest.raises(InputError, match=naming("even", "µm", "radius")):
        sweep(conflict_graph(str(file), 3.0, 1), described_qpu("analog"))
