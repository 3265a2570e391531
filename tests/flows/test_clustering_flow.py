"""Clustering through Prefect, Dask, the broker and Aer, as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="the clustering extra is not installed")

from flows._independent_sets import Conflicts, best_set, components, weight_of
from flows._inputs import InputError
from flows.clustering import Choice, SampledPart, _shares, clustering, decided
from orchestrator import resources, runs
from orchestrator.config.site import ComputeSettings, QpuSettings, Site
from orchestrator.runs import Run
from tests.errors import naming
from tests.flows import by_definition

needs_engine = pytest.mark.usefixtures("prefect_server")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An ideal simulator and the smallest device with noise."""
    yield Site(
        name="test",
        default_qpu="aer",
        default_compute="local",
        qpus={
            "aer": QpuSettings(name="aer", backend="aer"),
            "helmi": QpuSettings(
                name="helmi", backend="aer", options={"profile": "helmi", "time_scale": 0}
            ),
        },
        computes={"local": ComputeSettings(name="local", workers=2)},
        state_dir=tmp_path_factory.mktemp("state"),
        source="test",
    )
    resources.shutdown()


@pytest.fixture(params=["aer", "helmi"])
def run(site: Site, request: pytest.FixtureRequest) -> Iterator[Run]:
    current = Run(id=f"on-{request.param}", site=site, qpu=request.param)
    runs.activate(current)
    yield current
    runs.activate(None)


@pytest.fixture
def idle_run(site: Site) -> Iterator[Run]:
    current = Run(id="idle", site=site)
    runs.activate(current)
    yield current
    runs.activate(None)


def _checked(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result that keeps what `flows` and this flow promise."""
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    columns, rows = result["table"]["columns"], result["table"]["rows"]
    assert all(len(row) == len(columns) for row in rows)
    assert len(rows) == len(result["iterations"])
    assert "<svg" in result["plot"]
    assert all(isinstance(line, str) and line for line in result["summary"])
    for record in result["iterations"]:
        assert 0 < record["weight"] <= record["exact_weight"] + 1e-9
        assert 0 <= record["optimal_shots"] <= 1
        assert 0 < record["random_shots"] <= 1
        assert len(record["bases"]) == 3
    best = max(record["silhouette"] for record in result["iterations"])
    single = max(record["best_single"] for record in result["iterations"])
    assert result["silhouette"] == best
    assert result["best_single"]["silhouette"] == single
    assert result["difference"] == pytest.approx(best - single, abs=1e-12)
    # The choice on the QPU may be worse than the exact one, not better.
    assert result["ratio"] <= 1 + 1e-12
    return result


@slow
@needs_engine
def test_generated_points_are_clustered(run: Run) -> None:
    result = _checked(clustering(iterations=2, shots=256))
    assert (result["points"], result["dimensions"]) == (240, 2)
    assert result["clusters"] == 5
    assert result["agreement"]["consensus"] > 0.95
    assert len(result["labels"]) == 240
    kinds = [(span.kind, span.state) for span in run.spans()]
    assert sorted(kinds) == [("classical", "completed")] * 6 + [("quantum", "completed")] * 2
    assert clustering(iterations=2, shots=256) == result


@slow
@needs_engine
def test_a_file_is_sampled_and_a_good_consensus_ends_the_search(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = [
        f"{1e200 * (x + 8 * (n % 3))};{1e200 * y};0;{'abc'[n % 3]}"
        for n, (x, y) in enumerate(rng.normal(size=(300, 2)))
    ]
    file = tmp_path / "three groups.csv"
    file.write_text("\n".join(["x;y;z;Label", *rows]))
    result = _checked(clustering(str(file), clusters=3, sample=60, good_enough=0.5, seed=2))
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
    parameters: dict[str, Any], said: str, idle_run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        clustering(**parameters)
    assert idle_run.spans() == []


@needs_engine
def test_equal_points_are_refused(idle_run: Run, tmp_path: Path) -> None:
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
    assert _shares(known, choice) == pytest.approx((optimal, random))


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
