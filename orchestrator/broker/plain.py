"""Dataclasses as JSON types and back, by their annotations."""

from __future__ import annotations

import types
import typing
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar

__all__ = ["from_plain", "to_plain"]

T = TypeVar("T")
_Read = Callable[[Any], Any]
_COLLECTIONS: tuple[Any, ...] = (tuple, list, deque, set, frozenset)
_ABSENT = object()


def to_plain(value: Any) -> Any:
    """Return a value as JSON types; fields that have their default are left out.

    Understands dataclasses, enumerations, times, mappings with string keys, sequences and sets.
    """
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return value.isoformat()
        case Mapping():
            return {key: to_plain(held) for key, held in value.items()}
        case set() | frozenset():
            return sorted(to_plain(held) for held in value)
        case tuple() | list() | deque():
            return [to_plain(held) for held in value]
    found = {}
    kind: Any = type(value)
    for name, default in _defaults(kind):
        held = getattr(value, name)
        if default is _ABSENT or held != default:
            found[name] = to_plain(held)
    return found


def from_plain(kind: type[T], data: Any) -> T:
    """Rebuild a dataclass of this kind; absent fields get their defaults.

    Raises ``ValueError``, ``TypeError`` or ``KeyError`` if the data does not fit.
    """
    wanted: Any = kind
    rebuilt: T = _reader(wanted)(data)
    return rebuilt


@cache
def _defaults(kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, _default(field)) for field in fields(kind))


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return _ABSENT if field.default is MISSING else field.default


@cache
def _reader(kind: Any) -> _Read:
    """Return what turns JSON types into this type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, typing.NewType):
        return _reader(kind.__supertype__)
    if origin in (typing.Union, types.UnionType):
        (inner,) = [_reader(one) for one in arguments if one is not type(None)]
        return lambda data: None if data is None else inner(data)
    if origin in (dict, Mapping):
        held = _reader(arguments[1])
        return lambda data: {key: held(one) for key, one in data.items()}
    if origin in _COLLECTIONS:
        make, held = typing.cast("type[Any]", origin), _reader(arguments[0])
        return lambda data: make([held(one) for one in data])
    if isinstance(kind, type) and issubclass(kind, datetime):
        return datetime.fromisoformat
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    if is_dataclass(kind):
        return _dataclass_reader(typing.cast("type[Any]", kind))
    return lambda data: data  # numbers, texts, literals, and what is JSON already


def _dataclass_reader(kind: type[Any]) -> _Read:
    hints = typing.get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}

    def read(data: Any) -> Any:
        return kind(**{name: readers[name](held) for name, held in data.items()})

    return read
