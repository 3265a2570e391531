"""The picture of a sensor simulation: drift, interrogation times, and what is known of the bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows._drawing import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Course", "picture"]

_Values = NDArray[np.float64]
_COLORS = ("#d1495b", "#33404a", "#8d99ae", "#edae49", "#66a182", "#2e4057")
_AXES = ("x", "y", "z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The adaptive interrogation of all trials, cycles first.

    at_s: (cycles,). pulses_s, deviations, errors: (cycles, trials, 3).
    """

    at_s: _Values
    pulses_s: _Values
    deviations: _Values
    errors: _Values


def picture(title: str, times: _Values, drifts: Mapping[str, _Values], course: Course) -> str:
    """Return an SVG document.

    Args:
        title: Of the whole.
        times: (n,) in s.
        drifts: For each way the distance from the true position, (trials, n) in m.
        course: Of the adaptive interrogation.
    """
    with drawing("sensing", 10, 3.6) as drawn:
        figure = drawn.figure
        figure.suptitle(title, fontsize=9)
        left, middle, right = figure.subplots(1, 3).ravel().tolist()
        _draw_drifts(left, times, drifts)
        _draw_pulses(middle, course)
        _draw_bias(right, course)
    return drawn.svg


def _draw_drifts(axes: Axes, times: _Values, drifts: Mapping[str, _Values]) -> None:
    for color, (name, values) in zip(_COLORS, drifts.items(), strict=False):
        mean = values.mean(axis=0)
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        axes.plot(times, mean, color=color, label=name, lw=1.2)
        axes.fill_between(times, mean - error, mean + error, color=color, alpha=0.2, lw=0)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-3)
    axes.set_xlabel("Time of navigation (s)")
    axes.set_ylabel("Distance from the true position (m)")
    axes.set_title("Drift, mean of the trials", fontsize=8)
    axes.legend(frameon=False, loc="lower right", fontsize=7)


def _draw_pulses(axes: Axes, course: Course) -> None:
    for axis, name in enumerate(_AXES):
        mean = np.exp(np.log(course.pulses_s[:, :, axis]).mean(axis=1)) * 1000
        axes.step(course.at_s, mean, where="mid", color=_COLORS[axis], lw=1.2, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("Time of navigation (s)")
    axes.set_ylabel("Time between pulses (ms)")
    axes.set_title("Adaptive interrogation, simulated", fontsize=8)
    axes.legend(frameon=False, title="axis")


def _draw_bias(axes: Axes, course: Course) -> None:
    stated = np.sqrt((course.deviations**2).mean(axis=(1, 2)))
    found = np.sqrt((course.errors**2).mean(axis=(1, 2)))
    axes.plot(course.at_s, found, color=_COLORS[0], lw=1.2, label="error, root mean square")
    axes.plot(course.at_s, stated, color=_COLORS[1], lw=1.0, ls="--", label="as stated")
    axes.set_yscale("log")
    axes.set_xlabel("Time of navigation (s)")
    axes.set_ylabel("Bias of the accelerometer (m/s²)")
    axes.set_title("What is known of the bias", fontsize=8)
    axes.legend(frameon=False)
