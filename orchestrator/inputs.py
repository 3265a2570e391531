"""A flow's own check of its parameters, made before anything of a run is there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["InputRefused", "check_inputs", "checked_by"]

F = TypeVar("F", bound=Callable[..., Any])
_CHECK = "__hpcqc_check__"


class InputRefused(ValueError):
    """A flow's own check refuses its parameters."""


def checked_by(check: Callable[[Mapping[str, Any]], object]) -> Callable[[F], F]:
    """Check a flow's parameters before ``hpcqc run`` and ``hpcqc submit`` start it.

    Write it below ``@flow``. The check runs in the user's shell: read files and compare numbers,
    no more.

    Args:
        check: takes all parameters by name, with the defaults of those not given, and raises a
            ``ValueError`` that says what is wrong; its return value is ignored.

    Returns:
        A decorator that returns the function itself.
    """

    def note(function: F) -> F:
        setattr(function, _CHECK, check)
        return function

    return note


def check_inputs(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Call the check of a flow's function, if it has one. Raises `InputRefused`."""
    check = getattr(function, _CHECK, None)
    if check is None:
        return
    bound = inspect.signature(function).bind(**given)
    bound.apply_defaults()
    try:
        check(bound.arguments)
    except ValueError as error:
        raise InputRefused(str(error)) from error
