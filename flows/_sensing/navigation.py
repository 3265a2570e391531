"""Dead reckoning with a bias that is known better from time to time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Correction", "drift", "drift_corrected"]

_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A time (s) at which the bias of an axis became better known.

    before, after: standard deviation in m/s²; change: of the mean.
    """

    at_s: float
    before: float
    after: float
    change: float


def drift(times: _Values, errors: _Values) -> _Values:
    """Return the position's error for errors of the acceleration (n,), by the trapezoidal rule."""
    steps = np.diff(times)
    speeds = np.concatenate([[0.0], np.cumsum(steps * (errors[1:] + errors[:-1]) / 2)])
    return np.concatenate([[0.0], np.cumsum(steps * (speeds[1:] + speeds[:-1]) / 2)])


def drift_corrected(
    times: _Values,
    errors: _Values,
    corrections: list[Correction],
    *,
    noise: float,
) -> _Values:
    """Return the position's error of an axis while a Kalman filter corrects it (n,).

    What a correction says of the bias it also says of speed and position, which the wrong bias has
    changed before.

    Args:
        times: Of the readings, in s from the beginning, where speed and position are known.
        errors: Readings less truth.
        corrections: In the order of time; before them the mean of the bias is 0.
        noise: Standard deviation of a single reading.
    """
    # Of what truth has more than the estimate: position, speed, bias.
    covariance = np.zeros((3, 3))
    covariance[2, 2] = corrections[0].before ** 2 if corrections else 0.0
    position = speed = 0.0
    bias, begin = 0.0, 0
    sample_s = float(np.median(np.diff(times)))
    found = np.zeros_like(times)
    last = len(times) - 1
    ends = [min(int(np.searchsorted(times, one.at_s)), last) for one in corrections]
    for end, correction in zip([*ends, last], [*corrections, None], strict=True):
        part = slice(begin, end + 1)
        moved, faster = _integrated(times[part], errors[part] - bias)
        found[part] = position + speed * (times[part] - times[begin]) + moved
        passed_s = float(times[end] - times[begin])
        position, speed = float(found[end]), speed + faster
        step = np.array([[1, passed_s, -(passed_s**2) / 2], [0, 1, -passed_s], [0, 0, 1]])
        covariance = step @ covariance @ step.T
        covariance[1, 1] += noise**2 * sample_s * passed_s
        if correction is not None:
            covariance[2, 2] = correction.before**2
            gain = covariance[:, 2] / covariance[2, 2]
            position += float(gain[0]) * correction.change
            speed += float(gain[1]) * correction.change
            bias += correction.change
            covariance -= np.outer(gain, gain) * (correction.before**2 - correction.after**2)
        begin = end
    found[-1] = position
    return found


def _integrated(times: _Values, errors: _Values) -> tuple[_Values, float]:
    """Return what errors of the acceleration move (n,), and the speed at the end."""
    if len(times) < 2:
        return np.zeros(len(times)), 0.0
    return drift(times, errors), float(np.trapezoid(errors, times))
