"""The picture of judges of entanglement: accuracy against settings, and where a network errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flows._comparison import Figure as Measure
from flows._drawing import drawing

__all__ = ["picture"]

_BINS = 16
_LEAST_IN_BIN = 8


def picture(
    settings: Sequence[int],
    curves: Mapping[str, Sequence[Measure]],
    points: Mapping[str, tuple[int, Measure]],
    eigenvalues: NDArray[np.float64],
    rights: Mapping[str, NDArray[np.float64]],
) -> str:
    """Return an SVG document.

    Args:
        settings: how many were measured at each point of the curves.
        curves: accuracy with its error, by judge.
        points: judges of one number of settings: that, and their accuracy.
        eigenvalues: least of a partial transpose, of each test state, by simulation.
        rights: for each judge shown, how often it is right about each test state, 0 to 1.
    """
    with drawing("entanglement", 9, 3.8) as drawn:
        figure = drawn.figure
        left, right = figure.subplots(1, 2)
        for name, found in curves.items():
            values, errors = [one.value for one in found], [one.error for one in found]
            left.errorbar(settings, values, yerr=errors, fmt="o-", capsize=3, label=name)
        for (name, (at, one)), mark in zip(points.items(), "sD^v*P", strict=False):
            left.errorbar(at, one.value, yerr=one.error, fmt=mark, capsize=3, label=name)
        left.axhline(0.5, color="lightgray", linestyle=":")
        left.set_xlabel("measurement settings, at equal shots in all")
        left.set_ylabel("accuracy, with one standard error")
        left.set_xticks(list(settings))
        left.legend(frameon=False, fontsize=7)
        edges = np.quantile(eigenvalues, np.linspace(0, 1, _BINS + 1))
        place = np.clip(np.searchsorted(edges, eigenvalues, side="right") - 1, 0, _BINS - 1)
        full = [bin_ for bin_ in range(_BINS) if (place == bin_).sum() >= _LEAST_IN_BIN]
        centres = [float(eigenvalues[place == bin_].mean()) for bin_ in full]
        for name, share in rights.items():
            right.plot(
                centres, [float(share[place == bin_].mean()) for bin_ in full], "o-", label=name
            )
        right.axvline(0, color="lightgray", linestyle=":")
        right.set_xlabel("least eigenvalue of a partial transpose: entangled below 0")
        right.set_title("Share of right judgements", fontsize=8)
        right.legend(frameon=False, fontsize=7)
    return drawn.svg
