"""Checks of arguments that users pass to functions."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["expect", "expect_texts"]


def expect(name: str, value: object, types: type | tuple[type, ...], expected: str) -> None:
    """Raise ``TypeError`` with the argument's name and value unless it is of one of the types."""
    if not isinstance(value, types):
        raise TypeError(f"{name} = {value!r:.200}; give {expected}")


def expect_texts(name: str, values: object, example: str) -> None:
    """Raise ``TypeError`` unless an argument is a sequence of texts; one text is none."""
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    if not listed or not all(isinstance(value, str) for value in values):  # type: ignore[attr-defined]
        raise TypeError(f"{name} = {values!r:.200}; give a list of texts, such as [{example!r}]")
