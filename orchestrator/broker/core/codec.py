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
_Step = Callable[[Any], Any]
_COLLECTIONS: tuple[Any, ...] = (tuple, list, deque, set, frozenset)
_ABSENT = object()


def to_plain(value: Any) -> Any:
    """Return a dataclass as JSON types; fields that have their default are left out.

    Its fields may be dataclasses, enumerations, times, mappings with string keys, collections of
    such, any of these or None, and what is JSON already.
    """
    kind: Any = type(value)
    write = _writer(kind)
    return value if write is None else write(value)


def from_plain(kind: type[T], data: Any) -> T:
    """Rebuild a dataclass of this kind; absent fields get their defaults.

    Raises ``ValueError``, ``TypeError`` or ``KeyError`` if the data does not fit.
    """
    wanted: Any = kind
    rebuilt: T = _reader(wanted)(data)
    return rebuilt


@cache
def _writer(kind: Any) -> _Step | None:
    """Return what turns this type into JSON types; None for what is JSON already."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, typing.NewType):
        return _writer(kind.__supertype__)
    if origin in (typing.Union, types.UnionType):
        (inner,) = [_writer(one) for one in arguments if one is not type(None)]
        return inner and (lambda value: None if value is None else inner(value))
    if origin in (dict, Mapping):
        held = _writer(arguments[1])
        return held and (lambda value: {key: held(one) for key, one in value.items()})
    if origin in _COLLECTIONS:
        make: _Step = sorted if origin in (set, frozenset) else list
        one_of = _writer(arguments[0])
        return make if one_of is None else lambda value: make([one_of(one) for one in value])
    if isinstance(kind, type) and issubclass(kind, datetime):
        return datetime.isoformat
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda value: value.value
    return _dataclass_writer(kind) if is_dataclass(kind) else None


def _dataclass_writer(kind: Any) -> _Step:
    hints = typing.get_type_hints(kind)
    steps = [(f.name, _default(f), _writer(hints[f.name])) for f in fields(kind)]

    def write(value: Any) -> dict[str, Any]:
        found = {}
        for name, default, step in steps:
            held = getattr(value, name)
            if held is not default and (default is _ABSENT or held != default):
                found[name] = held if step is None else step(held)
        return found

    return write


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return _ABSENT if field.default is MISSING else field.default


@cache
def _reader(kind: Any) -> _Step:
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


def _dataclass_reader(kind: type[Any]) -> _Step:
    hints = typing.get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}

    def read(data: Any) -> Any:
        return kind(**{name: readers[name](held) for name, held in data.items()})

    return read
