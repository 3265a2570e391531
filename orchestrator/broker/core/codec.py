"""Dataclasses as JSON and back, by their annotations: the one codec, on Pydantic."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

__all__ = ["from_json", "to_json", "to_plain"]

T = TypeVar("T")
_BOUNDS = {"ge", "gt", "le", "lt", "min_length", "max_length", "pattern", "strict", "allow_inf_nan"}


def to_json(value: Any, kind: Any = None) -> str:
    """Return a dataclass, or its fields of a base class ``kind``, as JSON without defaults."""
    written: Any = kind or type(value)
    text = _adapter(written).dump_json((value,), exclude_defaults=True)
    return text[1:-1].decode()


def to_plain(value: Any) -> Any:
    """Return what `to_json` writes as JSON types."""
    written: Any = type(value)
    return _adapter(written).dump_python((value,), mode="json", exclude_defaults=True)[0]


def from_json(kind: type[T], text: str) -> T:
    """Rebuild a dataclass; absent fields get their defaults. Raises ``ValueError``.

    Only types are checked: bounds of fields are for requests, and may change between versions. An
    unknown field is an error: a later version wrote it, and it may change what the rest means.
    """
    wanted: Any = kind
    try:
        (value,) = _reader(wanted).validate_json(f"[{text}]")
    except ValueError as error:
        fault: Any = error
        first = fault.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        raise ValueError(f"{field}: {first['msg']}" if field else first["msg"]) from None
    rebuilt: T = value
    return rebuilt


@cache
def _adapter(kind: Any) -> TypeAdapter[tuple[Any]]:
    from pydantic import TypeAdapter  # takes 0.03 s, and --help has no need of it

    # The configuration of an adapter reaches dataclasses only if they are inside another type.
    return TypeAdapter(tuple[kind], config={"extra": "forbid", "ser_json_inf_nan": "constants"})


@cache
def _reader(kind: Any) -> SchemaValidator:
    from pydantic_core import SchemaValidator

    return SchemaValidator(_without_bounds(_adapter(kind).core_schema))


def _without_bounds(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_bounds(part) for key, part in schema.items() if key not in _BOUNDS}
    return [_without_bounds(part) for part in schema] if isinstance(schema, list) else schema
