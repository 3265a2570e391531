"""Whether a flow that runs again gives what it gave: counts and texts exactly, sums to rounding."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["differences"]

_ROUNDING = 1e-9


def differences(first: Any, again: Any, place: str = "result") -> list[str]:
    """Return where two results differ by more than rounding; pictures may be drawn from rounded numbers.

    Sums in floating point depend on how many threads share them, so that two machines, or one with
    other cores free, differ in the last digits.
    """
    if isinstance(first, dict) and isinstance(again, dict) and first.keys() == again.keys():
        return [
            found
            for key in first
            for found in differences(first[key], again[key], f"{place}.{key}")
            if not (key == "plot" and isinstance(first[key], str))
        ]
    if isinstance(first, list) and isinstance(again, list) and len(first) == len(again):
        pairs = enumerate(zip(first, again, strict=True))
        return [found for at, (a, b) in pairs for found in differences(a, b, f"{place}[{at}]")]
    if type(first) is float and type(again) is float:
        near = math.isclose(first, again, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
        return [] if near else [f"{place}: {first!r}, then {again!r}"]
    return [] if first == again else [f"{place}: {first!r:.80}, then {again!r:.80}"]
