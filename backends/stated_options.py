"""Checks of what a site states for a QPU that are alike in many backends."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from backends.plugins import PluginUnusable
from backends.suggestions import did_you_mean

__all__ = ["check_names", "clock_scale"]


def check_names(options: Mapping[str, Any], known: Collection[str], of: str) -> None:
    """Check that all options are known of ``of``, such as "backend 'aer'".

    Raises `PluginUnusable`.

    >>> check_names({"sweps": 3}, ["reads", "sweeps"], "backend 'annealing'")
    Traceback (most recent call last):
    backends.plugins.PluginUnusable: unknown option 'sweps' of backend 'annealing'; there are: reads, \
sweeps; did you mean 'sweeps'?
    """
    for name in options:
        if name not in known:
            raise PluginUnusable(
                f"unknown option {name!r} of {of}; there are: {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )


def clock_scale(options: Mapping[str, Any], *, default: float) -> float:
    """Return the option ``time_scale``, finite and at least 0. Raises `PluginUnusable`."""
    scale = options.get("time_scale", default)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale < math.inf:
        raise PluginUnusable(f"option time_scale = {scale!r}; give a number ≥ 0")
    return float(scale)
