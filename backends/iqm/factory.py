"""The factory of QPUs behind an IQM Server, and their options."""

from __future__ import annotations

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

__all__ = ["IqmFactory", "IqmOptions", "as_spoken", "create"]

_NAME = "iqm"
# Devices that IQM's client simulates, without a server.
_FAKES = ("adonis", "aphrodite", "apollo", "deneb")
_GATES = frozenset({"cz", "move", "r"})
_ACCESSES = ("server", "staged")
# What the options of each access are, beyond those that both have.
_OWN = {
    "server": ("quantum_computer", "use_timeslot"),
    "staged": ("cluster", "project", "resource"),
}
_STATED = (
    "access",
    "cluster",
    "profile",
    "project",
    "quantum_computer",
    "resource",
    "time_scale",
    "token",
    "url",
    "use_timeslot",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IqmOptions:
    """How a QPU behind an IQM Server is reached.

    profile: device profile with what the server does not state: times, metering, tighter limits;
    None to do without.
    quantum_computer: its id or alias; None where the server has one alone. use_timeslot: whether
    jobs run in a booked timeslot. access: ``server`` for IQM's own, ``staged`` for a site that takes
    jobs of staged files through HEAppE. cluster, project, resource: what it calls the QPU, who works
    there, and what pays. time_scale: seconds that pass for each second of the profile's
    clock, 1 for a device.
    """

    url: str
    token: TokenSource
    profile: str | None = None
    quantum_computer: str | None = None
    use_timeslot: bool = False
    access: str = "server"
    cluster: str | None = None
    project: str | None = None
    resource: str | None = None
    time_scale: float = 1.0


def _parse_options(options: Mapping[str, Any]) -> IqmOptions:
    """Check a site's options. Raises `PluginUnusable` naming the option and what it may be."""
    from backends.site_access import checked_url, token_from_options

    if "fake" in options:
        raise PluginUnusable(
            f"option fake = {options['fake']!r} beside others; a fake device has no server, so "
            "give fake alone"
        )
    check_names(options, _STATED, f"backend {_NAME!r}")
    given = {key: value for key, value in options.items() if key != "token"}
    given["url"] = checked_url(options, _NAME)
    _check_access(given)
    texts = ("cluster", "profile", "project", "quantum_computer", "resource")
    for name, kind in (*((text, str) for text in texts), ("use_timeslot", bool)):
        if name in given and not (isinstance(given[name], kind) and given[name] != ""):
            raise PluginUnusable(f"option {name} = {given[name]!r}; give {_WORDS[kind]}")
    given["time_scale"] = clock_scale(options, default=1.0)
    return IqmOptions(token=token_from_options(options, _NAME), **given)


def _check_access(given: Mapping[str, Any]) -> None:
    access = given.get("access", "server")
    if access not in _ACCESSES:
        raise PluginUnusable(
            f"option access = {access!r}; use one of: {', '.join(_ACCESSES)}"
            f"{did_you_mean(str(access), _ACCESSES)}"
        )
    for other, names in _OWN.items():
        misplaced = [name for name in names if name in given and other != access]
        if misplaced:
            raise PluginUnusable(
                f"option {misplaced[0]} = {given[misplaced[0]]!r} belongs to access = {other!r}, and "
                f"this QPU has access = {access!r}"
            )
    missing = [name for name in _OWN["staged"] if name not in given]
    if access == "staged" and missing:
        raise PluginUnusable(
            f"access = 'staged' needs {missing[0]}; give the cluster, the project and the resource as "
            "the site calls them"
        )


_WORDS = {str: "a text", bool: "true or false"}


class IqmFactory:
    """Creates and describes QPUs behind an IQM Server; raises ``ValueError`` for a wrong option."""

    neutral_options: ClassVar[frozenset[str]] = frozenset({"time_scale", "token"})
    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=("iqm-client[qiskit]>=36,<37",), imports=("iqm.iqm_client",)
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a QPU, with its started tasks stored in the existing folder; connects nowhere."""
        fake = self.device(options, state_dir=state_dir)
        if fake is not None:
            from backends.devices.backend import device_backend

            return device_backend(fake)
        parsed = _parse_options(options)
        described = None if parsed.profile is None else _target(parsed, parsed.profile)
        if parsed.access == "staged":
            from backends.iqm.staged import StagedBackend

            return StagedBackend(parsed, described, state_dir=state_dir)
        from backends.iqm.backend import IqmBackend

        return IqmBackend(parsed, described, state_dir=state_dir)

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether it is a server, and not a fake device."""
        return "fake" not in options

    def coupling_class(self, options: Mapping[str, Any]) -> CouplingClass:
        """Return the coupling class: staged jobs go through a cluster's batch system, two a task."""
        return "batch" if options.get("access") == "staged" else "interactive"

    def device(self, options: Mapping[str, Any], *, state_dir: Path) -> FlatDevice | None:
        """Open the device that the option ``fake`` names; None without that option."""
        del state_dir  # a fake device remembers nothing
        if set(options) != {"fake"}:
            return None
        fake = options["fake"]
        if fake not in _FAKES:
            raise PluginUnusable(
                f"option fake = {fake!r}; use one of: {', '.join(_FAKES)}"
                f"{did_you_mean(str(fake), _FAKES)}"
            )
        try:
            from backends.devices.local import LocalDevice
            from backends.iqm.fakes import IqmFake

            return LocalDevice(IqmFake(fake))
        except ImportError as error:
            raise PluginUnusable(
                f"IQM's fake devices need iqm-client, which cannot be installed beside hpcqc "
                f"({error}); run 'hpcqc backends install iqm' and write environment = \"managed\" "
                "in the table of the QPU"
            ) from error

    def describe(self, options: Mapping[str, Any]) -> Target | None:
        """Return the target as the profile states it; None without one: the device states it."""
        if set(options) == {"fake"}:
            return None
        parsed = _parse_options(options)
        return None if parsed.profile is None else _target(parsed, parsed.profile)


create = IqmFactory()


def _target(options: IqmOptions, profile: str) -> Target:
    from backends.profiles import load_profile

    target = load_profile(profile).target()
    unknown = sorted(set(target.native_gates or ()) - _GATES)
    if unknown:
        raise PluginUnusable(
            f"profile {profile!r} has the gate {unknown[0]!r}, which IQM's protocol lacks; "
            f"expected {', '.join(sorted(_GATES))}"
        )
    return as_spoken(target, options)


def as_spoken(target: Target, options: IqmOptions) -> Target:
    """Return a device's target as this backend and the protocol have it."""
    return replace(
        target,
        payload_kinds=frozenset({"sampler"}),
        # The server takes native gates on physical qubits, also where a portal before it transpiles.
        site_transpiles=False,
        # Control flow would need the server's conditional pulses, which are not spoken here.
        mid_circuit_measurement=False,
        uniform_shots=True,
        can_find=options.access == "staged",
        durable=True,
        clock_scale=float(options.time_scale),
        coupling_class="batch" if options.access == "staged" else "interactive",
    )
