"""Equal values that differ in their last digits decide nothing: neither ranks, choices nor thresholds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flows._comparison import Figure, Way, decided, over_seeds
from flows._evolution import Evolution
from tests.flows.repeated import differences

ROUNDING = 1e-14


def moved(costs: list[float]) -> np.ndarray:
    evolution = Evolution(np.zeros(3), 4, 0.1, 0.3, seed=1)
    assert evolution.learn(evolution.candidates(), costs) == 0
    return evolution.mean


def test_equal_costs_move_an_evolution_alike_whatever_their_last_digits() -> None:
    costs = [0.5, 0.7, 0.7, 0.7, 0.9]
    for shift in (ROUNDING, -ROUNDING):
        for place in (1, 2, 3):
            other = list(costs)
            other[place] += shift
            assert (moved(other) == moved(costs)).all()
    assert (moved([0.5, 0.7, 0.7, 0.9, 0.7]) != moved(costs)).any()


def test_a_cost_that_is_lower_by_rounding_alone_is_no_new_best() -> None:
    evolution = Evolution(np.zeros(3), 2, 0.1, 0.1, seed=1)
    assert evolution.learn(evolution.candidates(), [0.6, 0.5, 0.7]) == 1
    best = evolution.best
    assert evolution.learn(evolution.candidates(), [0.5 - ROUNDING, 0.6, 0.6]) is None
    assert (evolution.best == best).all()
    assert evolution.learn(evolution.candidates(), [0.5, 0.4, 0.6]) == 1


@pytest.mark.parametrize("noise", [0.0, ROUNDING])
def test_a_threshold_lies_between_different_scores(noise: float) -> None:
    from flows._entanglement.judges import above, threshold_for

    rng = np.random.default_rng(2)
    for _ in range(50):
        exact = rng.integers(0, 6, 40) / 10  # as of few shots
        labels = rng.random(40) < exact
        found = threshold_for(exact + noise * rng.normal(size=40), labels)
        best = min(int(((exact > limit) != labels).sum()) for limit in np.arange(-0.05, 0.6, 0.1))
        assert int((above(exact, found) != labels).sum()) == best
        assert found == pytest.approx(threshold_for(exact, labels), abs=1e-9)
    assert not above(np.array([0.1 + 0.2]), 0.3).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_nobody_wins_by_rounding(sign: int) -> None:
    equal = over_seeds([0.3, 0.3 + ROUNDING, 0.3, 0.3, 0.3 - ROUNDING])
    assert equal.error == 0
    ours = Way(name="ours", figure=equal)
    theirs = Way(name="theirs", figure=Figure(value=equal.value + sign * ROUNDING, error=0.0))
    winner, verdict = decided(ours, theirs, measure="energy")
    assert winner is None
    assert verdict.startswith("Nobody won")
    assert (
        decided(ours, Way(name="more", figure=over_seeds([0.4, 0.4])), measure="e")[0] is not None
    )


class Told:
    """An estimator that knows which signals it gets right in each part of the validation."""

    def __init__(self, rights: Callable[[np.ndarray], np.ndarray]) -> None:
        self._rights = rights

    def fit(self, rows: np.ndarray, is_target: np.ndarray) -> None:
        """Learn nothing."""

    def decision_function(self, rows: np.ndarray) -> np.ndarray:
        return self._rights(rows[:, 0].astype(int))


def test_of_equally_good_learners_the_first_is_chosen() -> None:
    pytest.importorskip("sklearn", reason="the learning extra is not installed")
    from flows._anomalies.learning import Learner, Split, scored
    from flows._anomalies.signals import Signals

    labels = np.arange(90) % 2 == 0
    signals = Signals(
        title="told",
        task="recognition",
        features=np.zeros((90, 1)),
        is_target=labels,
        target="b",
        other="a",
    )
    split = Split(train=np.arange(60), test=np.arange(60, 90), seed=3)

    def learner(name: str, wrong: tuple[int, int, int]) -> Learner:
        """Return one with so many wrong answers in each of the three parts, in their order."""
        turn = iter(wrong)

        def answers(rows: np.ndarray) -> np.ndarray:
            odds = np.where(labels[rows], 1.0, -1.0)
            odds[: next(turn, 0)] *= -1
            return odds

        view = np.arange(90.0)[:, np.newaxis]
        return Learner(label=name, view=view, make=lambda: Told(answers))

    # The means of these are equal, but not their sums in floating point.
    parts = [(1, 5, 12), (12, 5, 1), (5, 1, 12)]
    means = {float(np.mean([1 - wrong / 20 for wrong in part])) for part in parts}
    assert len(means) > 1
    for first, second in [(parts[0], parts[1]), (parts[1], parts[0]), (parts[2], parts[0])]:
        found = scored(signals, [learner("first", first), learner("second", second)], split)
        assert found.tuned == "first"
    worse, better = learner("worse", (2, 5, 12)), learner("better", (1, 5, 12))
    assert scored(signals, [worse, better], split).tuned == "better"


def test_results_differ_by_more_than_rounding() -> None:
    first = {"a": [1, 0.1 + 0.2, "x"], "plot": "<svg>1</svg>", "b": {"c": None}}
    assert not differences(first, {**first, "a": [1, 0.3, "x"], "plot": "<svg>2</svg>"})
    others = [
        {**first, "a": [1, 0.3001, "x"]},
        {**first, "a": [2, 0.3, "x"]},
        {**first, "a": [1, 0.3]},
        {**first, "b": {"d": None}},
        {**first, "b": {"c": 0.0}},
        {**first, "more": 1},
    ]
    assert all(len(differences(first, other)) == 1 for other in others)
