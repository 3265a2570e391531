"""The picture of decoders: their errors, what the detectors saw, and how the network learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows._decoder.experiments import Experiment, unpacked
from flows._decoder.networks import grid_of
from flows._decoder.standings import Standing
from flows._decoder.training import Step
from flows._drawing import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["latencies", "picture"]

_OURS, _OTHER, _LINE = "#d1495b", "#30638e", "#8d99ae"
_MOST_SHOTS = 20_000


def picture(experiment: Experiment, rated: Sequence[Standing], steps: Sequence[Step]) -> str:
    """Return an SVG document. rated: the network's standing is the one named so."""
    with drawing("decoder", 11, 3.6) as drawn:
        figure = drawn.figure
        left, middle, right = figure.subplots(1, 3)
        _draw_errors(left, rated)
        _draw_events(middle, experiment)
        _draw_learning(right, steps)
    return drawn.svg


def latencies(times: Mapping[str, NDArray[np.float64]], deadline_us: float) -> str:
    """Return an SVG document: a histogram of seconds by name, and how many are above each time."""
    with drawing("realtime", 10, 3.6) as drawn:
        figure = drawn.figure
        left, right = figure.subplots(1, 2)
        known = {name: 1e6 * found for name, found in times.items() if found.size}
        lowest = min([deadline_us, *(found.min() for found in known.values())])
        highest = max([deadline_us, *(found.max() for found in known.values())])
        bins = np.geomspace(max(lowest, 0.1) / 1.1, highest * 1.1, 80)
        for name, found in known.items():
            left.hist(found, bins, histtype="step", label=name, density=False)
            ordered = np.sort(found)
            right.plot(ordered, 1 - np.arange(len(ordered)) / len(ordered), label=name)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.axvline(deadline_us, color=_LINE, linestyle="--", label="deadline")
            axes.set_xlabel("latency / µs")
            axes.legend(fontsize=7)
        right.set_yscale("log")
        left.set_ylabel("how many")
        right.set_ylabel("share that takes longer")
        left.set_title("Latencies")
        right.set_title("Tails")
    return drawn.svg


def _draw_errors(axes: Axes, rated: Sequence[Standing]) -> None:
    ordered = sorted(rated, key=lambda one: -one.test_per_round.value)
    for place, one in enumerate(ordered):
        figure = one.test_per_round
        colour = _OURS if one.name == "network" else _OTHER
        axes.errorbar(figure.value, place, xerr=figure.error, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(ordered)), [one.name for one in ordered])
    axes.set_ylim(-0.5, len(ordered) - 0.5)
    axes.set_xlabel("logical error per round, ± 1 standard error")
    axes.set_title("Decoders on the shots of the test")
    axes.grid(axis="x", alpha=0.3)


def _draw_events(axes: Axes, experiment: Experiment) -> None:
    grid = grid_of(experiment.coordinates).detector
    events = unpacked(experiment.packed[:_MOST_SHOTS], experiment.detectors)
    shares = np.where(grid >= 0, events.mean(axis=0)[np.maximum(grid, 0)], np.nan)
    times = np.arange(len(shares))
    axes.plot(times, shares, color=_LINE, linewidth=0.8)
    axes.plot(times, np.nanmean(shares, axis=1), color=_OTHER, linewidth=2)
    axes.set_xlabel("round")
    axes.set_ylabel("share of shots with an event")
    axes.set_ylim(bottom=0)
    axes.set_title("Detection events: each stabilizer, and their mean")


def _draw_learning(axes: Axes, steps: Sequence[Step]) -> None:
    drawn = [one for one in steps if one.phase == "drawn"]
    refined = [one for one in steps if one.phase == "measured"]
    last = drawn[-1].shots if drawn else 0
    axes.plot([one.shots for one in drawn], [one.loss for one in drawn], "o-", color=_OTHER)
    places = [last + one.shots for one in refined]
    axes.plot(places, [one.loss for one in refined], "s-", color=_OURS)
    axes.set_xlabel("shots learned from: drawn from the model, then measured")
    axes.set_ylabel("cross-entropy of held-out shots")
    axes.set_title("Training of the network")
