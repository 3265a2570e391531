"""The factory of Aer QPUs and their options; it loads Qiskit only when it is called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.stated_options import check_names, clock_scale

if TYPE_CHECKING:
    from backends.aer.backend import AerBackend
    from backends.api import Target

__all__ = ["METHODS", "AerFactory", "AerOptions", "create", "usable_cores"]

METHODS = ("automatic", "statevector", "density_matrix", "stabilizer", "matrix_product_state")
_PRECISIONS = ("exact", "sampled")


@dataclass(frozen=True, slots=True, kw_only=True)
class AerOptions:
    """How an Aer QPU simulates.

    method: one of `METHODS`; automatic chooses per PUB. memory_bytes: most that running
    simulations may hold together; None means what the machine has free at each start.
    processes: most worker processes; None means one per usable core, at most 8.
    profile: name or path of a device profile; None simulates an ideal QPU of any width.
    noiseless: whether a profile's errors are left out: only results differ, and a simulation is
    much faster.
    time_scale: seconds that pass per modelled second of the profile's clock.
    precision: ``exact`` expectation values, or ``sampled`` with real shots; None takes the
    profile's, and exact without one.
    """

    method: str = "automatic"
    memory_bytes: int | None = None
    processes: int | None = None
    profile: str | None = None
    noiseless: bool = False
    time_scale: float = 0.0
    precision: str | None = None


def _parse_options(options: Mapping[str, Any]) -> AerOptions:
    """Check a site's options. Raises `PluginUnusable` naming the option and what it may be."""
    names = [field.name for field in fields(AerOptions)]
    check_names(options, names, "backend 'aer'")
    choices = (
        ("method", METHODS),
        ("precision", (*_PRECISIONS, None)),
        ("noiseless", (True, False)),
    )
    for name, allowed in choices:
        if name in options and options[name] not in allowed:
            listed = ", ".join(str(a) for a in allowed if a is not None)
            raise PluginUnusable(f"option {name} = {options[name]!r}; use one of: {listed}")
    for name in ("memory_bytes", "processes"):
        value = options.get(name)
        if value is not None and not (type(value) is int and value >= 1):
            raise PluginUnusable(f"option {name} = {value!r}; give a whole number ≥ 1")
    clock_scale(options, default=0.0)
    profile = options.get("profile")
    if profile is not None and not (isinstance(profile, (str, os.PathLike)) and str(profile)):
        raise PluginUnusable(f"option profile = {profile!r}; give a profile's name or a path")
    cleaned = dict(options)
    if profile is not None:
        cleaned["profile"] = os.fspath(profile)
    return AerOptions(**cleaned)


def usable_cores() -> int:
    """Return the cores this process may run on, as its affinity mask says."""
    return len(os.sched_getaffinity(0))


class AerFactory:
    """Creates and describes Aer QPUs; raises ``ValueError`` for a wrong option or profile."""

    neutral_options: ClassVar[frozenset[str]] = frozenset({"time_scale"})

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> AerBackend:
        """Return a QPU, with the tasks stored in the existing folder; starts nothing."""
        from backends.aer.backend import AerBackend

        return AerBackend(_parse_options(options), state_dir=state_dir)

    def describe(self, options: Mapping[str, Any]) -> Target:
        """Return the target of a QPU with these options."""
        from backends.aer.device import device_target

        return device_target(_parse_options(options))[0]

    def is_ideal(self, options: Mapping[str, Any]) -> bool:
        """Return whether the simulation has no errors: without a profile, or without those of it."""
        return options.get("profile") is None or options.get("noiseless") is True


create = AerFactory()
