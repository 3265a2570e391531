"""The picture of an independent set: the graph with the set, and how good the samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows._conflict_graphs import ConflictGraph
from flows._drawing import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Drawn", "layout", "picture"]

_Positions = NDArray[np.float64]

_STEPS = 300
_MOST_NAMED = 40
_MOST_FORCED = 400
_MOST_BARS = 30
_CHOSEN, _OTHER = "#d1495b", "#c9d6df"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One set to draw."""

    title: str
    chosen: tuple[int, ...]


def picture(
    graph: ConflictGraph,
    sets: Sequence[Drawn],
    ratios: Mapping[str, Mapping[float, float]],
) -> str:
    """Return an SVG document.

    Args:
        graph: The graph; one without positions is laid out by forces between its nodes.
        sets: Two independent sets of it.
        ratios: For each way to sample the share of samples by the ratio of their weight to that of
            the reference.
    """
    with drawing("mis", 10, 3.6) as document:
        figure = document.figure
        axes = figure.subplots(1, 3).ravel().tolist()
        places = layout(graph)
        for one, drawn in zip(axes[:2], sets, strict=True):
            _draw_graph(one, graph, places, drawn)
        _draw_ratios(axes[2], ratios)
    return document.svg


def layout(graph: ConflictGraph) -> _Positions:
    """Return where nodes are drawn, shape (nodes, 2)."""
    if graph.positions is not None:
        return graph.positions
    turns = 2 * np.pi * np.arange(graph.nodes) / graph.nodes
    places = np.column_stack([np.cos(turns), np.sin(turns)])
    if graph.nodes > _MOST_FORCED:
        return places
    # Fruchterman and Reingold, Software: Practice and Experience 21, 1129 (1991).
    joined = np.zeros((graph.nodes, graph.nodes))
    for u, v in graph.conflicts.edges:
        joined[u, v] = joined[v, u] = 1.0
    ideal = 2 / np.sqrt(graph.nodes)
    for step in range(_STEPS):
        apart = places[:, None, :] - places[None, :, :]
        far = np.maximum(np.linalg.norm(apart, axis=-1), 1e-3)
        push = (ideal**2 / far**2 - joined * far / ideal)[..., None] * apart
        move = push.sum(axis=1)
        length = np.maximum(np.linalg.norm(move, axis=-1, keepdims=True), 1e-9)
        most = 0.2 * (1 - step / _STEPS)
        places = places + move / length * np.minimum(length, most)
    return places


def _draw_graph(axes: Axes, graph: ConflictGraph, places: _Positions, drawn: Drawn) -> None:
    small = graph.nodes <= _MOST_NAMED
    for u, v in graph.conflicts.edges:
        axes.plot(places[[u, v], 0], places[[u, v], 1], color="#9aa5ad", lw=0.8, zorder=1)
    chosen = set(drawn.chosen)
    colors = [_CHOSEN if node in chosen else _OTHER for node in range(graph.nodes)]
    weights = np.array(graph.conflicts.weights)
    sizes = (110 if small else 2500 / graph.nodes + 4) * weights / weights.max()
    axes.scatter(
        places[:, 0],
        places[:, 1],
        c=colors,
        s=sizes,
        edgecolors="#33404a",
        linewidths=0.6,
        zorder=2,
    )
    if small:
        for node, name in enumerate(graph.names):
            axes.annotate(
                name, places[node], ha="center", va="center", fontsize=6, zorder=3, clip_on=True
            )
    axes.set_title(drawn.title, fontsize=8)
    axes.set_aspect("equal", adjustable="datalim")
    if graph.positions is None:
        axes.set_axis_off()
    else:
        axes.set_xlabel("x (µm)")
        axes.set_ylabel("y (µm)")
        axes.margins(0.12)


def _draw_ratios(axes: Axes, ratios: Mapping[str, Mapping[float, float]]) -> None:
    values = sorted({ratio for found in ratios.values() for ratio in found})
    if len(values) <= _MOST_BARS:
        edges = None
        gap = min(np.diff(values), default=0.1)
    else:
        edges = np.linspace(values[0], values[-1], _MOST_BARS + 1)
        gap = edges[1] - edges[0]
    width = 0.8 * gap / len(ratios)
    for index, (label, found) in enumerate(ratios.items()):
        at, share = np.array(list(found)), np.array(list(found.values()))
        if edges is not None:
            share, _ = np.histogram(at, bins=edges, weights=share)
            at = (edges[:-1] + edges[1:]) / 2
        color = (_CHOSEN, "#8d99ae")[index % 2]
        axes.bar(
            at + (index - (len(ratios) - 1) / 2) * width, share, width, label=label, color=color
        )
    axes.axvline(1.0, color="#33404a", lw=0.8, ls=":")
    axes.set_xlabel("Weight of the set / weight of the reference")
    axes.set_ylabel("Share of samples")
    axes.set_title("Samples, made independent", fontsize=8)
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, loc="upper left")
