"""A flow's own check of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.inputs import InputRefused, check_inputs, checked_by
from tests.errors import naming


def test_a_check_gets_what_was_given_and_the_defaults_of_the_rest() -> None:
    seen: list[Mapping[str, Any]] = []

    @checked_by(seen.append)
    def flow(a: int, b: str = "there", *, c: float = 0.5) -> int:
        raise AssertionError

    check_inputs(flow, {"a": 1, "c": 2.0})
    assert seen == [{"a": 1, "b": "there", "c": 2.0}]


def test_what_a_check_raises_is_told_as_a_refusal() -> None:
    def positive(given: Mapping[str, Any]) -> None:
        if given["a"] <= 0:
            raise ValueError(f"a {given['a']}: expected a positive number")

    @checked_by(positive)
    def flow(a: int) -> int:
        return a

    assert flow(-1) == -1  # the check is hpcqc's to call, the flow itself is untouched
    check_inputs(flow, {"a": 1})
    with pytest.raises(InputRefused, match=naming("a", 0)):
        check_inputs(flow, {"a": 0})


def test_a_flow_without_a_check_takes_anything() -> None:
    given = {"a": float("nan")}
    check_inputs(lambda **_: None, given)
    assert list(given) == ["a"]
