"""Small pieces of HTML, everything in them escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape as html_escape
from typing import Any

from orchestrator.visible_text import visible

__all__ = [
    "cell_text",
    "duration_text",
    "escape",
    "facts_table",
    "folded",
    "number_cards",
    "paragraphs",
    "section",
    "table",
]


def escape(text: str) -> str:
    """Return a text as HTML, with what cannot be seen in it escaped."""
    return html_escape(visible(text))


def section(title: str, *parts: str) -> str:
    """Return a headed section, nothing if it would be empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; columns of numbers are set flush right."""
    rows = [list(row) for row in rows]
    numeric = [
        bool(rows) and all(_is_number(row[i]) or row[i] is None for row in rows)
        for i in range(len(columns))
    ]
    head = "".join(f"<th{_side(n)}>{escape(c)}</th>" for c, n in zip(columns, numeric, strict=True))
    lines = [
        "".join(
            f"<td{_side(n)}>{escape(cell_text(cell))}</td>"
            for cell, n in zip(row, numeric, strict=True)
        )
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return names and values as a two-column table, nothing for no facts."""
    if not facts:
        return ""
    lines = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(cell_text(value))}</td></tr>\n"
        for name, value in facts.items()
    )
    return f'<div class="scroll"><table><tbody>\n{lines}</tbody></table></div>'


def number_cards(numbers: Mapping[str, str]) -> str:
    """Return the run's main numbers as a row of cards."""
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in numbers.items()
    )
    return f'<dl class="numbers">{cards}</dl>'


def paragraphs(lines: Iterable[str], kind: str = "summary") -> str:
    """Return lines of prose in a marked block, nothing for no lines."""
    body = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div class="{kind}">{body}</div>' if body else ""


def folded(title: str, value: Any) -> str:
    """Return a JSON value that opens on a click."""
    text = escape(json.dumps(value, indent=2, ensure_ascii=False))
    return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _side(numeric: bool) -> str:
    return ' class="n"' if numeric else ""
