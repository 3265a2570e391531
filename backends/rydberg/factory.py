"""How a site makes simulated QPUs of neutral atoms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.stated_options import check_names, clock_scale

if TYPE_CHECKING:
    from backends.api import Backend, Target
    from backends.devices.api import PayloadDevice
    from backends.rydberg.runner import RydbergRunner

__all__ = ["RydbergFactory", "create", "stand_in_options"]

_OPTIONS = ("device", "max_atoms", "time_scale")
_MOST_ATOMS = 20
_DEVICE = "analog"
_DEFAULT_ATOMS = 14  # 16 384 amplitudes, a second for each microsecond of a sequence


class RydbergFactory:
    """Creates and describes simulated QPUs; raises ``ValueError`` for a wrong option."""

    neutral_options: ClassVar[frozenset[str]] = frozenset({"time_scale"})

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a QPU that computes in a thread of this process."""
        from backends.devices.backend import payload_device_backend

        return payload_device_backend(self.payload_device(options, state_dir=state_dir))

    def payload_device(self, options: Mapping[str, Any], *, state_dir: Path) -> PayloadDevice:
        """Return the device, which remembers nothing."""
        del state_dir
        from backends.devices.local import LocalPayloadDevice

        return LocalPayloadDevice(_runner(options))

    def describe(self, options: Mapping[str, Any]) -> Target:
        """Return the target without a QPU."""
        from backends.devices.backend import stated_target

        return stated_target({**_runner(options).target(), "max_concurrent_tasks": 1})

    def simulated(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return options for a dry run: the same device, and a clock that does not wait."""
        return {**options, "time_scale": 0.0}


create = RydbergFactory()


def stand_in_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options with which a backend for a vendor's server simulates its device here."""
    return {"simulated": True, "device": options.get("device", _DEVICE)}


def _runner(options: Mapping[str, Any]) -> RydbergRunner:
    from backends.analog.device import DeviceError
    from backends.analog.devices import stated_device
    from backends.rydberg.runner import RydbergRunner

    check_names(options, _OPTIONS, "backend 'rydberg'")
    most = options.get("max_atoms", _DEFAULT_ATOMS)
    if type(most) is not int or not 1 <= most <= _MOST_ATOMS:
        raise PluginUnusable(f"option max_atoms = {most!r}; give a number from 1 to {_MOST_ATOMS}")
    scale = clock_scale(options, default=0.0)
    name = options.get("device", _DEVICE)
    if not isinstance(name, str):
        raise PluginUnusable(f"option device = {name!r}; give a name, or the path of a description")
    try:
        return RydbergRunner(stated_device(name), most_atoms=most, time_scale=scale)
    except DeviceError as error:
        raise PluginUnusable(f"option device = {name!r}: {error}") from error
