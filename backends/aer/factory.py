"""The factory of Aer QPUs; it loads Qiskit only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.aer.options import parse_options

if TYPE_CHECKING:
    from backends.aer.backend import AerBackend
    from backends.api import Target

__all__ = ["AerFactory", "create"]


class AerFactory:
    """Makes Aer QPUs, and describes them, from a site's options (see `AerOptions`).

    Both raise ``BackendUnusable`` for an unknown or wrong option, and ``ProfileError`` for a
    missing or invalid profile.
    """

    neutral_options: ClassVar[frozenset[str]] = frozenset({"time_scale"})

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> AerBackend:
        """Return a QPU and start nothing.

        state_dir: an existing folder; a later backend on it knows this one's tasks.
        """
        from backends.aer.backend import AerBackend

        return AerBackend(parse_options(options), state_dir=state_dir)

    def describe(self, options: Mapping[str, Any]) -> Target:
        """Return the target of a QPU with these options."""
        from backends.aer.device import device_target

        return device_target(parse_options(options))[0]


create = AerFactory()
