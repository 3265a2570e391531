"""What becomes of a flow's result: parts for the page, and a strict JSON form of any value."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from orchestrator.broker.core.views import JobState
from orchestrator.provenance.outcome import outcome_of
from orchestrator.provenance.values import json_text, json_value


@pytest.mark.parametrize(
    ("part", "note"),
    [
        ({"plot": {"series": [{"y": [1]}], "x": [1, 2]}}, "2 values of x for 1"),
        ({"plot": {"x": [1]}}, "'plot.series'"),
        ({"plot": {"series": [{"y": ["a"]}]}}, "'plot.series.0.y.0'"),
        ({"plot": {"series": [{"y": [1], "style": "dots"}]}}, "'plot.series.0.style'"),
        ({"plot": {"series": [{"y": [1], "y_error": []}]}}, "0 values of y_error for 1"),
        ({"plot": [1]}, "the result's 'plot'"),
        ({"table": {"columns": ["a"], "rows": [[1, 2]]}}, "row 1 has 2 cells for 1 columns"),
        ({"table": {"columns": "ab", "rows": []}}, "'table.columns'"),
        ({"summary": 3}, "'summary'"),
        ({"plot": "a thousand words"}, "SVG"),
    ],
)
def test_parts_of_another_form_are_noted_and_kept(part, note) -> None:
    outcome = outcome_of(part)
    assert note in outcome.notes[0]
    assert (outcome.plot, outcome.table, outcome.summary) == (None, None, ())
    assert outcome.rest(part) == part


@pytest.mark.parametrize("result", [None, 3, [1, 2], "text"])
def test_any_result_will_do(result) -> None:
    assert outcome_of(result).rest(result) == result


class Odd:
    def __str__(self) -> str:
        return "odd"


def test_values_without_a_json_form() -> None:
    value = {
        "array": np.array([[1, 2], [3, 4]]),
        "scalar": np.float64(0.5),
        "nan": np.array([np.nan, np.inf]),
        "complex": np.complex128(1 + 2j),
        "state": JobState.FAILED,
        "odd": Odd(),
        "when": datetime(2026, 3, 1, 12, tzinfo=UTC),
        "raw": b"ab",
        JobState.QUEUED: {1},
    }
    assert json_value(value) == {
        "array": [[1, 2], [3, 4]],
        "scalar": 0.5,
        "nan": [None, None],
        "complex": {"real": 1.0, "imag": 2.0},
        "state": "failed",
        "odd": "odd",
        "when": "2026-03-01T12:00:00+00:00",
        "raw": {"base64": "YWI="},
        "queued": [1],
    }


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@given(anything)
def test_every_value_has_a_strict_json_form(value) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    again = json.loads(json_text(value), parse_constant=refuse)
    assert again == json_value(value)
    assert json_value(again) == again


def test_a_figure_becomes_an_svg_document() -> None:
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    outcome = outcome_of(json_value({"plot": figure, "points": 2}))
    assert isinstance(outcome.plot, str)
    assert outcome.plot.rstrip().endswith("</svg>")
    assert outcome.rest({"plot": outcome.plot, "points": 2}) == {"points": 2}


def test_a_figure_that_cannot_be_drawn_is_noted() -> None:
    figure = Figure()
    figure.text(0, 0, r"$\frac$")
    (note,) = outcome_of(json_value({"plot": figure})).notes
    assert "SVG" in note
