"""How tests wait for what must come: longer than any machine takes, and no longer than needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_S", "until"]

# A test that waits in vain fails after this; one that does not is never told how long it took.
PATIENCE_S = 300.0

_Value = TypeVar("_Value")


def until(condition: Callable[[], _Value]) -> _Value:
    """Return the condition's value as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value
