import json
import math
from dataclasses import replace

import numpy as np
import pytest

from flows._comparison import Comparison, Figure, Way, bootstrapped, over_seeds, resampled


def compared(quantum, classical, *, error=0.01, higher=True):
    ways = [
        Way(name="quantum kernel", figure=Figure(value=quantum, error=error), is_quantum=True),
        Way(name="a poor baseline", figure=Figure(value=0.5, error=error)),
        Way(name="RBF kernel", figure=Figure(value=classical, error=error)),
    ]
    return Comparison(ways=ways, measure="accuracy", higher_is_better=higher)


@pytest.mark.parametrize(
    ("quantum", "classical", "higher", "winner"),
    [
        (0.9, 0.8, True, "quantum"),
        (0.8, 0.9, True, "classical"),
        (0.81, 0.8, True, "neither"),
        (0.2, 0.1, False, "classical"),
        (0.1, 0.2, False, "quantum"),
    ],
)
def test_the_better_side_wins_beyond_the_error(quantum, classical, higher, winner):
    found = compared(quantum, classical, higher=higher)
    assert found.winner == winner
    assert ("Nobody won" in found.verdict) is (winner == "neither")


def test_the_verdict_names_the_best_way_of_each_side():
    assert compared(0.8, 0.9).verdict == (
        "RBF kernel won: accuracy 0.900 ± 0.010, quantum kernel 0.800 ± 0.010."
    )


def test_nobody_wins_where_training_was_not_repeated():
    found = replace(compared(0.9, 0.8), trained_once=True)
    assert found.winner == "neither"
    assert found.verdict.startswith("Nobody won: quantum kernel has accuracy 0.900 ± 0.010, RBF")


def test_ways_of_one_side_leave_the_other_no_chance():
    ways = [Way(name=str(value), figure=Figure(value=value, error=0.1)) for value in (0.5, 0.9)]
    assert Comparison(ways=ways, measure="accuracy").winner == "classical"
    quantum = [replace(way, is_quantum=True) for way in ways]
    assert Comparison(ways=quantum, measure="accuracy").winner == "quantum"


def test_groups_are_sides_with_a_winner_by_name():
    ways = [
        Way(name=name, figure=Figure(value=value, error=0.01), group=group)
        for name, value, group in [("a net", 0.7, "net"), ("a rule", 0.6, "rule"), ("b", 0.5, "b")]
    ]
    found = Comparison(ways=ways, measure="accuracy", bound=ways[0])
    assert found.winner == "a net"
    assert found.verdict == "A net won: accuracy 0.700 ± 0.010, a rule 0.600 ± 0.010."
    ways[1] = replace(ways[1], figure=ways[0].figure)
    assert replace(found, ways=ways).winner == "neither"
    assert found.as_record()["bound"]["side"] == "net"


def test_an_exact_figure_needs_no_error():
    assert compared(0.9, 0.8, error=0.0).winner == "quantum"
    assert str(Figure(value=0.5, error=0.0)) == "0.5"


def test_errors_of_seeds_and_of_a_bootstrap_are_those_of_statistics():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    expected = values.std(ddof=1) / math.sqrt(values.size)
    for figure in (over_seeds(values), bootstrapped(values, seed=1)):
        assert figure.value == pytest.approx(values.mean())
        assert figure.error == pytest.approx(expected, rel=0.1)


def test_ways_on_the_same_resamples_are_compared_in_pairs():
    rng = np.random.default_rng(5)
    common = rng.normal(0.0, 1.0, 300)
    scores = {True: common + 0.05 + rng.normal(0.0, 0.1, 300), False: common}
    ways = []
    for is_quantum, values in scores.items():
        figure, draws = resampled(lambda chosen, v=values: float(v[chosen].mean()), 300, seed=2)
        ways.append(Way(name="a way", figure=figure, is_quantum=is_quantum, draws=draws))
    assert Comparison(ways=ways, measure="score").winner == "quantum"
    lead = ways[0].lead_over(ways[1])
    assert lead.value == pytest.approx((scores[True] - common).mean())
    assert lead.error == pytest.approx(0.1 / math.sqrt(300), rel=0.2)
    unpaired = [replace(way, draws=()) for way in ways]
    assert Comparison(ways=unpaired, measure="score").winner == "neither"


def test_the_record_of_a_comparison_is_json():
    record = compared(0.9, 0.8).as_record()
    assert json.loads(json.dumps(record)) == record
    assert record["won"] == "quantum"
    assert record["ways"][0] == {
        "name": "quantum kernel",
        "is_quantum": True,
        "side": "quantum",
        "value": 0.9,
        "error": 0.01,
    }


def test_the_sentence_has_the_error_of_a_difference_in_pairs():
    values = np.array([0.30, 0.40, 0.50, 0.60, 0.70])
    ahead = np.array([0.02, 0.01, 0.02, 0.03, 0.02])
    ways = [
        Way(name=name, figure=over_seeds(found), is_quantum=quantum, by_seed=tuple(found))
        for name, found, quantum in [("a", values + ahead, True), ("b", values, False)]
    ]
    won = Comparison(ways=ways, measure="score").verdict
    assert won.endswith("ahead by 0.0200 ± 0.0032 with the same seeds.")
    lost = replace(ways[0], by_seed=tuple(values + np.array([0.1, -0.1, 0.1, -0.1, 0.02])))
    assert "apart by" in Comparison(ways=[lost, ways[1]], measure="score").verdict


def test_items_that_overlap_do_not_make_errors_smaller():
    found = np.repeat(np.random.default_rng(1).normal(size=50), 4)

    def mean(chosen):
        return float(found[chosen].mean())

    expected = found.std(ddof=1) / math.sqrt(50)
    assert resampled(mean, 200, 1, 50)[0].error == pytest.approx(expected, rel=0.1)
    assert resampled(mean, 200, 1)[0].error < 0.6 * expected


def test_of_equally_good_ways_the_one_without_a_qpu_is_named() -> None:
    ways = [
        Way(name="transformer", figure=Figure(value=0.2, error=0.0), is_quantum=True, group="t"),
        Way(name="variational", figure=Figure(value=0.0, error=0.0), is_quantum=True, group="v"),
        Way(name="exact", figure=Figure(value=0.0, error=0.0)),
    ]
    compared = Comparison(ways=ways, measure="energy", higher_is_better=False)
    assert compared.verdict.startswith("Exact won")
