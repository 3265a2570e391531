"""Waveforms of Pulser's abstract representation: written, checked, and sampled each nanosecond."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from backends.errors import PayloadRejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LONGEST_NS",
    "Waveform",
    "is_finite",
    "waveform_duration_ns",
    "waveform_samples",
]

# Longer than any device drives its atoms; bounds what samples may take.
LONGEST_NS = 1_000_000
_MOST_PARTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """A value over time, in rad/µs. representation: as Pulser writes it in JSON."""

    duration_ns: int
    representation: Mapping[str, Any]

    @classmethod
    def constant(cls, duration_ns: int, value: float) -> Waveform:
        """Return a waveform of one value.

        Args:
            duration_ns: How long it lasts, in ns.
            value: In rad/µs.

        Returns:
            The waveform.

        Raises:
            ValueError: The duration is not a whole number above 0, or the value is not finite.
        """
        return _made("constant", duration_ns, value=_finite(value, "value"))

    @classmethod
    def ramp(cls, duration_ns: int, start: float, stop: float) -> Waveform:
        """Return a waveform that changes linearly.

        Args:
            duration_ns: How long it lasts, in ns.
            start: First value, in rad/µs.
            stop: Last value, in rad/µs.

        Returns:
            The waveform.

        Raises:
            ValueError: As `constant`.
        """
        return _made("ramp", duration_ns, start=_finite(start, "start"), stop=_finite(stop, "stop"))

    @classmethod
    def interpolated(
        cls, duration_ns: int, values: Sequence[float], times: Sequence[float] | None = None
    ) -> Waveform:
        """Return a smooth waveform through given values, without overshoot (PCHIP).

        Args:
            duration_ns: How long it lasts, in ns.
            values: At least two, in rad/µs.
            times: Of each value, as fractions of the duration that rise from 0 to 1; None spaces
                them evenly.

        Returns:
            The waveform.

        Raises:
            ValueError: As `constant`, or times that do not rise or do not match the values.
        """
        given = [_finite(value, "value") for value in values]
        if len(given) < 2:
            raise ValueError(f"{len(given)} values; give at least two")
        if times is None:
            last = len(given) - 1
            places = [number / last for number in range(len(given))]
        else:
            places = [_finite(time, "time") for time in times]
        rising = all(a < b for a, b in pairwise(places))
        if len(places) != len(given) or not rising or places[0] < 0 or places[-1] > 1:
            raise ValueError(
                f"times {places}; give one for each of {len(given)} values, rising, from 0 to 1"
            )
        return _made("interpolated", duration_ns, values=given, times=places)


def is_finite(value: Any) -> bool:
    """Whether a value of JSON is a number that a float can hold."""
    largest = sys.float_info.max
    return type(value) in (int, float) and -largest <= value <= largest


def waveform_duration_ns(stated: Any) -> int | None:
    """Return how long a waveform lasts; None for one that Pulser alone can compute.

    Raises `PayloadRejected` for a waveform that is none.
    """
    kind = _kind(stated)
    if kind == "composite":
        parts = [waveform_duration_ns(part) for part in _parts(stated)]
        known = sum(part for part in parts if part is not None)
        if known > LONGEST_NS:
            raise PayloadRejected(
                f"a composite waveform lasts {known} ns; at most {LONGEST_NS} are taken"
            )
        return None if None in parts else known
    if kind == "custom":
        return len(_numbers(stated, "samples"))
    if kind in _SAMPLED:
        return _duration(stated)
    return None


def waveform_samples(stated: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Return a waveform's value in each nanosecond; None for one that Pulser alone can compute.

    Raises `PayloadRejected` for a waveform that is none.
    """
    import numpy as np

    kind = _kind(stated)
    if kind == "composite":
        parts = [waveform_samples(part) for part in _parts(stated)]
        found = [part for part in parts if part is not None]
        return np.concatenate(found) if len(found) == len(parts) else None
    if kind == "custom":
        return np.array(_numbers(stated, "samples"))
    if kind in _SAMPLED:
        return _SAMPLED[kind](stated, _duration(stated))
    return None


def _made(kind: str, duration_ns: int, **stated: Any) -> Waveform:
    if type(duration_ns) is not int or not 0 < duration_ns <= LONGEST_NS:
        raise ValueError(f"duration_ns {duration_ns!r}; give a whole number from 1 to {LONGEST_NS}")
    written = {"kind": kind, "duration": duration_ns, **stated}
    return Waveform(duration_ns=duration_ns, representation=written)


