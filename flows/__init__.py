"""Ready algorithms: one Prefect flow per public module, found by name through `hpcqc run`.

Every flow here returns one JSON-compatible dict (strings, finite numbers, booleans, None,
lists, dicts). Besides what each flow documents of its own, it has these keys, which are all
a report needs to know:

``summary``
    list of lines: what was computed, how well it went, and every caveat.
``table``
    ``{"columns": [str, ...], "rows": [[cell, ...], ...]}``; a cell is a string, a number or
    None; every row is as long as ``columns``.
``plot``
    ``{"title", "x_label", "y_label", "x": [...], "series": [...]}`` where a series is
    ``{"label": str, "y": [...], "style": "line" | "points", "y_error": [...] | absent}``;
    ``y`` and ``y_error`` are as long as ``x``; a None in ``y`` is a gap; ``y_error`` is one
    standard error. ``x`` holds numbers, or strings for categories. Or, where lines and points
    do not show it, an SVG document as text.

Flows that compare ways to do the same have one key more, from which the table of uses in the
documentation is made:

``comparisons``
    list of ``{"data", "measure", "higher_is_better", "won", "ways", "bound"}``: what was compared on
    which data; a way is ``{"name", "is_quantum", "side", "value", "error"}`` with one standard error;
    its side is "quantum", "classical", or a name that tells kinds apart that are neither. ``won`` is
    the side, "neither", or the name of the best way where sides have names of their own. ``bound``
    is None, or like a way: what no way can do better than.
"""

from __future__ import annotations

from pkgutil import extend_path

__all__: list[str] = []

# People call their own folder of flows this too. Beside their script it comes first on Python's
# path, but without an __init__.py it would lose to this package; so its modules are found here.
__path__ = [*extend_path(__path__, __name__)[1:], __path__[0]]
