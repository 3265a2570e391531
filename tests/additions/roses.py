"""A flow whose plot is not a curve."""

from __future__ import annotations

from matplotlib.figure import Figure
from prefect import flow


@flow
def rose(petals: int = 5):
    figure = Figure()
    axes = figure.add_subplot(projection="polar")
    axes.bar(range(petals), [1.0] * petals)
    axes.set_title("a rose", gid="title")
    return {"plot": figure, "summary": [f"{petals} petals"], "petals": petals}
