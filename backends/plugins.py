"""Objects that installed packages register by name: one entry point group for each kind."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from backends.suggestions import did_you_mean

__all__ = ["PluginUnusable", "UnknownPlugin", "installed", "load", "unknown"]


class UnknownPlugin(ValueError):
    """No installed package registers this name in the group."""


class PluginUnusable(ValueError):
    """The package does not import, holds something else, or refuses the site's options."""


def installed(group: str) -> dict[str, EntryPoint]:
    """Return what is registered in a group, by name and sorted, without importing it."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda p: p.name)}


def load(group: str, name: str, *, noun: str) -> Any:
    """Import what a package registers under ``name``; ``noun`` names the kind in errors.

    Raises `UnknownPlugin`, or `PluginUnusable` whatever the package raises while it is imported.
    """
    points = installed(group)
    if name not in points:
        raise unknown(name, points, noun=noun)
    try:
        return points[name].load()
    except Exception as error:
        dist = points[name].dist
        remedy = (
            "Install what it needs" if isinstance(error, ImportError) else "Repair or remove it"
        )
        raise PluginUnusable(
            f"{noun} {name!r} ({points[name].value}, registered in {group} by package "
            f"{dist.name if dist else 'unknown'}) cannot be imported: "
            f"{type(error).__name__}: {error}. {remedy}."
        ) from error


def unknown(name: str, known: Iterable[str], *, noun: str) -> UnknownPlugin:
    """Return the error for a name that is not among those known."""
    names = list(known)
    listed = ", ".join(names) or "none"
    return UnknownPlugin(f"no {noun} {name!r}; installed are: {listed}{did_you_mean(name, names)}")
