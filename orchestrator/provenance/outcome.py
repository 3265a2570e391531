"""What of a flow's return value can be drawn and tabulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Outcome", "Plot", "Series", "Table", "outcome_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or cloud of points; None where there is no value. y_error: standard errors."""

    label: str
    x: tuple[float | str, ...]
    y: tuple[float | None, ...]
    style: Literal["line", "points"] = "line"
    y_error: tuple[float | None, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One diagram."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The parts of a result that people look at. notes: what was there but had no usable form."""

    plot: Plot | None = None
    table: Table | None = None
    summary: tuple[str, ...] = ()
    rest: Any = None
    notes: tuple[str, ...] = ()


def outcome_of(result: Any) -> Outcome:
    """Find plot, table and summary in a result, as `json_value` gives it.

    A flow offers them by returning a mapping with any of these keys::

        {"plot": {"title", "x_label", "y_label", "x": [...],
                  "series": [{"label", "y": [...], "style": "line" | "points", "y_error": [...]}]},
         "table": {"columns": [...], "rows": [[...]]},
         "summary": ["a line", ...]}

    Everything else is in ``rest``. A part of another form becomes a note, never an error: a
    finished run must not fail for its picture.
    """
    if not isinstance(result, Mapping):
        return Outcome(rest=result)
    notes: list[str] = []
    parts: dict[str, Any] = {"plot": None, "table": None, "summary": ()}
    readers = {"plot": _plot, "table": _table, "summary": _summary}
    rest = dict(result)
    for name, read in readers.items():
        if name in result:
            try:
                parts[name] = read(result[name])
                del rest[name]
            except (KeyError, TypeError, ValueError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                notes.append(f"the result's {name!r} is not of the form hpcqc draws: {reason}")
    return Outcome(**parts, rest=rest or None, notes=tuple(notes))


def _plot(data: Mapping[str, Any]) -> Plot:
    if not isinstance(data, Mapping):
        raise TypeError(f"it is {type(data).__name__}, not a mapping")
    common_errors = data.get("y_error")
    series = []
    for index, entry in enumerate(_sequence(data["series"], "series")):
        if not isinstance(entry, Mapping):
            raise TypeError(f"series {index} is {type(entry).__name__}, not a mapping")
        errors = entry.get("y_error", common_errors if index == 0 else None)
        series.append(_series(entry, entry.get("x", data.get("x")), errors))
    return Plot(
        title=str(data.get("title", "")),
        x_label=str(data.get("x_label", "")),
        y_label=str(data.get("y_label", "")),
        series=tuple(series),
    )


def _series(entry: Mapping[str, Any], x: Any, errors: Any) -> Series:
    label = str(entry.get("label", ""))
    y = tuple(_number(item) for item in _sequence(entry["y"], "y"))
    x = tuple(range(len(y))) if x is None else tuple(_sequence(x, "x"))
    if len(x) != len(y):
        raise ValueError(f"series {label!r} has {len(y)} values for {len(x)} places")
    if errors is not None:
        errors = tuple(_number(item) for item in _sequence(errors, "y_error"))
        if len(errors) != len(y):
            raise ValueError(f"series {label!r} has {len(errors)} errors for {len(y)} values")
    texts = any(isinstance(item, str) for item in x)
    places = tuple(str(item) if texts else float(item) for item in x)
    style = entry.get("style", "line")
    if style not in ("line", "points"):
        raise ValueError(f"style {style!r}; give 'line' or 'points'")
    return Series(label=label, x=places, y=y, style=style, y_error=errors)


def _table(data: Mapping[str, Any]) -> Table:
    if not isinstance(data, Mapping):
        raise TypeError(f"it is {type(data).__name__}, not a mapping")
    columns = tuple(str(column) for column in _sequence(data["columns"], "columns"))
    rows = tuple(tuple(_sequence(row, "row")) for row in _sequence(data["rows"], "rows"))
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise ValueError(f"row {number} has {len(row)} cells for {len(columns)} columns")
    return Table(columns=columns, rows=rows)


def _summary(data: Any) -> tuple[str, ...]:
    if isinstance(data, str):
        return tuple(data.splitlines())
    return tuple(str(line) for line in _sequence(data, "summary"))


def _sequence(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} is {type(value).__name__}, not a list")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
