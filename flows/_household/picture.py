"""The picture of a battery's control: what each way costs, how the circuit learned, what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows._comparison import Way
from flows._drawing import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LearningCurve", "picture"]

_Values = NDArray[np.float64]
_QUANTUM, _CLASSICAL, _BOUND = "#d1495b", "#33404a", "#8d99ae"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """How one policy learned. history: the lowest cost of each generation, relative, in training."""

    name: str
    history: Sequence[float]
    is_quantum: bool


def picture(
    title: str, ways: Sequence[Way], bound: Way, learned: Sequence[LearningCurve], policy: _Values
) -> str:
    """Return an SVG document.

    Args:
        title: Of the whole.
        ways: With their costs relative to no battery.
        bound: What foresight costs.
        learned: The policies that evolved.
        policy: What the quantum policy does at a middle net load, (24, states of charge).
    """
    with drawing("household", 10, 3.6) as drawn:
        figure = drawn.figure
        figure.suptitle(title, fontsize=9)
        left, middle, right = figure.subplots(1, 3).ravel().tolist()
        _draw_costs(left, ways, bound)
        for one in learned:
            color = _QUANTUM if one.is_quantum else _CLASSICAL
            middle.plot(range(1, len(one.history) + 1), one.history, color=color, label=one.name)
        middle.set_xlabel("Generation")
        middle.set_ylabel("Cost relative to no battery")
        middle.set_title("Evolution on the homes of the training", fontsize=8)
        middle.legend(frameon=False)
        _draw_policy(figure, right, policy)
    return drawn.svg


def _draw_costs(axes: Axes, ways: Sequence[Way], bound: Way) -> None:
    rows = [*ways, bound]
    colors = [_QUANTUM if way.is_quantum else _CLASSICAL for way in ways] + [_BOUND]
    places = np.arange(len(rows))[::-1]
    values = [way.figure.value for way in rows]
    errors = [way.figure.error for way in rows]
    axes.errorbar(values, places, xerr=errors, fmt="none", ecolor="#33404a", capsize=2)
    axes.scatter(values, places, c=colors, s=30, zorder=3)
    axes.set_yticks(places, [way.name for way in rows])
    axes.axvline(bound.figure.value, color=_BOUND, lw=0.8, ls=":")
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xlabel("Cost relative to no battery")
    axes.set_title("Unseen homes", fontsize=8)


def _draw_policy(figure: object, axes: Axes, policy: _Values) -> None:
    shown = axes.imshow(
        policy.T,
        origin="lower",
        aspect="auto",
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        extent=(0, 24, 0, 1),
    )
    axes.set_xlabel("Hour of the day")
    axes.set_ylabel("State of charge")
    axes.set_title("Quantum policy: charge (+), give (−)", fontsize=8)
    figure.colorbar(shown, ax=axes)  # type: ignore[attr-defined]
