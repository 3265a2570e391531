"""The picture of a comparison on signals: figures with errors, bandwidths, ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows._anomalies.learning import Scores
from flows._comparison import Comparison
from flows._drawing import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SetPanel", "picture", "roc"]

_QUANTUM, _CLASSICAL = "tab:purple", "tab:gray"


@dataclass(frozen=True, eq=False, kw_only=True)
class SetPanel:
    """What is drawn of one set.

    comparisons: with the title of each. bandwidths: inner quality by bandwidth, by kernel. curves:
    the scores whose ROC curves are drawn, by way. is_target: of all signals of the set.
    """

    title: str
    comparisons: Mapping[str, Comparison]
    bandwidths: Mapping[str, Mapping[float, float]]
    curves: Mapping[str, Sequence[Scores]]
    is_target: NDArray[np.bool_]


def picture(panels: Sequence[SetPanel]) -> str:
    """Return an SVG document with a row for each set."""
    with drawing("anomalies", 11, 3.4 * len(panels)) as drawn:
        figure = drawn.figure
        rows = figure.subplots(len(panels), 3, squeeze=False, width_ratios=(1.6, 1, 1))
        for row, panel in zip(rows, panels, strict=True):
            _draw_figures(row[0], panel)
            _draw_bandwidths(row[1], panel)
            _draw_curves(row[2], panel)
    return drawn.svg


def _draw_figures(axes: Axes, panel: SetPanel) -> None:
    names, position = [], 0
    for title, comparison in panel.comparisons.items():
        for way in comparison.ways:
            color = _QUANTUM if way.is_quantum else _CLASSICAL
            value, error = way.figure.value, way.figure.error
            axes.errorbar(value, position, xerr=error, fmt="o", color=color, capsize=3)
            names.append(f"{way.name} ({title})")
            position += 1
    axes.set_yticks(range(position), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    measure = next(iter(panel.comparisons.values())).measure
    axes.set_xlabel(f"{measure}, with one standard error")
    axes.set_title(panel.title)


def _draw_bandwidths(axes: Axes, panel: SetPanel) -> None:
    for (name, found), line in zip(panel.bandwidths.items(), ("o-", "s--"), strict=False):
        axes.plot(list(found), list(found.values()), line, color=_QUANTUM, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("bandwidth: angle per unit of a component")
    axes.set_title("Inner validation")
    axes.legend(frameon=False)


def _draw_curves(axes: Axes, panel: SetPanel) -> None:
    for (name, found), color in zip(panel.curves.items(), (_QUANTUM, _CLASSICAL), strict=False):
        false, true = roc(found, panel.is_target)
        axes.step(false, true, where="post", color=color, label=name)
    axes.plot([0, 1], [0, 1], ":", color="lightgray")
    axes.set_xlabel("false alarms")
    axes.set_title("Targets found")
    axes.legend(frameon=False, loc="lower right")


def roc(
    found: Sequence[Scores], is_target: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates; scores of different splits compare by their rank."""
    ranks = [np.argsort(np.argsort(one.values)) / len(one.values) for one in found]
    labels = np.concatenate([is_target[one.test] for one in found])
    order = np.argsort(-np.concatenate(ranks), kind="stable")
    hits = labels[order]
    start = np.zeros(1)
    true = np.concatenate([start, np.cumsum(hits) / max(hits.sum(), 1)])
    false = np.concatenate([start, np.cumsum(~hits) / max((~hits).sum(), 1)])
    return false, true
