"""How tests wait: until something has happened, as long as the slowest machine needs for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_S", "until"]

# It only keeps a test that waits in vain from hanging; no test asserts how long something took.
PATIENCE_S = 300.0

_Value = TypeVar("_Value")


def until(
    condition: Callable[[], _Value],
    story: Callable[[], object] = lambda: "",
    *,
    pause_s: float = 0.01,
) -> _Value:
    """Return the condition's value as soon as it is true.

    story: what the failure prints if it does not become true.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s in vain: {story()}"
        time.sleep(pause_s)
    return value
