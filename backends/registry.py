"""Backends by name: those shipped here and those that other packages register."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Protocol

from backends.api import Backend, Target
from backends.child.environment import Environment
from backends.coupling_class import CouplingClass
from backends.plugins import PluginUnusable, UnknownPlugin, installed, load, unknown

__all__ = [
    "GROUP",
    "BackendFactory",
    "BackendPackages",
    "available",
    "coupling_class",
    "create",
    "describe",
    "is_ideal",
    "is_over_wire",
    "packages_of",
    "preload",
    "result_options",
    "simulated_options",
]

GROUP = "orchestrator.backends"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPackages:
    """What a backend's own environment holds.

    requirements: for pip, each with a floor; without one pip falls back to old, broken releases.
    imports: modules that must import afterwards.
    """

    requirements: tuple[str, ...]
    imports: tuple[str, ...]


class BackendFactory(Protocol):
    """What an entry point names: called with the site's options, it returns a backend.

    It checks options and raises `PluginUnusable` or ``ValueError``; it opens no connection.
    ``state_dir`` is a private, existing folder in which a durable backend may keep task records.

    A factory may also have, as attributes:

    ``describe(options) -> Target``: the target of the QPU that the factory would return, with
    the same checks, told without a process, a connection or a written file. The calibration may
    be an earlier one. Without it, and where it returns None, `describe` makes a backend and asks
    that.

    ``packages``: a `BackendPackages`, if ``hpcqc backends install`` can make an environment for it.

    ``variables``: names of environment variables that its SDK reads, so that a process of its own
    gets them.

    ``simulated(options)``: the options with which the same backend does its work on this machine,
    without a secret, a connection or a clock: dry runs use them in the place of Aer.

    ``over_wire(options)``: whether there is a device or a server behind these options, which may
    not answer, or may refuse the credentials; no without it.

    ``coupling_class(options)``: that of its target, told before a device that states the rest is asked.

    ``is_ideal(options)``: whether what it returns has no errors, which no target states.

    ``neutral_options``: a set of names of options that change when a result comes, not what it
    is. A run that is continued with another value finds its results again.
    """

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend configured by ``options``."""
        ...


def available() -> dict[str, EntryPoint]:
    """Return the registered backends by name, without importing them."""
    return installed(GROUP)


def create(
    name: str,
    options: Mapping[str, Any],
    *,
    state_dir: Path,
    environment: Environment | None = None,
) -> Backend:
    """Build the backend ``name``, in a child process if it has an environment of its own.

    Raises `UnknownPlugin`, `PluginUnusable`, or ``ValueError`` for an option.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    if environment is not None:
        return _create_in_child(name, options, state_dir, environment)
    factory = _factory(name)
    return factory(options, state_dir=state_dir)


def describe(
    name: str, options: Mapping[str, Any], *, environment: Environment | None = None
) -> Target:
    """Return the target of the backend ``name``, from a temporary one if it has no ``describe``."""
    factory: BackendFactory | None
    try:
        factory = _factory(name)
    except PluginUnusable:
        if environment is None:
            raise
        factory = None  # what it imports is in its environment alone
    target = _told(factory, options)
    if target is not None:
        return target
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(create(name, options, state_dir=Path(scratch), environment=environment)) as backend,
    ):
        return backend.target()


def _told(factory: BackendFactory | None, options: Mapping[str, Any]) -> Target | None:
    own = getattr(factory, "describe", None)
    return None if own is None else own(options)


def coupling_class(name: str, options: Mapping[str, Any]) -> CouplingClass | None:
    """Return the coupling class of a QPU that is not asked, None if only its target states it."""
    factory = _factory(name)
    own = getattr(factory, "coupling_class", None)
    if own is not None:
        stated: CouplingClass = own(options)
        return stated
    target = _told(factory, options)
    return None if target is None else target.coupling_class


def is_over_wire(name: str, options: Mapping[str, Any]) -> bool:
    """Return whether a backend asks a device or a server; no if it cannot be imported."""
    try:
        own = getattr(_factory(name), "over_wire", None)
    except (UnknownPlugin, PluginUnusable):
        return False
    return own is not None and bool(own(options))


def packages_of(name: str) -> BackendPackages:
    """Return what a backend's own environment holds.

    Raises `UnknownPlugin`, or `PluginUnusable` for a backend that states no packages.
    """
    packages = getattr(_factory(name), "packages", None)
    if not isinstance(packages, BackendPackages):
        raise PluginUnusable(
            f"backend {name!r} needs no environment of its own: it runs in hpcqc's, so leave out "
            "`environment`, or give the path of an interpreter that has its packages"
        )
    return packages


def _create_in_child(
    name: str, options: Mapping[str, Any], state_dir: Path, environment: Environment
) -> Backend:
    from backends.child.backend import open_child
    from backends.child.process import Opening

    points = available()
    if name not in points:
        raise unknown(name, points, noun="backend")
    opening = Opening(
        backend=name,
        factory=points[name].value,
        options=options,
        state_dir=state_dir.absolute(),
        variables=_variables(name),
    )
    return open_child(opening, environment)


def simulated_options(name: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return options with which a backend simulates its device itself; None if it does not."""
    try:
        own = getattr(_factory(name), "simulated", None)
    except (UnknownPlugin, PluginUnusable):
        return None
    return None if own is None else dict(own(options))


def is_ideal(name: str, options: Mapping[str, Any]) -> bool:
    """Return whether a backend simulates an ideal device with these options; no if not known."""
    try:
        ideal = getattr(_factory(name), "is_ideal", None)
    except (UnknownPlugin, PluginUnusable):
        return False
    return ideal is not None and bool(ideal(options))


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


def _variables(name: str) -> tuple[str, ...]:
    try:
        return tuple(getattr(_factory(name), "variables", ()))
    except PluginUnusable:  # the child says why
        return ()


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
