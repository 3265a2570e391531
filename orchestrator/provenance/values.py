"""Any Python value as JSON."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from typing import Any

__all__ = ["json_text", "json_value"]


def json_value(value: Any) -> Any:
    """Reduce a value to what JSON can say, without ever failing.

    Models of Pydantic become objects, arrays nested lists, complex numbers ``{"real", "imag"}``,
    dates ISO 8601, bytes ``{"base64"}``, figures of Matplotlib SVG documents, NaN and infinities
    None; any other value becomes its ``str``.

    >>> json_value({"z": 1j, 2: (float("nan"), {3})})
    {'z': {'real': 0.0, 'imag': 1.0}, '2': [None, [3]]}
    """
    match value:
        case Enum():
            return json_value(value.value)
        case Mapping():
            named = ((key.value if isinstance(key, Enum) else key, v) for key, v in value.items())
            return {str(name): json_value(item) for name, item in named}
        case list() | tuple():
            return [json_value(item) for item in value]
        case Set():
            return [json_value(item) for item in sorted(value, key=repr)]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_value(getattr(value, f.name)) for f in fields(value)}
    if callable(getattr(value, "model_dump", None)) and not isinstance(value, type):  # Pydantic
        return json_value(value.model_dump())
    if callable(getattr(value, "tolist", None)):  # NumPy arrays and scalars
        return json_value(value.tolist())
    if callable(getattr(value, "savefig", None)) and not isinstance(value, type):
        return _svg(value)
    return _scalar(value)


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    r"""Return a value as indented JSON with a final newline; keys keep their order.

    Half a surrogate pair, which a file's name may hold and UTF-8 cannot, is escaped.

    >>> json_text("Å"), json_text("Å", ascii_only=True)
    ('"Å"\n', '"\\u00c5"\n')
    """
    reduced = json_value(value)
    text = json.dumps(reduced, indent=2, ensure_ascii=ascii_only) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(reduced, indent=2) + "\n"
    return text


def _svg(figure: Any) -> str:
    document = io.StringIO()
    try:
        figure.savefig(document, format="svg")
    except Exception as error:  # noqa: BLE001 - the figure is the user's, the errors Matplotlib's
        return f"{figure} cannot be drawn: {type(error).__name__}: {error}"
    return document.getvalue()


def _scalar(value: Any) -> Any:
    match value:
        case None | bool() | int():
            return value
        case float():
            return float(value) if math.isfinite(value) else None
        case complex():
            return {"real": _scalar(value.real), "imag": _scalar(value.imag)}
        case date():
            return value.isoformat()
        case bytes() | bytearray():
            return {"base64": base64.b64encode(value).decode("ascii")}
    return str(value)
