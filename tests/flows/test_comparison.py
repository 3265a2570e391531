import math

import numpy as np
import pytest

from flows._comparison import Comparison, Figure, Way, bootstrapped, over_seeds


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


def test_an_exact_figure_needs_no_error():
    assert compared(0.9, 0.8, error=0.0).winner == "quantum"
    assert str(Figure(value=0.5, error=0.0)) == "0.5"


def test_errors_of_seeds_and_of_a_bootstrap_are_those_of_statistics():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    expected = values.std(ddof=1) / math.sqrt(values.size)
    for figure in (over_seeds(values), bootstrapped(values, seed=1)):
        assert figure.value == pytest.approx(values.mean())
        assert figure.error == pytest.approx(expected, rel=0.1)
