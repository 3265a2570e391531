"""Backends by name: those shipped here and those that other packages register."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Protocol

from backends.api import Backend, Target
from backends.plugins import PluginUnusable, UnknownPlugin, installed, load

__all__ = [
    "GROUP",
    "BackendFactory",
    "available",
    "create",
    "describe",
    "preload",
    "result_options",
]

GROUP = "orchestrator.backends"


class BackendFactory(Protocol):
    """What an entry point names: called with the site's options, it returns a backend.

    It checks options and raises `PluginUnusable` or ``ValueError``; it opens no connection.
    ``state_dir`` is a private, existing folder in which a durable backend may keep task records.

    A factory may also have, as attributes:

    ``describe(options) -> Target``: the target of the QPU that the factory would return, with
    the same checks, told without a process, a connection or a written file. The calibration may
    be an earlier one. Without it, `describe` makes a backend and asks that.

    ``neutral_options``: a set of names of options that change when a result comes, not what it
    is. A run that is continued with another value finds its results again.
    """

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend configured by ``options``."""
        ...


def available() -> dict[str, EntryPoint]:
    """Return the registered backends by name, without importing them."""
    return installed(GROUP)


def create(name: str, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
    """Build the backend ``name``; raises `UnknownPlugin` or `PluginUnusable`."""
    factory = _factory(name)
    state_dir.mkdir(parents=True, exist_ok=True)
    return factory(options, state_dir=state_dir)


def describe(name: str, options: Mapping[str, Any]) -> Target:
    """Return the target of the backend ``name``, from a temporary one if it has no ``describe``."""
    factory = _factory(name)
    own = getattr(factory, "describe", None)
    if own is not None:
        target: Target = own(options)
        return target
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(factory(options, state_dir=Path(scratch))) as backend,
    ):
        return backend.target()


def result_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that affect results: all of them if the backend cannot be imported."""
    try:
        neutral = _neutral_options(name)
    except (UnknownPlugin, PluginUnusable):
        neutral = frozenset()
    return {key: value for key, value in options.items() if key not in neutral}


@lru_cache(maxsize=64)
def _neutral_options(name: str) -> frozenset[str]:
    return frozenset(getattr(_factory(name), "neutral_options", ()))


def _factory(name: str) -> BackendFactory:
    factory: BackendFactory = load(GROUP, name, noun="backend")
    return factory


def preload(name: str) -> None:
    """Call the backend module's ``preload``, if it has one; leave errors to `create`."""
    point = available().get(name)
    if point is None:
        return
    try:
        begin = getattr(import_module(point.module), "preload", None)
    except Exception:  # noqa: BLE001 - `create` raises it with the backend's name
        return
    if begin is not None:
        begin()
