"""Parameters of a flow, from the command line to the types its signature asks for."""

from __future__ import annotations

import inspect
import json
import textwrap
import tomllib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from backends.suggestions import did_you_mean

if TYPE_CHECKING:
    from prefect import Flow

__all__ = [
    "ParameterError",
    "assignments",
    "bound_parameters",
    "checked_parameters",
    "collapsed_parameters",
    "json_parameters",
    "literal",
]


_SHOWN = 60
# By the beginning of Pydantic's kinds of errors, what a value should have been.
_EXPECTED = {
    "float_": "a number such as 0.5",
    "int_": "a whole number such as 3",
    "bool_": "true or false",
    "complex_": "a number such as 0.5 or 1+2j",
    "list_type": "a list such as [1, 2]",
    "tuple_type": "a list such as [1, 2]",
    "set_type": "a list such as [1, 2]",
    "dict_type": "a table such as {a = 1}",
    "string_type": "text",
    "finite_number": "a finite number",
}


class ParameterError(ValueError):
    """A parameter is unknown, missing, or of another type than the flow asks for."""


def assignments(given: Sequence[str]) -> dict[str, str]:
    """Split ``name=value`` texts. Raises `ParameterError` on another form, or a name twice."""
    texts: dict[str, str] = {}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ParameterError(f"-p {entry!r}: expected name=value")
        if name.strip() in texts:
            raise ParameterError(f"-p {name.strip()} is given twice")
        texts[name.strip()] = text
    return texts


def bound_parameters(function: Any, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the values the function asks for from texts, or raise `ParameterError`.

    Tried in turn until one fits the annotation: TOML or JSON, plain text, items between commas.
    """
    missing = _missing(function, texts)
    if missing:
        raise ParameterError(
            f"the flow needs a value for: {', '.join(missing)}; give -p {missing[0]}=…"
        )
    hints = _hints(function)
    return {name: _fitted(name, text, hints.get(name, Any)) for name, text in texts.items()}


def checked_parameters(function: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the names of parameters, not their types, or raise `ParameterError`."""
    missing = _missing(function, values)
    if missing:
        raise ParameterError(f"the flow needs a value for: {', '.join(missing)}")
    return dict(values)


def json_parameters(
    flow: Flow[..., Any], values: Mapping[str, Any], *, finite: bool = False
) -> dict[str, Any]:
    """Return values as JSON has them, for a flow in another process.

    finite: whether infinite numbers are refused, which are not in JSON itself.

    Raises `ParameterError` for a value that the flow would not get as it was given. What JSON has no
    type for, such as a tuple or a path, arrives if the flow's annotation says so.
    """
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    encoded = {}
    for name, value in values.items():
        try:
            encoded[name] = to_jsonable_python(value)
            json.dumps(encoded[name], allow_nan=not finite)
        except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
            raise ParameterError(
                f"parameter {name!r} is a {type(value).__name__} that JSON cannot hold: {error}; "
                "give numbers, text, lists or tables, such as array.tolist(), or the path of a file"
            ) from error
    given, arrived = _validated(flow, values), _validated(flow, json.loads(json.dumps(encoded)))
    for name, value in given.items():
        if not _equal(value, arrived[name]):
            shown = textwrap.shorten(repr(arrived[name]), _SHOWN, placeholder="…")
            raise ParameterError(
                f"parameter {name!r} is a {type(value).__name__} and would arrive in the flow's "
                f"process as {shown}; annotate the flow's parameter with its type, or give numbers, "
                "text, lists or tables with text as keys"
            )
    return encoded


def collapsed_parameters(flow: Flow[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as Prefect stores them: those of ``**kwargs`` in one table under its name."""
    from prefect.utilities.callables import collapse_variadic_parameters

    return collapse_variadic_parameters(flow.fn, dict(values))


def _validated(flow: Flow[..., Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return values as the flow gets them. Raises `ParameterError` for one of another type."""
    from prefect.exceptions import ParameterTypeError

    collapsed = collapsed_parameters(flow, values)
    if not flow.should_validate_parameters:
        return collapsed
    try:
        return flow.validate_parameters(collapsed)
    except ParameterTypeError as error:
        raise ParameterError(f"the flow does not take these parameters: {error}") from None


def _equal(given: Any, arrived: Any) -> bool:
    try:
        return bool(given == arrived)
    except Exception:  # noqa: BLE001 - whatever a type of the user's does
        return False


def _missing(function: Any, given: Collection[str]) -> list[str]:
    """Return the names that need a value and have none. Raises `ParameterError` for an unknown one."""
    signature = inspect.signature(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    for name in given:
        if name not in named and not takes_any:
            raise ParameterError(
                f"the flow has no parameter {name!r}; it takes: {', '.join(named) or 'none'}"
                f"{did_you_mean(name, named)}"
            )
    return [n for n, p in named.items() if p.default is p.empty and n not in given]


def literal(text: str) -> Any:
    """Read a text as a TOML value, else as JSON, else leave it as it is.

    >>> [literal(t) for t in ("0.5", "true", "[1, 2]", "null", "h2.xyz", "1e3")]
    [0.5, True, [1, 2], None, 'h2.xyz', 1000.0]
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
        if len(parsed) == 1:
            return parsed["value"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _fitted(name: str, text: str, annotation: Any) -> Any:
    if annotation is Any:
        return literal(text)
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUserError, NameError):
        try:
            adapter = TypeAdapter(annotation)
        except (PydanticSchemaGenerationError, PydanticUserError, NameError):
            return literal(text)
    fault: Any = None
    for candidate in (literal(text), text, [literal(part.strip()) for part in text.split(",")]):
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            fault = fault or error.errors()[0]
    shown = getattr(annotation, "__name__", None) or str(annotation)
    shown = str(annotation) if "[" in str(annotation) else shown
    raise ParameterError(f"-p {name}={text}: expected {shown}; {_fault(fault)}")


def _fault(fault: Any) -> str:
    """Say what is wrong with a value: in our words if it is of another type, else in Pydantic's."""
    expected = next(
        (words for kind, words in _EXPECTED.items() if fault["type"].startswith(kind)), ""
    )
    if not expected:
        message = fault["msg"].removeprefix("Value error, ")
        return f"{message[:1].lower()}{message[1:]}"
    place = "".join(f" entry {at + 1}" if isinstance(at, int) else f" {at}" for at in fault["loc"])
    given = repr(fault["input"])
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    return f"{place.strip() or 'it'} is {shown}, not {expected}"


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # names that exist for type checkers only
        return {}
