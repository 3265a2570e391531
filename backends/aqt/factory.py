"""The factory of AQT's QPUs, and their options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.coupling_class import CouplingClass
from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.stated_options import check_names, clock_scale
from backends.suggestions import did_you_mean

if TYPE_CHECKING:
    from backends.api import Backend, Target
    from backends.devices.api import FlatDevice
    from backends.site_access import TokenSource

__all__ = ["NATIVE_GATES", "AqtFactory", "AqtOptions", "as_spoken", "create"]

NATIVE_GATES = ("rz", "r", "rxx")

_NAME = "aqt"
# Simulators that AQT's provider has, without a server.
_OFFLINE = ("ideal", "noisy")
_STATED = (
    "api_key_header",
    "connections",
    "profile",
    "resource",
    "shared_key",
    "time_scale",
    "token",
    "url",
    "workspace",
)
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AqtOptions:
    """How a QPU of AQT is reached: over the cloud with a workspace, else by direct access.

    workspace, resource: of AQT's cloud; None for direct access.
    api_key_header: header that carries the token alone; None for ``Authorization: Bearer``.
    connections: most connections that the site allows at the same time, beyond which it answers
    with errors that mean nothing; None if it states no such limit.
    shared_key: whether clients elsewhere use the same key, and so count for that limit, too.
    profile: device profile with what the server does not state: times, metering, tighter limits.
    time_scale: seconds that pass for each second of the profile's clock, 1 for a device.
    """

    url: str
    token: TokenSource
    workspace: str | None = None
    resource: str | None = None
    api_key_header: str | None = None
    connections: int | None = None
    shared_key: bool = False
    profile: str | None = None
    time_scale: float = 1.0


def _parse_options(options: Mapping[str, Any]) -> AqtOptions:
    """Check a site's options. Raises `PluginUnusable` naming the option and what it may be."""
    from backends.site_access import checked_url, token_from_options

    if "offline" in options:
        raise PluginUnusable(
            f"option offline = {options['offline']!r} beside others; an offline simulator has no "
            "server, so give offline alone"
        )
    check_names(options, _STATED, f"backend {_NAME!r}")
    given = {key: value for key, value in options.items() if key != "token"}
    given["url"] = checked_url(options, _NAME)
    for name in ("profile", "workspace", "resource", "api_key_header"):
        if name in given and not (isinstance(given[name], str) and given[name]):
            raise PluginUnusable(f"option {name} = {given[name]!r}; give a text")
    if ("workspace" in given) != ("resource" in given):
        raise PluginUnusable(
            f"backend {_NAME!r} needs both workspace and resource for AQT's cloud, and neither for "
            "direct access"
        )
    header = given.get("api_key_header", "X")
    if not _HEADER.fullmatch(header):
        raise PluginUnusable(f"option api_key_header = {header!r}; give one such as 'X-API-Key'")
    _check_connections(given)
    given["time_scale"] = clock_scale(options, default=1.0)
    return AqtOptions(token=token_from_options(options, _NAME), **given)


def _check_connections(given: Mapping[str, Any]) -> None:
    connections = given.get("connections", 2)
    if isinstance(connections, bool) or not isinstance(connections, int) or connections < 2:
        raise PluginUnusable(
            f"option connections = {connections!r}; give a whole number ≥ 2: one waits for "
            "results while another starts tasks"
        )
    if not isinstance(given.get("shared_key", False), bool):
        raise PluginUnusable(f"option shared_key = {given['shared_key']!r}; give true or false")
    if "shared_key" in given and "connections" not in given:
        raise PluginUnusable(
            f"option shared_key = {given['shared_key']!r} without connections; give the number of "
            "connections that the site allows, too"
        )


class AqtFactory:
    """Creates and describes QPUs of AQT; raises ``ValueError`` for a wrong option."""

    neutral_options: ClassVar[frozenset[str]] = frozenset({"time_scale", "token"})
    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=("qiskit-aqt-provider>=2.0.1,<3",), imports=("qiskit_aqt_provider",)
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a QPU, with its started tasks stored in the existing folder; connects nowhere."""
        offline = self.device(options, state_dir=state_dir)
        if offline is not None:
            from backends.devices.backend import device_backend

            return device_backend(offline)
        from backends.aqt.backend import AqtBackend

        parsed = _parse_options(options)
        described = None if parsed.profile is None else _target(parsed, parsed.profile)
        return AqtBackend(parsed, described, state_dir=state_dir)

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether it is a server, and not a simulator."""
        return "offline" not in options

    def coupling_class(self, options: Mapping[str, Any]) -> CouplingClass:
        """Return the coupling class: direct access, at one's own site, has no queue of others."""
        return "batch" if options.get("workspace") is not None else "interactive"

    def device(self, options: Mapping[str, Any], *, state_dir: Path) -> FlatDevice | None:
        """Open the simulator that the option ``offline`` names; None without that option."""
        del state_dir  # a simulator remembers nothing
        if set(options) != {"offline"}:
            return None
        simulator = options["offline"]
        if simulator not in _OFFLINE:
            raise PluginUnusable(
                f"option offline = {simulator!r}; use one of: {', '.join(_OFFLINE)}"
                f"{did_you_mean(str(simulator), _OFFLINE)}"
            )
        try:
            from backends.aqt.offline import AqtOffline
            from backends.devices.local import LocalDevice

            return LocalDevice(AqtOffline(simulator))
        except ImportError as error:
            raise PluginUnusable(
                f"AQT's offline simulators need qiskit-aqt-provider, which cannot be installed "
                f"beside hpcqc ({error}); run 'hpcqc backends install aqt' and write environment = "
                '"managed" in the table of the QPU'
            ) from error

    def describe(self, options: Mapping[str, Any]) -> Target | None:
        """Return the target as the profile states it; None without one: the device states it."""
        if set(options) == {"offline"}:
            return None
        parsed = _parse_options(options)
        return None if parsed.profile is None else _target(parsed, parsed.profile)


create = AqtFactory()


def _target(options: AqtOptions, profile: str) -> Target:
    from backends.profiles import load_profile

    target = load_profile(profile).target()
    if set(target.native_gates or ()) != set(NATIVE_GATES) or target.coupling is not None:
        raise PluginUnusable(
            f"profile {profile!r} has the gates {', '.join(target.native_gates or ())}"
            f"{'' if target.coupling is None else ' on a lattice'}; AQT's protocol has "
            f"{', '.join(NATIVE_GATES)} on all pairs"
        )
    return as_spoken(target, options)


def as_spoken(target: Target, options: AqtOptions) -> Target:
    """Return a device's target as this backend and the protocol have it."""
    from backends.aqt.operations import MOST_CIRCUITS, MOST_SHOTS

    most_circuits = 1 if options.workspace is None else MOST_CIRCUITS
    return replace(
        target,
        payload_kinds=frozenset({"sampler"}),
        site_transpiles=False,
        mid_circuit_measurement=False,
        max_shots=min(target.max_shots or MOST_SHOTS, MOST_SHOTS),
        max_circuits=min(target.max_circuits or most_circuits, most_circuits),
        can_find=False,
        durable=True,
        clock_scale=float(options.time_scale),
        coupling_class="interactive" if options.workspace is None else "batch",
    )
