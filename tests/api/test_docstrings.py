"""The public API is documented in Google style, with arguments and results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hpcqc

# What the context manager of a block yields is nothing.
NOTHING_RETURNED = ("None", "Iterator[None]", None, inspect.Signature.empty)


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in hpcqc.__all__:
        value = getattr(hpcqc, name)
        if not inspect.isclass(value):
            yield name, value
        elif not issubclass(value, BaseException):
            for method, found in [*vars(value).items()]:  # a lookup may complete a deferred model
                function = getattr(found, "__func__", found)
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{name}.{method}", function


@pytest.mark.parametrize(("name", "function"), [*public_functions()])
def test_arguments_and_results_are_described(name, function) -> None:
    signature, text = inspect.signature(function), inspect.getdoc(function) or ""
    arguments = [p for p in signature.parameters if p not in ("self", "cls")]
    assert not arguments or "Args:" in text
    section = text.partition("Args:")[2]
    undescribed = [a for a in arguments if f"{a}:" not in section]
    assert not undescribed, f"{name} does not describe {undescribed}"
    if signature.return_annotation not in NOTHING_RETURNED:
        assert "Returns:" in text
