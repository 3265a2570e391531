"""Pictures of a run: its result and a Gantt chart of its work, as SVG and PNG."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.provenance.gantt import FAILED, Lane, Timeline
from orchestrator.provenance.outcome import Plot, Series
from orchestrator.wording import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BarPanel", "Picture", "draw_bars", "draw_gantt", "draw_plot"]

_INK, _MUTED, _LINE, _FAIL, _PAPER = "#1b1f24", "#6a737c", "#dfe3e8", "#c62f3b", "#fefefe"
_PALETTE = (
    "#3b7dd8", "#d9822b", "#2a9d6f", "#8e6bbf", "#c9518c", "#3aa6b9", "#a58a1f", "#7f8c8d",
)  # fmt: skip
_ROLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _FAIL: "var(--fail)",
    _PAPER: "var(--paper)",
    "'DejaVu Sans'": "var(--sans)",
}
_MAX_VECTOR_BARS = 1500
_LEAST_SHARE = 0.0025  # of the picture's width: two pixels, so that the shortest work is visible
_FONT = {"font.family": "DejaVu Sans", "svg.fonttype": "none", "font.size": 10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One figure twice. svg: for inline use in HTML; its colours are CSS variables."""

    svg: str
    png: bytes


def draw_plot(plot: Plot) -> Picture:
    """Draw a plot; missing values are gaps. Raises what Matplotlib raises."""

    def draw(axes: Axes) -> None:
        for index, series in enumerate(plot.series):
            _draw_series(axes, series, _PALETTE[index % len(_PALETTE)])
        axes.set_title(plot.title, loc="left", color=_INK, fontweight="bold")
        if plot.x_scale != "linear":
            axes.set_xscale(plot.x_scale)
        if plot.y_scale != "linear":
            axes.set_yscale(plot.y_scale)
        axes.set_xlabel(plot.x_label, color=_INK)
        axes.set_ylabel(plot.y_label, color=_INK)
        axes.grid(color=_LINE, linewidth=0.8)
        if any(series.label for series in plot.series):
            axes.legend(frameon=False, labelcolor=_INK)

    return _picture(draw, height=4.2, salt="plot")


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPanel:
    """Bars of some groups. series: a value for each group, None where there is none, by label."""

    title: str
    series: Mapping[str, Sequence[float | None]]


def draw_bars(groups: Sequence[str], panels: Sequence[BarPanel]) -> Picture:
    """Draw a panel of horizontal bars for each figure, the groups one below the other."""
    shown = [_plain(group) for group in groups]

    def draw(axes: Axes, panel: BarPanel) -> None:
        height = 0.8 / max(1, len(panel.series))
        for index, (label, values) in enumerate(panel.series.items()):
            places = [row - 0.4 + height * (index + 0.5) for row in range(len(groups))]
            lengths = [0.0 if value is None else value for value in values]
            axes.barh(places, lengths, height * 0.9, color=_PALETTE[index], label=_plain(label))
        axes.set_yticks(range(len(groups)), shown if panel is panels[0] else [""] * len(groups))
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_title(panel.title, loc="left", color=_INK, fontweight="bold")
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x", color=_LINE, linewidth=0.8)
        if len(panel.series) > 1:
            axes.legend(frameon=False, labelcolor=_INK)

    draws = [partial(draw, panel=panel) for panel in panels]
    return _picture(*draws, height=1.3 + 0.4 * max(len(groups), 2), salt="bars")


def _plain(text: str) -> str:
    """Return a text of users in which Matplotlib finds no formula."""
    return visible(text, lines=False).replace("$", r"\$")


def draw_gantt(timeline: Timeline) -> Picture:
    """Draw classical stages, quantum stages and the tasks of QPUs over time."""
    colors = {label: _PALETTE[i % len(_PALETTE)] for i, label in enumerate(timeline.labels)}
    many = sum(len(lane.bars) for lane in timeline.lanes) > _MAX_VECTOR_BARS

    def draw(axes: Axes) -> None:
        for row, lane in enumerate(timeline.lanes):
            _draw_lane(axes, row, lane, colors, timeline.length_s, many)
        for seam_s in timeline.seams_s:
            axes.axvline(seam_s, color=_MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        named = [(row, lane.name) for row, lane in enumerate(timeline.lanes) if lane.name]
        axes.set_yticks([row for row, _ in named], [name for _, name in named])
        axes.set_ylim(len(timeline.lanes) - 0.4, -0.6)
        axes.set_xlim(0, timeline.length_s or None)
        label = "seconds since the start"
        if timeline.seams_s:
            label += ", without those between attempts (dashed)"
        axes.set_xlabel(label, color=_INK)
        axes.grid(axis="x", color=_LINE, linewidth=0.8)
        for label, color in colors.items():
            axes.barh([0], [0], color=color, label=label)
        if any(bar.state in FAILED for lane in timeline.lanes for bar in lane.bars):
            axes.barh([0], [0], color=_FAIL, label="failed or cancelled")
        axes.legend(
            frameon=False, labelcolor=_INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=4
        )

    return _picture(draw, height=1.3 + 0.3 * max(len(timeline.lanes), 2), salt="gantt")


def _draw_series(axes: Axes, series: Series, color: str) -> None:
    x = list(range(len(series.y)) if series.x is None else series.x)
    y = [float("nan") if value is None else value for value in series.y]
    look: dict[str, Any] = {"color": color, "label": series.label or None}
    if series.style == "points":
        look |= {"marker": "o", "linestyle": "none", "markersize": 5}
    else:
        look |= {"linewidth": 1.8}
    if series.y_error is None:
        axes.plot(x, y, **look)
        return
    errors = [0.0 if value is None else abs(value) for value in series.y_error]
    axes.errorbar(x, y, yerr=errors, capsize=3, **look)


def _draw_lane(
    axes: Axes, row: int, lane: Lane, colors: dict[str, str], length_s: float, many: bool
) -> None:
    if not lane.bars:
        return
    least_s = _LEAST_SHARE * length_s
    axes.broken_barh(
        [(min(bar.start_s, length_s - least_s), max(bar.length_s, least_s)) for bar in lane.bars],
        (row - 0.36, 0.72),
        facecolors=[_FAIL if bar.state in FAILED else colors[bar.label] for bar in lane.bars],
        alpha=0.35 if lane.waits else 0.9,
        # A line around a narrow bar would hide it.
        linewidth=[0.4 if bar.length_s > 4 * least_s else 0.0 for bar in lane.bars],
        edgecolor="none" if many else _PAPER,
        rasterized=many,
    )


def _picture(*draws: Callable[[Axes], None], height: float, salt: str) -> Picture:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # "building the font cache" is noise
    import matplotlib

    settings: Any = {**_FONT, "svg.hashsalt": salt}  # ids of two pictures must not meet
    with matplotlib.rc_context(settings):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, height), layout="constrained")
        for number, draw in enumerate(draws, start=1):
            axes = figure.add_subplot(1, len(draws), number)
            axes.tick_params(colors=_MUTED, labelcolor=_INK)
            for side, spine in axes.spines.items():
                spine.set_visible(side in ("left", "bottom"))
                spine.set_color(_MUTED)
            axes.set_axisbelow(True)
            draw(axes)
        return Picture(svg=_svg(figure), png=_png(figure))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for literal, variable in _ROLES.items():
        text = text.replace(literal, variable)
    return text
