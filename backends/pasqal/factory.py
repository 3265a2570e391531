"""The factory of Pulser's emulator; it loads Pulser only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.stated_options import check_names

if TYPE_CHECKING:
    from backends.analog.device import RydbergDevice
    from backends.api import Backend, Target
    from backends.devices.api import PayloadDevice

__all__ = ["PasqalFactory", "create"]

_OPTIONS = ("device", "max_atoms", "noise")
_MOST_ATOMS = 20
_DEFAULT_ATOMS = 12


class PasqalFactory:
    """Creates and describes Pulser's emulator; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=("pulser-simulation>=1.9.1,<2",), imports=("pulser_simulation",)
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return an emulator in this process, which must have Pulser."""
        from backends.devices.backend import payload_device_backend

        try:
            device = self.payload_device(options, state_dir=state_dir)
        except ImportError as error:
            raise PluginUnusable(
                f"backend 'pasqal' needs pulser-simulation ({error}); run 'hpcqc backends install "
                'pasqal\' and write environment = "managed" in the table of the QPU'
            ) from error
        return payload_device_backend(device)

    def payload_device(self, options: Mapping[str, Any], *, state_dir: Path) -> PayloadDevice:
        """Open the emulator; it remembers nothing."""
        del state_dir
        device, most, noise = _parsed(options)
        from backends.devices.local import LocalPayloadDevice
        from backends.pasqal.runner import PulserRunner

        return LocalPayloadDevice(PulserRunner(device, most_atoms=most, noise=noise))

    def describe(self, options: Mapping[str, Any]) -> Target:
        """Return the target without Pulser."""
        from backends.devices.backend import stated_target
        from backends.pasqal.description import description

        device, most, _ = _parsed(options)
        return stated_target({**description(device, most, "unknown"), "max_concurrent_tasks": 1})

    def simulated(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return options with which this machine stands for the QPU; here the same."""
        return options


create = PasqalFactory()


def _parsed(options: Mapping[str, Any]) -> tuple[RydbergDevice, int, str | None]:
    """Return the device, the most atoms, and the noise model's JSON. Raises `PluginUnusable`."""
    from backends.analog.device import DeviceError
    from backends.analog.devices import stated_device

    check_names(options, _OPTIONS, "backend 'pasqal'")
    most = options.get("max_atoms", _DEFAULT_ATOMS)
    if type(most) is not int or not 1 <= most <= _MOST_ATOMS:
        raise PluginUnusable(f"option max_atoms = {most!r}; give a number from 1 to {_MOST_ATOMS}")
    name, noise = options.get("device", "analog"), options.get("noise")
    for option, value in (("device", name), ("noise", noise)):
        if value is not None and not isinstance(value, str):
            raise PluginUnusable(f"option {option} = {value!r}; give the path of its description")
    try:
        return stated_device(name), most, None if noise is None else _text(noise)
    except DeviceError as error:
        raise PluginUnusable(f"option device = {name!r}: {error}") from error


def _text(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PluginUnusable(
            f"option noise = {path!r} cannot be read: {error}; give a file with what Pulser's "
            "NoiseModel.to_abstract_repr() returns"
        ) from error
