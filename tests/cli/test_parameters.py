"""From texts on the command line to the values a flow asks for."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from orchestrator.application.parameters import (
    ParameterError,
    assignments,
    bound_parameters,
    literal,
)


class Basis(Enum):
    STO3G = "sto-3g"


def flow(
    name: str,
    points: int = 3,
    lengths: list[float] | None = None,
    file: Path | None = None,
    basis: Basis = Basis.STO3G,
    kind: Literal["a", "b"] = "a",
    share: Annotated[float, Field(gt=0)] = 1.0,
    flag: bool = False,
    pair: tuple[int, int] = (1, 2),
    free=None,
    other: Any = None,
) -> None: ...


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("name=12", "12"),
        ("name=true", "true"),
        ("name=h2o", "h2o"),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ('name="quoted"', "quoted"),
        ("points=5", 5),
        ("points=5.0", 5),
        ("lengths=[0.5, 1]", [0.5, 1.0]),
        ("lengths=0.5,0.7", [0.5, 0.7]),
        ("lengths=null", None),
        ("file=a/b.xyz", Path("a/b.xyz")),
        ("basis=sto-3g", Basis.STO3G),
        ("kind=b", "b"),
        ("share=1e-3", 1e-3),
        ("flag=true", True),
        ("pair=[3, 4]", (3, 4)),
        ("pair=3,4", (3, 4)),
        ("free=[1, 'a']", [1, "a"]),
        ('other={"a": [1, null]}', {"a": [1, None]}),
        ("other=text", "text"),
    ],
)
def test_a_value_takes_the_type_the_flow_asks_for(given, expected) -> None:
    texts = {"name": "x", **assignments([given])}
    value = bound_parameters(flow, texts)[given.split("=")[0]]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["name=x", "pionts=3"], ["no parameter 'pionts'", "name, points", "mean 'points'"]),
        ([], ["needs a value for: name", "-p name="]),
        (["name=x", "points=many"], ["-p points=many: expected int", "whole number"]),
        (["name=x", "points=1.5"], ["expected int"]),
        (["name=x", "lengths=a,b"], ["-p lengths=a,b", "list[float]"]),
        (["name=x", "kind=c"], ["-p kind=c", "'a' or 'b'"]),
        (["name=x", "share=-1"], ["greater than 0"]),
        (["name=x", "name=y"], ["-p name is given twice"]),
        (["name"], ["-p 'name': expected name=value"]),
        (["3=x"], ["expected name=value"]),
    ],
)
def test_what_does_not_fit_is_refused(given, words) -> None:
    with pytest.raises(ParameterError) as caught:
        bound_parameters(flow, assignments(given))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_flow_that_takes_anything_takes_anything() -> None:
    def open_flow(a: int, **rest): ...

    assert bound_parameters(open_flow, {"a": "1", "b": "2", "c": "x"}) == {"a": 1, "b": 2, "c": "x"}


def test_annotations_that_nobody_can_read() -> None:
    def odd(a: NotThere, b: object = None): ...  # noqa: F821

    assert bound_parameters(odd, {"a": "1", "b": "x"}) == {"a": 1, "b": "x"}


@given(st.text(max_size=30))
def test_any_text_is_some_value(text) -> None:
    literal(text)
    assert bound_parameters(flow, {"name": text})["name"] is not None


@given(st.integers() | st.booleans() | st.lists(st.integers(), max_size=3))
def test_literals_mean_what_python_means(value) -> None:
    assert literal(str(value).lower()) == value or abs(value) > 2**62
