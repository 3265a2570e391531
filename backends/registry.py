"""Backends by name: those shipped here and those that other packages register."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from backends.api import Backend

__all__ = [
    "GROUP",
    "BackendFactory",
    "BackendUnusable",
    "UnknownBackend",
    "available",
    "create",
    "preload",
]

GROUP = "orchestrator.backends"


class BackendFactory(Protocol):
    """What an entry point names: called with the site's options, it returns a backend.

    It checks options and raises `BackendUnusable` or ``ValueError``; it opens no connection.
    ``state_dir`` is a private, existing folder in which a durable backend may keep task records.
    """

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend configured by ``options``."""
        ...


class UnknownBackend(ValueError):
    """No installed package registers a backend of this name."""


class BackendUnusable(ValueError):
    """The backend is registered but cannot be used as configured or installed."""


def available() -> dict[str, EntryPoint]:
    """Return the registered backends by name, without importing them."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def create(name: str, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
    """Build the backend ``name`` with the site's options.

    Raises `UnknownBackend` with the names there are, or `BackendUnusable` when its package
    does not import (the message says which extra is missing) or it refuses its options.
    """
    points = available()
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownBackend(
            f"no backend {name!r}; installed are: {', '.join(points) or 'none'}.{hint}"
        )
    try:
        factory: BackendFactory = points[name].load()
    except ImportError as error:
        raise BackendUnusable(
            f"backend {name!r} ({points[name].value}) does not import: {error}. "
            "Install the package or extra that provides it."
        ) from error
    state_dir.mkdir(parents=True, exist_ok=True)
    return factory(options, state_dir=state_dir)


def preload(name: str) -> None:
    """Let the backend ``name`` load, in processes of its own, what its first task will need.

    That is the function ``preload`` of the module its entry point names, if it has one. What is
    wrong with the backend is left to `create`.
    """
    point = available().get(name)
    if point is None:
        return
    try:
        begin = getattr(import_module(point.module), "preload", None)
    except ImportError:
        return
    if begin is not None:
        begin()
