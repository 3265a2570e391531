"""The factory of Braket's local simulators; it loads the SDK only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.suggestions import did_you_mean

if TYPE_CHECKING:
    from backends.api import Backend
    from backends.devices.api import FlatDevice

__all__ = ["BraketFactory", "create"]

# State vector, and density matrix.
_SIMULATORS = ("braket_sv", "braket_dm")


class BraketFactory:
    """Creates backends for Braket's simulators; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=("amazon-braket-sdk>=1.127,<2",), imports=("braket.devices",)
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend in this process, which must have the SDK."""
        from backends.devices.backend import device_backend

        try:
            device = self.device(options, state_dir=state_dir)
        except ImportError as error:
            raise PluginUnusable(
                f"backend 'braket' needs amazon-braket-sdk, which cannot be installed beside hpcqc "
                f"({error}); run 'hpcqc backends install braket' and write "
                'environment = "managed" in the table of the QPU'
            ) from error
        return device_backend(device)

    def device(self, options: Mapping[str, Any], *, state_dir: Path) -> FlatDevice:
        """Open a simulator; ``simulator`` is the only option, by default ``braket_sv``."""
        del state_dir  # a local simulator remembers nothing
        for name in options:
            if name != "simulator":
                raise PluginUnusable(
                    f"unknown option {name!r} of backend 'braket'; there is: simulator"
                    f"{did_you_mean(name, ['simulator'])}"
                )
        simulator = options.get("simulator", _SIMULATORS[0])
        if simulator not in _SIMULATORS:
            raise PluginUnusable(
                f"option simulator = {simulator!r}; use one of: {', '.join(_SIMULATORS)}"
            )
        from backends.braket.device import BraketSimulator
        from backends.devices.local import LocalDevice

        return LocalDevice(BraketSimulator(simulator))


create = BraketFactory()
