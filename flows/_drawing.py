"""Pictures of flows as SVG documents: one style, and the same bytes from the same data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SvgDocument", "drawing"]


@dataclass(slots=True, kw_only=True)
class SvgDocument:
    """A figure to draw on. svg: the document, once its context is left."""

    figure: Figure
    svg: str = ""


@contextmanager
def drawing(name: str, width: float, height: float) -> Iterator[SvgDocument]:
    """Yield an empty figure, of so many inches, that becomes an SVG document at the end.

    name: of the flow, from which the document's ids are made.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 8}):
        from matplotlib.figure import Figure

        drawn = SvgDocument(figure=Figure(figsize=(width, height), layout="constrained"))
        yield drawn
        buffer = io.StringIO()
        drawn.figure.savefig(
            buffer, format="svg", dpi=110, metadata={"Date": None, "Creator": None}
        )
        drawn.svg = buffer.getvalue()
