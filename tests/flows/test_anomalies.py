"""Kernels and learners of `flows.anomalies` against their definitions, and the flow as users run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Pauli, Statevector, state_fidelity

pytest.importorskip("sklearn", reason="the learning extra is not installed")

from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from flows._anomalies.encoding import FeatureMap, bloch_vectors, fidelities
from flows._anomalies.learning import (
    Scores,
    baselines,
    components,
    measured,
    quality,
    scored,
    splits_of,
    support_vectors,
)
from flows._anomalies.picture import roc
from flows._anomalies.signals import Signals, signals_of
from flows._inputs import InputError
from flows.anomalies import anomalies
from orchestrator.runs import Run
from tests.errors import naming
from tests.flows.repeated import differences

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "signals"
MAPS = [
    FeatureMap(encoding="reuploading", qubits=3, layers=2),
    FeatureMap(encoding="reuploading", qubits=2, layers=3),
    FeatureMap(encoding="zz", qubits=3, layers=2),
    FeatureMap(encoding="zz", qubits=10, layers=1),  # more than a byte of bits
]
each_map = pytest.mark.parametrize("encoded", MAPS, ids=lambda one: f"{one.encoding}-{one.qubits}")


def angles_for(encoded: FeatureMap, points: int) -> Any:
    return np.random.default_rng(encoded.qubits).uniform(-3, 3, (points, encoded.qubits))


@each_map
def test_bloch_vectors_are_those_of_the_state(encoded: FeatureMap) -> None:
    angles = angles_for(encoded, 4)
    shots = 4000
    found = bloch_vectors(StatevectorSampler(seed=5), encoded, angles, shots)
    exact = []
    for row in angles:
        state = Statevector(encoded.circuit(row))
        for axis in "XYZ":
            for qubit in range(encoded.qubits):
                label = ["I"] * encoded.qubits
                label[-1 - qubit] = axis
                exact.append(state.expectation_value(Pauli("".join(label))).real)
    exact = np.array(exact).reshape(len(angles), -1)
    error = np.sqrt((1 - exact**2) / shots) + 1e-9
    assert np.abs((found - exact) / error).max() < 4.5


@each_map
def test_fidelities_are_those_of_the_states(encoded: FeatureMap) -> None:
    angles = angles_for(encoded, 4) / 4
    shots = 4000
    found = fidelities(StatevectorSampler(seed=5), encoded, angles, shots)
    states = [Statevector(encoded.circuit(row)) for row in angles]
    exact = np.array([[state_fidelity(a, b) for b in states] for a in states])
    error = np.sqrt(np.clip(exact * (1 - exact), 0, 1) / shots) + 1e-3
    np.testing.assert_array_equal(np.diag(found), 1.0)
    assert np.abs((found - exact) / error).max() < 4.5


def signals(task: str, shift: float = 1.5, count: int = 80, seed: int = 3) -> Signals:
    rng = np.random.default_rng(seed)
    is_target = rng.permutation(count) < count // 4
    features = rng.normal(size=(count, 6))
    features[is_target, :3] += shift
    return Signals(
        title="two groups",
        task=task,
        features=features,
        is_target=is_target,
        target="b",
        other="a",
    )


def test_the_shipped_sets_are_those_of_uci() -> None:
    sonar, ionosphere = signals_of(None, None, None)
    assert (sonar.features.shape, sonar.is_target.sum(), sonar.task) == (
        (208, 60),
        111,
        "recognition",
    )
    assert (ionosphere.features.shape, ionosphere.is_target.sum()) == ((351, 33), 126)
    assert ionosphere.task == "detection"


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the public data {SHARED}")
def test_a_folder_in_its_publishers_layout_has_the_shipped_sets() -> None:
    for ours, theirs in zip(
        signals_of(None, None, None), signals_of(str(SHARED), None, None), strict=True
    ):
        np.testing.assert_array_equal(ours.features, theirs.features)
        np.testing.assert_array_equal(ours.is_target, theirs.is_target)
        assert ours.title == theirs.title


def test_components_are_white_and_know_only_what_they_are_fitted_on() -> None:
    known = signals("recognition")
    train, test = np.arange(60), np.arange(60, 80)
    found = components(known, train, 4)
    np.testing.assert_allclose(np.cov(found[train].T), np.eye(4), atol=1e-9)
    spoilt = known.features.copy()
    spoilt[test] *= 100
    again = components(replace(known, features=spoilt), train, 4)
    np.testing.assert_allclose(again[train], found[train])
    ordinary = replace(known, task="detection")
    spoilt = known.features.copy()
    spoilt[known.is_target] *= 100
    again = components(replace(ordinary, features=spoilt), train, 4)
    np.testing.assert_allclose(
        again[~known.is_target], components(ordinary, train, 4)[~known.is_target]
    )


def test_there_are_no_more_components_than_features() -> None:
    known = signals("recognition")
    constant = replace(known, features=np.hstack([known.features[:, :2], np.ones((80, 1))]))
    found = components(constant, np.arange(60), 5)
    assert found.shape == (80, 5)
    assert not found[:, 2:].any()


@pytest.mark.parametrize("task", ["recognition", "detection"])
def test_no_label_of_the_test_part_reaches_a_learner(task: str) -> None:
    known = signals(task)
    split = splits_of(known.is_target, 5, 1, 2)[0]
    flipped = known.is_target.copy()
    flipped[split.test] = ~flipped[split.test]
    reduced = components(known, split.train, 4)
    other = replace(known, is_target=flipped)
    for name, learners in baselines(known, reduced, split).items():
        ours, theirs = scored(known, learners, split), scored(other, learners, split)
        np.testing.assert_array_equal(ours.values, theirs.values, err_msg=name)
        assert quality(task, ours.values, known.is_target[split.test]) > 0.75, name


@pytest.mark.parametrize("task", ["recognition", "detection"])
def test_a_signal_of_the_test_part_is_judged_without_the_others(task: str) -> None:
    known = signals(task)
    split = splits_of(known.is_target, 5, 1, 2)[0]
    spoilt = known.features.copy()
    spoilt[split.test[1::2]] *= 30.0
    other = replace(known, features=spoilt)
    views = [components(one, split.train, 4) for one in (known, other)]
    for name, learners in baselines(known, views[0], split).items():
        ours = scored(known, learners, split)
        theirs = scored(other, baselines(other, views[1], split)[name], split)
        np.testing.assert_allclose(ours.values[::2], theirs.values[::2], err_msg=name)


def test_a_detector_learns_ordinary_signals_alone() -> None:
    known = signals("detection")
    split = splits_of(known.is_target, 5, 1, 2)[0]
    moved = known.features.copy()
    seen = split.train[known.is_target[split.train]]
    moved[seen] += 50.0
    for learner in support_vectors("detection", known.features, split.train)[:4]:
        other = replace(learner, view=moved)
        np.testing.assert_allclose(
            learner.scores(split.train, split.test, known.is_target),
            other.scores(split.train, split.test, known.is_target),
        )


def test_a_learner_is_what_scikit_learn_makes_of_its_parameters() -> None:
    known = signals("recognition", shift=1.0)
    split = splits_of(known.is_target, 5, 1, 2)[0]
    made = support_vectors("recognition", known.features, split.train)
    learner = next(one for one in made if "C 10" in one.label)
    rows = known.features[split.train]
    gamma = float(learner.label.split()[1]) / (rows.var() * rows.shape[1])  # scikit-learn's "scale"
    machine = SVC(C=10, gamma=gamma).fit(rows, known.is_target[split.train])
    np.testing.assert_allclose(
        learner.scores(split.train, split.test, known.is_target),
        machine.decision_function(known.features[split.test]),
    )
    other = support_vectors(
        "recognition", known.features, splits_of(known.is_target, 5, 1, 2)[1].train
    )
    assert [one.label for one in other] == [one.label for one in made]


def test_figures_of_splits_are_those_of_their_parts() -> None:
    rng = np.random.default_rng(8)
    for task in ("recognition", "detection"):
        known = signals(task)
        found = [
            Scores(
                test=split.test,
                values=rng.normal(size=len(split.test)) + 0.8 * known.is_target[split.test],
                tuned="",
                by_bandwidth={},
            )
            for split in splits_of(known.is_target, 4, 2, 1)
        ]
        figure, draws = measured(known, found, seed=4)
        labels = [known.is_target[one.test] for one in found]
        if task == "recognition":
            parts = [
                ((one.values > 0) == ours).mean() for one, ours in zip(found, labels, strict=True)
            ]
        else:
            parts = [
                roc_auc_score(ours, one.values) for one, ours in zip(found, labels, strict=True)
            ]
        assert figure.value == pytest.approx(np.mean(parts))
        assert figure.error == pytest.approx(np.std(draws, ddof=1))
        assert 0.02 < figure.error < 0.15
    false, true = roc(found, known.is_target)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(figure.value, abs=0.05)


Check = Callable[[dict[str, Any]], dict[str, Any]]
SMALL = {"qubits": 2, "layers": 1, "shots": 100, "folds": 3, "bandwidths": [0.3, 0.9]}


def written(path: Path, known: Signals) -> str:
    rows = zip(known.features, known.is_target, strict=True)
    lines = [",".join([*(f"{x:.5f}" for x in row), "ab"[int(found)]]) for row, found in rows]
    path.write_text("\n".join(["@relation own", "u,v,w,x,y,z,class", *lines]))
    return str(path)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("qpu", ["aer", "vlq"])
@pytest.mark.parametrize("task", ["recognition", "detection"])
def test_signals_of_a_file_are_told_apart(
    qpu: str, task: str, run_on: Callable[[str], Run], kept: Check, tmp_path: Path
) -> None:
    run_on(qpu)
    data = written(tmp_path / "own signals.csv", signals(task, shift=2.5))
    result = kept(anomalies(data, task=task, subset=40, **SMALL))
    (one,) = result["sets"]
    assert (one["title"], one["target"], one["signals"]) == ("own signals", "b", 80)
    assert {(way["on"], way["is_quantum"]) for way in one["ways"]} == {
        (where, side) for where in ("set", "subset") for side in (True, False)
    }
    # Noise may hide such small sets from a quantum kernel.
    bounded = [way for way in one["ways"] if qpu == "aer" or not way["is_quantum"]]
    assert len(bounded) > 4
    assert all(way["value"] > 0.7 and 0 <= way["error"] < 0.1 for way in bounded)
    assert result["summary"][0] == f"own signals: {one['verdict']}"
    assert [c["data"] for c in result["comparisons"]] == [
        "own signals, 80 signals",
        "own signals, subset of 40",
    ]
    assert result["circuits"] == 2 * (3 * 80 * 3 + 3 * 40 + 40 * 39 // 2)
    assert sum(one["ways"][0]["tuned"].values()) == 3
    assert "<svg" in result["plot"]
    assert not differences(result, anomalies(data, task=task, subset=40, **SMALL))


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"data": "none.csv"}, naming("none.csv")),
        ({"data": "."}, naming("sonar.dat")),
        ({"target": "X"}, naming("target", "X", "M", "R")),
        ({"qubits": 0}, naming("qubits", 0)),
        ({"layers": 0}, naming("layers", 0)),
        ({"shots": 0}, naming("shots", 0)),
        ({"folds": 6}, naming("folds", 6, 5)),
        ({"repeats": 0}, naming("repeats", 0)),
        ({"seed": -1}, naming("seed", -1)),
        ({"subset": 39}, naming("subset", 39, 40)),
        ({"data": "sonar", "subset": 200}, naming("subset", 200, 208)),
        ({"bandwidths": []}, naming("bandwidths")),
        ({"bandwidths": [0.1, float("nan")]}, naming("bandwidths", "nan")),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        anomalies(**parameters)
    assert run.spans() == []


@pytest.mark.usefixtures("prefect_server")
def test_more_qubits_than_the_qpu_has_are_refused(run_on: Callable[[str], Run]) -> None:
    run = run_on("helmi")
    with pytest.raises(InputError, match=naming("qubits", 8, 5)):
        anomalies()
    assert run.spans() == []


ROWS = [f"{n % 7}.5,1.0,{'ab'[n % 2]}" for n in range(30)]
FIRST = [f"{'ab'[n % 2]},{n % 7}.5,1.{n}" for n in range(30)]


def test_quoted_cells_and_names_of_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "quoted.csv"
    rows = [",".join(f'"{cell}"' for cell in row.split(",")) for row in ROWS]
    text = "\r\n".join(['"u","v","kind of signal"', *rows])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (found,) = signals_of(str(path), None, "a")
    assert (found.target, found.other, len(found)) == ("a", "b", 30)
    assert found.features[1].tolist() == [1.5, 1.0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*ROWS, "1.0,b"], naming(31, 3, 2)),
        ([*ROWS, "nan,1.0,b"], naming(31, "nan")),
        ([*ROWS, "?,1.0,b"], naming(31, "?")),
        ([*ROWS, "1.0,2.0,"], naming(31, "label")),
        ([row.replace("b", "a") for row in ROWS], naming("is a for all 30 signals", "add")),
        (["name,kind,place", "ann,b,c", "bob,d,e"], naming("line 1", "numbers", "no cell")),
        ([*ROWS, *ROWS, "1.0,2.0,c"], naming("a", "b", "c")),
        (ROWS[:12], naming(12, 20)),
        ([*ROWS[::2], *ROWS[::2], *ROWS[1:6:2]], naming(3, 10)),
        (["1.0,2.0,a", "1.0,2.0,b"] * 15, "equal"),
        (["a", "b"] * 15, naming("numbers", "line 1")),
        ([f"{n},{row}" for n, row in enumerate(ROWS)], naming("column 1", "numbers the signals")),
        (["class,u,v", *FIRST], naming("line 1", "class", "last")),
        ([",u,v", *FIRST], naming("line 1", "name", "column 1")),
        (FIRST, naming("move the first column", "a", "b")),
        (
            [row.replace(".", ",").replace(",1", ";1") for row in ROWS],
            naming("line 1", "semicolons"),
        ),
        ([row.replace(",", "\t") for row in ROWS], naming("line 1", "tabs")),
        ([*ROWS, *ROWS, "1.0,2.0,c"], naming("c", "join")),
    ],
)
def test_a_file_that_cannot_be_learnt_names_the_line(
    rows: list[str], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(rows))
    with pytest.raises(InputError, match=said):
        signals_of(str(path), None, None)
