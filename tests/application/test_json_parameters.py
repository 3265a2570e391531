"""Parameters for a flow in another process arrive as they were given, or are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from pydantic import SecretStr

from orchestrator.application.parameters import ParameterError, json_parameters


class Basis(Enum):
    STO3G = "sto-3g"


@dataclass
class Grid:
    low: float
    points: int = 3


@flow
def typed(
    pair: tuple[int, int] = (1, 2),
    file: Path | None = None,
    basis: Basis = Basis.STO3G,
    names: dict[int, str] | None = None,
    grid: Grid | None = None,
    phase: complex = 0j,
    day: date | None = None,
    number: int = 0,
) -> None: ...


@flow
def free(value, **more: Any) -> None: ...


@flow(validate_parameters=False)
def unchecked(pair: tuple[int, int]) -> None: ...


class Loop(list):
    """A list that holds itself."""

    def __init__(self) -> None:
        super().__init__([self])


TYPED = {
    "pair": (3, 4),
    "file": Path("h2.xyz"),
    "basis": Basis.STO3G,
    "names": {1: "a"},
    "grid": Grid(low=0.5),
    "phase": 1 + 2j,
    "day": date(2026, 11, 29),
    "number": 3,
}


def test_values_arrive_as_the_annotations_have_them() -> None:
    sent = json.loads(json.dumps(json_parameters(typed, TYPED)))
    assert typed.validate_parameters(sent) == TYPED


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda t: t != "$ref"), inner),
    max_leaves=8,
)


@given(json_values)
def test_what_json_has_needs_no_annotation(value: Any) -> None:
    assert json.loads(json.dumps(json_parameters(free, {"value": value}))) == {"value": value}


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3),
        [np.arange(3)],
        np.int64(3),
        (1, 2),
        [(1, 2)],
        {1: "a"},
        {1, 2},
        Path("h2.xyz"),
        Basis.STO3G,
        Grid(low=0.5),
        1 + 2j,
        Decimal("0.1"),
        b"bytes",
        SecretStr("word"),
        nan,
        object(),
        Loop(),
        lambda: 3,
    ],
    ids=repr,
)
def test_what_would_arrive_as_something_else_is_refused(value: Any) -> None:
    for values in ({"value": value}, {"value": 1, "other": value}):
        with pytest.raises(ParameterError) as refusal:
            json_parameters(free, values)
        assert repr([*values][-1]) in str(refusal.value)


def test_infinite_numbers_go_where_a_file_has_them_and_not_to_a_server() -> None:
    assert json_parameters(free, {"value": [inf]}) == {"value": [inf]}
    with pytest.raises(ParameterError):
        json_parameters(free, {"value": [inf]}, finite=True)


def test_a_flow_that_checks_no_types_gets_none() -> None:
    with pytest.raises(ParameterError):
        json_parameters(unchecked, {"pair": (1, 2)})
    assert json_parameters(unchecked, {"pair": [1, 2]}) == {"pair": [1, 2]}


def test_a_value_of_another_type_than_the_annotation_is_refused() -> None:
    with pytest.raises(ParameterError):
        json_parameters(typed, {"number": "many"})
