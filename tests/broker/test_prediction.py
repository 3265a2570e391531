"""Online correction of predicted QPU-seconds: quick where a model is wrong, quiet where it is right."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.broker.core.prediction import Accuracy


def _fed(ratios: list[float], model_s: float = 4.0) -> Accuracy:
    """Return a history of tasks that took this multiple of the model's seconds."""
    accuracy = Accuracy()
    for ratio in ratios:
        predicted_s = model_s * accuracy.factor
        accuracy.learn(predicted_s=predicted_s, actual_s=model_s * ratio, circuits=1)
    return accuracy


def test_a_right_model_is_left_alone() -> None:
    noise = random.Random(5)
    ratios = [math.exp(noise.gauss(0, 0.05)) for _ in range(200)]
    plain = sum(abs(1 / ratio - 1) for ratio in ratios) / len(ratios)
    assert _fed(ratios).error <= 1.03 * plain
    assert _fed([1.0] * 10).error == 0


@pytest.mark.parametrize("wrong", [0.25, 1.5, 4.0])
def test_a_wrong_model_is_corrected_within_a_dozen_tasks(wrong: float) -> None:
    assert _fed([wrong] * 12).factor == pytest.approx(wrong, rel=0.25)
    assert _fed([wrong] * 40).factor == pytest.approx(wrong, rel=0.02)


def test_one_task_far_off_changes_little() -> None:
    usual = [1.02, 0.98] * 10
    assert _fed([*usual, 30.0]).factor == pytest.approx(_fed(usual).factor, rel=0.02)


def test_a_device_that_changes_is_followed() -> None:
    assert _fed([1.02, 0.98] * 20 + [1.5, 1.52] * 60).factor == pytest.approx(1.5, rel=0.05)


@given(st.lists(st.floats(1e-6, 1e6), max_size=40))
def test_a_correction_is_bounded_whatever_comes(ratios: list[float]) -> None:
    accuracy = _fed(ratios)
    assert 1 / 20.001 <= accuracy.factor <= 20.001
    assert accuracy.error >= 0
