"""The picture of a consensus of clusterings: the inputs, the consensus, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows._drawing import drawing
from flows._points import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panel", "picture"]

_LINES = ("o-", "s--", "^:")


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """One clustering of the points."""

    title: str
    labels: NDArray[np.int64]


def picture(
    points: Points,
    panels: Sequence[Panel],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    shares: Mapping[str, Sequence[float]],
) -> str:
    """Return an SVG document.

    Args:
        points: What was clustered; of more than two dimensions, the two main axes are shown.
        panels: At most four clusterings.
        curves: Mean silhouettes with their standard errors, one per iteration.
        shares: Shares of shots that are the best choice, one per iteration.
    """
    with drawing("clustering", 9, 5.6) as drawn:
        figure = drawn.figure
        axes = figure.subplots(2, 3).ravel().tolist()
        flat, names = _flat(points)
        for one, panel in zip(axes[:4], panels, strict=False):
            _draw_points(one, flat, names, panel)
        for one in axes[len(panels) : 4]:
            one.set_axis_off()
        _draw_silhouettes(axes[4], curves)
        _draw_shares(axes[5], shares)
    return drawn.svg


def _flat(points: Points) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Return two coordinates of each point, and their names."""
    if len(points.axes) == 2:
        return points.coordinates, (points.axes[0], points.axes[1])
    scaled = points.scaled()
    if len(points.axes) == 1:
        return np.column_stack([points.coordinates, np.zeros(len(points))]), (points.axes[0], "")
    _, _, main = np.linalg.svd(scaled, full_matrices=False)
    return scaled @ main[:2].T, ("first main axis", "second main axis")


def _draw_points(
    axes: Axes, flat: NDArray[np.float64], names: tuple[str, str], panel: Panel
) -> None:
    colors = panel.labels % 20
    # The points are pixels: thousands of circles would be megabytes.
    axes.scatter(
        flat[:, 0], flat[:, 1], c=colors, cmap="tab20", vmin=0, vmax=19, s=5, rasterized=True
    )
    axes.set_title(panel.title, fontsize=8)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])


def _draw_silhouettes(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for (label, values), line in zip(curves.items(), _LINES, strict=False):
        means, errors = zip(*values, strict=True)
        at = range(1, len(values) + 1)
        axes.errorbar(at, means, yerr=errors, fmt=line, label=label, capsize=3, alpha=0.8)
    _finish(axes, "Mean silhouette", len(next(iter(curves.values()))))


def _draw_shares(axes: Axes, shares: Mapping[str, Sequence[float]]) -> None:
    for (label, values), line in zip(shares.items(), _LINES, strict=False):
        positive = [value if value > 0 else np.nan for value in values]
        axes.plot(range(1, len(values) + 1), positive, line, label=label)
    axes.set_yscale("log")
    _finish(axes, "Shots with the best choice", len(next(iter(shares.values()))))


def _finish(axes: Axes, title: str, iterations: int) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("iteration")
    axes.set_xticks(range(1, iterations + 1))
    axes.legend(frameon=False)
