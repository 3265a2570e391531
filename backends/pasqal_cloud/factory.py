"""How a site makes QPUs in Pasqal's cloud."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.plugins import PluginUnusable
from backends.rydberg.factory import create as rydberg
from backends.rydberg.factory import stand_in_options
from backends.stated_options import check_names, clock_scale

if TYPE_CHECKING:
    from backends.analog.device import RydbergDevice
    from backends.api import Backend, Target

__all__ = ["PasqalCloudFactory", "create"]

_NAME = "pasqal-cloud"
_OPTIONS = ("url", "project", "device_type", "token", "device", "time_scale", "simulated")
_URL = "https://apis.pasqal.cloud/core-fast"
_WORD = re.compile(r"[0-9A-Za-z_-]{1,100}")


class PasqalCloudFactory:
    """Creates and describes QPUs in Pasqal's cloud; raises ``ValueError`` for a wrong option."""

    neutral_options: ClassVar[frozenset[str]] = frozenset({"token", "time_scale"})

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a QPU, with its started tasks stored in the existing folder; connects nowhere."""
        from backends.analog.remote import RemoteAnalogBackend
        from backends.pasqal_cloud.site import PasqalCloudSite
        from backends.site_access import checked_url, token_from_options

        if options.get("simulated") is True:
            return rydberg(_simulated(options), state_dir=state_dir)
        device, scale = _parsed(options)
        site = PasqalCloudSite(
            checked_url({"url": _URL, **options}, _NAME),
            token_from_options(options, _NAME),
            project=options["project"],
            device_type=options["device_type"],
        )
        return RemoteAnalogBackend(site, described=device, clock_scale=scale, state_dir=state_dir)

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether it is the cloud, and not simulated here."""
        return options.get("simulated") is not True

    def describe(self, options: Mapping[str, Any]) -> Target | None:
        """Return the target of the stated device; None without one: the server states it."""
        if options.get("simulated") is True:
            return rydberg.describe(_simulated(options))
        device, scale = _parsed(options)
        if device is None:
            return None
        from backends.analog.remote import analog_target

        return analog_target(device, can_find=True, clock_scale=scale, coupling_class="batch")

    def simulated(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return options for a dry run: the device is simulated on this machine."""
        return stand_in_options(options)


create = PasqalCloudFactory()


def _simulated(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of the device's simulation on this machine."""
    return {name: options[name] for name in ("device", "time_scale") if name in options}


def _parsed(options: Mapping[str, Any]) -> tuple[RydbergDevice | None, float]:
    """Check options; return the stated device and the scale of its clock."""
    from backends.analog.device import DeviceError
    from backends.analog.devices import stated_device
    from backends.site_access import checked_url

    check_names(options, _OPTIONS, f"backend {_NAME!r}")
    checked_url({"url": _URL, **options}, _NAME)
    if options.get("simulated", False) is not False:
        raise PluginUnusable(f"option simulated = {options['simulated']!r}; give true or false")
    for name, what in (
        ("project", "the id of your project"),
        ("device_type", "the device, such as FRESNEL"),
    ):
        if not isinstance(options.get(name), str) or not _WORD.fullmatch(options[name]):
            raise PluginUnusable(f"backend {_NAME!r} needs {name} = '…', {what}")
    scale = clock_scale(options, default=1.0)
    try:
        given = options.get("device")
        return None if given is None else stated_device(str(given)), scale
    except DeviceError as error:
        raise PluginUnusable(f"option device: {error}") from error
