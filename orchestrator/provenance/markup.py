"""HTML from templates, everything in it escaped, and values as people read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from orchestrator.provenance.values import json_value
from orchestrator.wording import visible

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["cell_text", "duration_text", "rendered", "templates"]


def rendered(template: str, **values: Any) -> str:
    """Return the page that a template of this package makes of values."""
    return templates().get_template(template).render(values)


@cache
def templates() -> Environment:
    """Return the templates: every value is escaped, and characters that cannot be seen shown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("orchestrator.provenance"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if hasattr(value, "__html__") else visible(str(value)),
    )
    found.filters |= {
        "cell": cell_text,
        "json": lambda value: json.dumps(json_value(value), indent=2, ensure_ascii=False),
        "numeric": lambda rows: [_are_numbers(column) for column in zip(*rows, strict=True)],
    }
    return found


def cell_text(value: Any) -> str:
    """Return a value as people read it: seven significant digits, a dash for nothing.

    >>> [cell_text(v) for v in (1.23456789, 1e-9, 3, None, [1, "a"])]
    ['1.234568', '1e-09', '3', '-', '1, a']
    """
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell_text(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell_text(item)}" for name, item in value.items())
    return str(value)


def duration_text(seconds: float | None) -> str:
    """Return a duration as people read it.

    >>> [duration_text(s) for s in (None, 0.0123, 75.4, 7265)]
    ['-', '12.3 ms', '1 min 15 s', '2 h 1 min']
    """
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _are_numbers(column: Sequence[Any]) -> bool:
    return all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        for value in column
    )
