"""The factory of annealers; it loads their SDK only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.suggestions import did_you_mean

if TYPE_CHECKING:
    from backends.api import Backend
    from backends.devices.api import PayloadDevice

__all__ = ["AnnealingFactory", "create"]

_OPTIONS = ("sweeps",)
_SWEEPS = 1000
_MOST_SWEEPS = 10_000_000


class AnnealingFactory:
    """Creates backends for annealers; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=("dwave-samplers>=1.8,<2",), imports=("dwave.samplers",)
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend in this process, which must have the package."""
        from backends.devices.backend import payload_device_backend

        try:
            device = self.payload_device(options, state_dir=state_dir)
        except ImportError as error:
            raise PluginUnusable(
                f"backend 'annealing' needs dwave-samplers ({error}); run "
                "'pip install \"hpcqc[annealing]\"', or 'hpcqc backends install annealing' and "
                'write environment = "managed" in the table of the QPU'
            ) from error
        return payload_device_backend(device)

    def simulated(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the simulator that stands in for any annealer."""
        return {name: value for name, value in options.items() if name == "sweeps"}

    def payload_device(self, options: Mapping[str, Any], *, state_dir: Path) -> PayloadDevice:
        """Open an annealer.

        Args:
            options: ``sweeps``: updates of each variable in a read, by default 1000.
            state_dir: Not used; a simulator remembers nothing.
        """
        del state_dir
        for name in options:
            if name not in _OPTIONS:
                raise PluginUnusable(
                    f"unknown option {name!r} of backend 'annealing'; there is: "
                    f"{', '.join(_OPTIONS)}{did_you_mean(name, _OPTIONS)}"
                )
        sweeps = options.get("sweeps", _SWEEPS)
        if not isinstance(sweeps, int) or isinstance(sweeps, bool):
            raise PluginUnusable(f"option sweeps = {sweeps!r}; give a whole number")
        if not 1 <= sweeps <= _MOST_SWEEPS:
            raise PluginUnusable(f"option sweeps = {sweeps}; give 1 to {_MOST_SWEEPS}")
        from backends.annealing.simulated import SimulatedAnnealer
        from backends.devices.local import LocalPayloadDevice

        return LocalPayloadDevice(SimulatedAnnealer(sweeps=sweeps))


create = AnnealingFactory()
