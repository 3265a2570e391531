"""How a site makes QPUs behind a Warden."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from backends.plugins import PluginUnusable
from backends.rydberg.factory import create as rydberg
from backends.rydberg.factory import stand_in_options
from backends.stated_options import check_names, clock_scale

if TYPE_CHECKING:
    from backends.analog.device import RydbergDevice
    from backends.api import Backend, Target

__all__ = ["WardenFactory", "create"]

_NAME = "warden"
_OPTIONS = ("url", "session", "device", "munge_socket", "token", "time_scale", "simulated")
_SESSION = re.compile(r"[0-9A-Za-z-]{1,100}")


class WardenFactory:
    """Creates and describes QPUs behind a Warden; raises ``ValueError`` for a wrong option."""

    neutral_options: ClassVar[frozenset[str]] = frozenset(
        {"session", "munge_socket", "token", "time_scale"}
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a QPU, with its started tasks stored in the existing folder; connects nowhere."""
        from backends.analog.remote import RemoteAnalogBackend
        from backends.site_access import token_from_options
        from backends.warden.munge import MungeCredentials
        from backends.warden.site import WardenSite

        if options.get("simulated") is True:
            return rydberg(_simulated(options), state_dir=state_dir)
        device, scale = _parsed(options)
        url = _url(options)
        # A rehearsed site takes a token where no Munge runs.
        socket = options.get("munge_socket")
        if "token" in options:
            source: Any = token_from_options(options, _NAME)
        else:
            source = MungeCredentials(socket)
        site = WardenSite(url, source, session=str(options["session"]))
        return RemoteAnalogBackend(site, described=device, clock_scale=scale, state_dir=state_dir)

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether it is a Warden, and not simulated here."""
        return options.get("simulated") is not True

    def describe(self, options: Mapping[str, Any]) -> Target | None:
        """Return the target of the stated device; None without one: the server states it."""
        if options.get("simulated") is True:
            return rydberg.describe(_simulated(options))
        device, scale = _parsed(options)
        if device is None:
            return None
        from backends.analog.remote import analog_target

        return analog_target(
            device, can_find=False, clock_scale=scale, coupling_class="interactive"
        )

    def simulated(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return options for a dry run: the device is simulated on this machine."""
        return stand_in_options(options)


create = WardenFactory()


def _simulated(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of the device's simulation on this machine."""
    return {name: options[name] for name in ("device", "time_scale") if name in options}


def _parsed(options: Mapping[str, Any]) -> tuple[RydbergDevice | None, float]:
    """Check options; return the stated device and the scale of its clock."""
    from backends.analog.device import DeviceError
    from backends.analog.devices import stated_device

    check_names(options, _OPTIONS, f"backend {_NAME!r}")
    _url(options)
    if options.get("simulated", False) is not False:
        raise PluginUnusable(f"option simulated = {options['simulated']!r}; give true or false")
    session = options.get("session")
    if not isinstance(session, str) or not _SESSION.fullmatch(session):
        raise PluginUnusable(
            f"backend {_NAME!r} needs the session that Warden opened for the Slurm job: session = "
            "{ env = 'NAME_QRMI_JOB_ACQUISITION_TOKEN' }"
        )
    scale = clock_scale(options, default=1.0)
    for name in ("device", "munge_socket"):
        if name in options and not isinstance(options[name], str):
            raise PluginUnusable(f"option {name} = {options[name]!r}; give a text")
    try:
        given = options.get("device")
        return None if given is None else stated_device(given), scale
    except DeviceError as error:
        raise PluginUnusable(f"option device: {error}") from error


def _url(options: Mapping[str, Any]) -> str:
    """Return the option ``url``. Raises `PluginUnusable`.

    Plain HTTP is allowed with Munge, as Warden speaks it by itself: a credential is good once.
    """
    from backends.site_access import checked_url

    url = options.get("url")
    if isinstance(url, str) and "token" not in options:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname and not parts.username:
            return url.rstrip("/")
    return checked_url(options, _NAME)
