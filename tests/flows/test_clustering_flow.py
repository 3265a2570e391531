"""Clustering through Prefect, Dask, the broker and Aer, as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="the clustering extra is not installed")

from flows._clusterings import clustered, completed, trials, useful
from flows._independent_sets import Conflicts, best_set, components, weight_of
from flows._inputs import InputError
from flows._points import Points, generated
from flows._set_sampling import Choice, SampledPart, decided, shares
from flows.clustering import clustering
from orchestrator.runs import Run
from tests.errors import naming
from tests.flows import by_definition
from tests.flows.repeated import differences

needs_engine = pytest.mark.usefixtures("prefect_server")
slow = pytest.mark.slow


Check = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(params=["aer", "helmi"])
def either_run(run_on: Callable[[str], Run], request: pytest.FixtureRequest) -> Run:
    return run_on(request.param)


@pytest.fixture
def checked(kept: Check) -> Check:
    """Return what checks the iterations of a result, too."""

    def check(result: dict[str, Any]) -> dict[str, Any]:
        assert len(kept(result)["table"]["rows"]) == len(result["iterations"])
        assert "<svg" in result["plot"]
        for record in result["iterations"]:
            assert 0 < record["weight"] <= record["exact_weight"] + 1e-9
            assert len(record["bases"]) == 3
        return result

    return check


def _checks_silhouettes(result: dict[str, Any], points: Points, clusters: int | None) -> None:
    """Compare the silhouettes with those of the labels, and of all clusterings that were tried."""
    scaled = points.scaled()

    def mean(labels: Any) -> float:
        return float(np.mean(by_definition.silhouettes(scaled, labels)))

    assert result["silhouette"] == pytest.approx(mean(np.array(result["labels"])))
    most = points.distinct() // 2
    tried = [clustered(scaled, one) for one in trials(0, clusters, None, 1, most)]
    best = max(mean(completed(scaled, one.labels)) for one in tried if useful(one))
    assert result["iterations"][0]["best_single"] == pytest.approx(best)
    single = result["best_single"]["silhouette"]
    assert single >= best - 1e-9
    assert result["difference"] == pytest.approx(result["silhouette"] - single, abs=1e-12)


@slow
@needs_engine
def test_generated_points_are_clustered(either_run: Run, checked: Check) -> None:
    result = checked(clustering(iterations=2, shots=256))
    points = generated(1)
    _checks_silhouettes(result, points, None)
    known = by_definition.adjusted_rand(result["labels"], points.truth)
    assert result["agreement"]["consensus"] == pytest.approx(known)
    assert (result["points"], result["dimensions"]) == (240, 2)
    assert result["clusters"] == 5
    assert result["agreement"]["consensus"] > 0.95
    assert len(result["labels"]) == 240
    kinds = [(span.kind, span.state) for span in either_run.spans()]
    assert sorted(kinds) == [("classical", "completed")] * 6 + [("quantum", "completed")] * 2
    assert not differences(result, clustering(iterations=2, shots=256))


@slow
@needs_engine
def test_a_file_is_sampled_and_a_good_consensus_ends_the_search(
    either_run: Run, checked: Check, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    rows = [
        f"{1e200 * (x + 8 * (n % 3))};{1e200 * y};0;{'abc'[n % 3]}"
        for n, (x, y) in enumerate(rng.normal(size=(300, 2)))
    ]
    file = tmp_path / "three groups.csv"
    file.write_text("\n".join(["x;y;z;Label", *rows]))
    result = checked(clustering(str(file), clusters=3, sample=60, good_enough=0.5, seed=2))
    assert (result["points"], result["dimensions"], result["clusters"]) == (300, 3, 3)
    assert len(result["iterations"]) == 1
    groups = [set(result["labels"][start::3]) for start in range(3)]
    assert sorted(map(len, groups)) == [1, 1, 1]
    assert len(set.union(*groups)) == 3


@needs_engine
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"points": "none.csv"}, naming("none.csv")),
        ({"clusters": 1}, naming("clusters", 1, 2)),
        ({"clusters": 21}, naming("clusters", 21)),
        ({"iterations": 0}, naming("iterations", 0)),
        ({"good_enough": 1.5}, naming("good_enough", 1.5)),
        ({"good_enough": float("nan")}, naming("good_enough")),
        ({"layers": 0}, naming("layers", 0)),
        ({"shots": 0}, naming("shots", 0)),
        ({"qubits": 1}, naming("qubits", 1, 2)),
        ({"sample": 9}, naming("sample", 9, 10)),
        ({"sample": 20, "clusters": 12}, naming("20", "24")),
        ({"seed": -1}, naming("seed", -1)),
    ],
)
def test_what_cannot_be_clustered_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        clustering(**parameters)
    assert run.spans() == []


@needs_engine
def test_equal_points_are_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "equal.csv"
    file.write_text("1,2\n" * 40)
    with pytest.raises(InputError, match=naming("equal", 1, 40)):
        clustering(str(file))


PATH = Conflicts(weights=(3.0, 4.0, 3.0, 1.0, 2.0), edges=((0, 1), (1, 2)))


@pytest.mark.parametrize(
    ("asked", "counts", "chosen"),
    [
        ((0, 1, 2), {"010": 90, "101": 1}, (0, 2, 3, 4)),
        ((0, 1, 2), {"010": 90}, (1, 3, 4)),
        ((0, 1, 2), {"111": 5}, (1, 3, 4)),  # the heaviest of those in conflict stays
        ((0, 1), {"01": 5}, (0, 2, 3, 4)),  # what was not asked is added where it fits
        ((1,), {}, (1, 3, 4)),
    ],
)
def test_the_choice_is_the_best_sample_made_consistent(asked, counts, chosen) -> None:
    part = SampledPart(nodes=(0, 1, 2), asked=asked, counts=counts)
    found = decided(PATH, Choice(parts=(part,), evaluations=0))
    assert found == chosen
    assert weight_of(PATH, found) <= weight_of(PATH, best_set(PATH))


@st.composite
def sampled_choices(draw: Any) -> tuple[Conflicts, Choice]:
    """Return conflicts, and counts of any bits for any of the nodes of each component."""
    # Whole weights, so that several sets are the best.
    known = draw(by_definition.conflicts(7, st.integers(1, 4).map(float)))
    parts = []
    for nodes in components(known):
        if len(nodes) < 2:
            continue
        chosen = draw(st.sets(st.sampled_from(nodes), min_size=1))
        asked = tuple(node for node in nodes if node in chosen)
        counts = {}
        if len(asked) > 1:
            bits = st.text("01", min_size=len(asked), max_size=len(asked))
            counts = draw(st.dictionaries(bits, st.integers(1, 9), min_size=1))
        parts.append(SampledPart(nodes=nodes, asked=asked, counts=counts))
    return known, Choice(parts=tuple(parts), evaluations=0)


@given(sampled_choices())
def test_shares_are_of_the_bits_that_are_a_best_choice(case: tuple[Conflicts, Choice]) -> None:
    known, choice = case
    optimal = random = 1.0
    for part in choice.parts:
        if not part.counts:
            continue
        width, sets = len(part.asked), {}
        for bits in map("".join, product("01", repeat=width)):
            nodes = {part.asked[width - 1 - n] for n, bit in enumerate(bits) if bit == "1"}
            if by_definition.is_independent(known, nodes):
                sets[bits] = sum(known.weights[node] for node in nodes)
        best = {bits for bits, weight in sets.items() if weight == max(sets.values())}
        hits = sum(count for bits, count in part.counts.items() if bits in best)
        optimal *= hits / sum(part.counts.values())
        random *= len(best) / 2**width
    assert shares(known, choice) == pytest.approx((optimal, random))


@given(sampled_choices())
def test_the_choice_is_as_good_as_every_consistent_sample(case: tuple[Conflicts, Choice]) -> None:
    known, choice = case
    found = decided(known, choice)
    assert by_definition.is_independent(known, found)
    assert weight_of(known, found) <= by_definition.largest_weight(known)
    for part in choice.parts:
        ours = sum(known.weights[node] for node in found if node in part.nodes)
        for bits in part.counts:
            nodes = {n for n, bit in zip(reversed(part.asked), bits, strict=True) if bit == "1"}
            if by_definition.is_independent(known, nodes):
                assert ours >= sum(known.weights[node] for node in nodes)
