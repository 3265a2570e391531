"""The parts of a flow's result that reports show: plot, table and summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    JsonValue,
    Strict,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

__all__ = ["Outcome", "Plot", "RecordPart", "Series", "Table", "outcome_of"]

_Number = Annotated[float, Strict()]
_Text = Annotated[str, BeforeValidator(str)]
_Scale = Literal["linear", "log"]


class RecordPart(BaseModel):
    """A part of a run record; the published schema has the docstrings below its fields."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class Series(RecordPart):
    """One line or cloud of points of a plot."""

    label: _Text = ""
    x: tuple[float | str, ...] | None = None
    """numbers, or names of categories; null counts from 0"""
    y: tuple[_Number | None, ...]
    """null where there is no value"""
    style: Literal["line", "points"] = "line"
    y_error: tuple[_Number | None, ...] | None = None
    """standard errors"""

    @field_validator("x", mode="before")
    @classmethod
    def _of_one_type(cls, x: Any) -> Any:
        is_named = isinstance(x, list | tuple) and any(isinstance(item, str) for item in x)
        return [str(item) for item in x] if is_named else x

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        for name, values in (("x", self.x), ("y_error", self.y_error)):
            if values is not None and len(values) != len(self.y):
                raise ValueError(f"{len(values)} values of {name} for {len(self.y)} of y")
        return self


class Plot(RecordPart):
    """One diagram of lines and points."""

    title: _Text = ""
    x_label: _Text = ""
    y_label: _Text = ""
    series: tuple[Series, ...]
    x_scale: _Scale = "linear"
    y_scale: _Scale = "linear"

    @model_validator(mode="before")
    @classmethod
    def _with_shared_x(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("series"), list):
            return data
        shared = {"x": data.get("x")}
        series = [{**shared, **one} if isinstance(one, Mapping) else one for one in data["series"]]
        return {**data, "series": series}


class Table(RecordPart):
    """Rows of cells under named columns."""

    columns: tuple[_Text, ...]
    rows: tuple[tuple[JsonValue, ...], ...]

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} has {len(row)} cells for {len(self.columns)} columns"
                )
        return self


class Outcome(RecordPart):
    """The parts of a flow's result that reports show."""

    plot: Plot | str | None = None
    """lines and points, or an SVG document that the flow has drawn"""
    table: Table | None = None
    summary: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """why a part of the result is not shown"""

    def rest(self, result: Any) -> Any:
        """Return the result without the parts that are shown; None if nothing is left."""
        if not isinstance(result, Mapping):
            return result
        shown = [name for name in _PARTS if getattr(self, name)]
        return {key: value for key, value in result.items() if key not in shown} or None


def _svg(text: Any) -> str:
    if not isinstance(text, str) or "<svg" not in text[:2000]:
        raise ValueError("expected an SVG document")
    return text


def _lines(summary: Any) -> Any:
    return summary.splitlines() if isinstance(summary, str) else summary


_PARTS: Mapping[str, TypeAdapter[Any]] = {
    "plot": TypeAdapter(Plot),
    "table": TypeAdapter(Table),
    "summary": TypeAdapter(Annotated[tuple[_Text, ...], BeforeValidator(_lines)]),
}
_SVG: TypeAdapter[str] = TypeAdapter(Annotated[str, BeforeValidator(_svg)])


def outcome_of(result: Any) -> Outcome:
    """Find plot, table and summary in a result, as `json_value` gives it.

    A flow offers them by returning a mapping with any of these keys::

        {"plot": {"title", "x_label", "y_label", "x": [...],
                  "series": [{"label", "y": [...], "style": "line" | "points", "y_error": [...]}]},
         "table": {"columns": [...], "rows": [[...]]},
         "summary": ["a line", ...]}

    ``plot`` may also be an SVG document as text. A part of another form becomes a note, never an
    error: a finished run must not fail for its picture.
    """
    parts: dict[str, Any] = {"notes": ()}
    for name, form in _PARTS.items() if isinstance(result, Mapping) else ():
        if name not in result:
            continue
        form = _SVG if name == "plot" and isinstance(result[name], str) else form  # noqa: PLW2901
        try:
            parts[name] = form.validate_python(result[name])
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, (name, *fault["loc"])))
            reason = fault["msg"].removeprefix("Value error, ")
            parts["notes"] += (f"the result's {place!r} is not shown: {reason}",)
    return Outcome(**parts)