def _finite(value: Any, name: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} {value!r}; give a finite number")
    return number


def _constant(stated: Mapping[str, Any], duration: int) -> NDArray[np.float64]:
    import numpy as np

    return np.full(duration, _number(stated, "value"))


def _ramp(stated: Mapping[str, Any], duration: int) -> NDArray[np.float64]:
    import numpy as np

    return np.linspace(_number(stated, "start"), _number(stated, "stop"), duration)


def _interpolated(stated: Mapping[str, Any], duration: int) -> NDArray[np.float64]:
    import numpy as np
    from scipy.interpolate import PchipInterpolator

    values, times = _numbers(stated, "values"), _numbers(stated, "times")
    if len(values) != len(times) or len(values) < 2:
        raise PayloadRejected(f"{len(values)} values at {len(times)} times in one waveform")
    order = np.argsort(times)
    places, heights = np.array(times)[order], np.array(values)[order]
    if places[0] < 0 or places[-1] > 1 or (np.diff(places) <= 0).any():
        raise PayloadRejected("the times of an interpolated waveform must differ, from 0 to 1")
    if duration == 1:
        return heights[:1]
    curve = PchipInterpolator(places * (duration - 1), heights)(np.arange(duration))
    return np.asarray(np.clip(curve, heights.min(), heights.max()), dtype=float)


def _blackman(stated: Mapping[str, Any], duration: int) -> NDArray[np.float64]:
    import numpy as np

    return _of_area(np.clip(np.blackman(duration), 0, np.inf), stated)


def _kaiser(stated: Mapping[str, Any], duration: int) -> NDArray[np.float64]:
    import numpy as np

    return _of_area(np.clip(np.kaiser(duration, _number(stated, "beta")), 0, np.inf), stated)


def _of_area(window: NDArray[np.float64], stated: Mapping[str, Any]) -> NDArray[np.float64]:
    total = float(window.sum())
    if not total > 0:
        raise PayloadRejected("a window so short has no area")
    return window * (_number(stated, "area") * 1000 / total)


_SAMPLED: Mapping[str, Callable[[Mapping[str, Any], int], NDArray[np.float64]]] = {
    "constant": _constant,
    "ramp": _ramp,
    "interpolated": _interpolated,
    "blackman": _blackman,
    "kaiser": _kaiser,
}
# What Pulser computes itself: their duration follows from a search.
_OTHERS = ("blackman_max", "kaiser_max")


def _kind(stated: Any) -> str:
    kind = stated.get("kind") if isinstance(stated, dict) else None
    if kind not in (*_SAMPLED, *_OTHERS, "composite", "custom"):
        raise PayloadRejected(
            f"waveform of kind {kind!r:.60}; expected one of: "
            f"{', '.join(sorted((*_SAMPLED, *_OTHERS, 'composite', 'custom')))}"
        )
    return str(kind)


def _parts(stated: Mapping[str, Any]) -> list[Any]:
    parts = stated.get("waveforms")
    if not isinstance(parts, list) or not 0 < len(parts) <= _MOST_PARTS:
        raise PayloadRejected(f"a composite waveform has a list of 1 to {_MOST_PARTS} waveforms")
    if any(isinstance(part, dict) and part.get("kind") == "composite" for part in parts):
        raise PayloadRejected("a composite waveform holds no other composite ones; list its parts")
    return parts


def _duration(stated: Mapping[str, Any]) -> int:
    value = stated.get("duration")
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 < value <= LONGEST_NS:
        raise PayloadRejected(
            f"duration {value!r:.60} of a waveform; give whole nanoseconds from 1 to {LONGEST_NS}"
        )
    return value


def _number(stated: Mapping[str, Any], name: str) -> float:
    value: Any = stated.get(name)
    if not is_finite(value):
        raise PayloadRejected(f"{name} {value!r:.60} of a waveform; give a finite number")
    return float(value)


def _numbers(stated: Mapping[str, Any], name: str) -> list[float]:
    values = stated.get(name)
    if not isinstance(values, list) or not 0 < len(values) <= LONGEST_NS:
        raise PayloadRejected(f"{name} of a waveform: give a list of 1 to {LONGEST_NS} numbers")
    if not all(map(is_finite, values)):
        raise PayloadRejected(f"{name} of a waveform: give finite numbers")
    return [float(value) for value in values]
