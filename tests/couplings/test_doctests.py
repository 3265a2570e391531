"""The examples in the docstrings of the couplings' pure modules, and of the plan."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "orchestrator.application.plan",
        "orchestrator.couplings.models",
        "orchestrator.couplings.policies",
        "orchestrator.couplings.replay",
    ],
)
def test_examples_are_true(name: str) -> None:
    failed, tried = doctest.testmod(import_module(name))
    assert tried > 0
    assert failed == 0
