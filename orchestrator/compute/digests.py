"""Digests of functions and values that are equal in every process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterable
from enum import Enum
from types import CodeType, FunctionType, MethodType
from typing import Any

__all__ = ["value_digest"]

_PLAIN = frozenset({bool, bytes, complex, float, int, str, type(None)})


def value_digest(value: Any) -> str:
    """Return a hex digest (64 bit) of a value, or of what a function does.

    By Dask's tokens, since a value that was stored and read again must count as the same, and
    its pickle often differs by a byte. Functions and objects of the user's own classes are first
    reduced to what they are made of: pickled by value, they differ from process to process.

    Of a function counts its code with its constants, its defaults, the values it closes over, the
    arguments of a ``partial`` and the object of a bound method. Its place in the file does not
    count, nor do module-level names it uses: functions it merely calls may change unnoticed.
    """
    from dask.tokenize import tokenize  # commands that compute nothing are spared Dask

    return hashlib.blake2b(tokenize(_parts(value, ())).encode(), digest_size=8).hexdigest()


def _parts(value: Any, outer: tuple[int, ...]) -> Any:
    """Reduce a value to what tokens tell apart. outer: what it is inside of, by identity."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if id(value) in outer:  # a function that closes over itself, a list that holds itself
        return ("itself", outer.index(id(value)))
    inside = (*outer, id(value))
    if isinstance(value, dict):
        return (kind.__qualname__, {key: _parts(item, inside) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return (kind.__qualname__, _all(value, inside))
    return _object(value, inside)


def _object(value: Any, inside: tuple[int, ...]) -> Any:
    kind = type(value)
    if isinstance(value, type) or hasattr(kind, "__dask_tokenize__"):
        return value
    if isinstance(value, Enum):
        return (kind.__qualname__, value.name)
    if isinstance(value, functools.partial):
        return ("partial", _all((value.func, value.args, value.keywords), inside))
    if isinstance(value, MethodType):
        return ("method", _all((value.__func__, value.__self__), inside))
    if isinstance(value, FunctionType):
        return _function(value, inside)
    if dataclasses.is_dataclass(value):
        fields = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
        return (kind.__module__, kind.__qualname__, _all(fields, inside))
    if _is_the_users_own(value):
        return (kind.__module__, kind.__qualname__, _parts(vars(value), inside))
    return value


def _all(values: Iterable[Any], outer: tuple[int, ...]) -> list[Any]:
    return [_parts(value, outer) for value in values]


def _function(function: FunctionType, inside: tuple[int, ...]) -> Any:
    closure = [_content(cell) for cell in function.__closure__ or ()]
    given = (function.__defaults__, function.__kwdefaults__, closure)
    return ("function", function.__qualname__, _code(function.__code__), _all(given, inside))


def _code(code: CodeType) -> tuple[Any, ...]:
    constants = [_constant(constant) for constant in code.co_consts]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_name, code.co_code, constants, names, code.co_exceptiontable)


def _constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _code(constant)
    if isinstance(constant, frozenset):  # of a literal after `in`; in another order each time
        return ("frozenset", sorted(map(repr, constant)))
    return (type(constant).__name__, repr(constant))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is bound only later
        return "empty cell"


def _is_the_users_own(value: Any) -> bool:
    """Whether an object's class travels by value, not by the name under which it is imported."""
    kind = type(value)
    if not hasattr(value, "__dict__") or hasattr(kind, "__slots__"):
        return False
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not kind or kind.__module__ == "__main__"
