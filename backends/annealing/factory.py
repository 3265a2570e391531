"""The factory of annealers and their options; it loads their SDKs only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.coupling_class import CouplingClass
from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.stated_options import check_names

if TYPE_CHECKING:
    from backends.api import Backend
    from backends.devices.api import PayloadDevice

__all__ = ["AnnealingFactory", "AnnealingOptions", "create"]

_MOST_SWEEPS = 10_000_000
# What hpcqc sets itself, or what would change what samples mean.
_TAKEN = ("answer_mode", "initial_state", "label", "num_reads", "reduce_intersample_correlation")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnealingOptions:
    """Which annealer is opened, and how.

    sweeps: of the simulator, updates of each variable in a read. solver: of D-Wave's cloud, by
    name; None simulates. url: of the cloud's region. token: of the user there. parameters: of the
    solver, such as annealing_time in µs.
    """

    sweeps: int = 1000
    solver: str | None = None
    url: str | None = None
    token: Any = field(default=None, repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)


class AnnealingFactory:
    """Creates backends for annealers; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=(
            "dwave-samplers>=1.8,<2",
            "dwave-cloud-client>=0.14.8,<0.15",
            "minorminer>=0.2.19,<0.3",
            "httpx>=0.27,<1",
        ),
        imports=("dwave.samplers", "dwave.cloud", "minorminer"),
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a backend in this process, which must have the packages."""
        from backends.devices.backend import payload_device_backend

        try:
            device = self.payload_device(options, state_dir=state_dir)
        except ImportError as error:
            extra = "annealing" if options.get("solver") is None else "dwave"
            raise PluginUnusable(
                f"backend 'annealing' needs packages that are not installed ({error}); run "
                f"'pip install \"hpcqc[{extra}]\"', or 'hpcqc backends install annealing' and write "
                'environment = "managed" in the table of the QPU'
            ) from error
        return payload_device_backend(device)

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether it is a solver of D-Wave's cloud."""
        return options.get("solver") is not None

    def coupling_class(self, options: Mapping[str, Any]) -> CouplingClass:
        """Return the coupling class: tasks wait in the queue of a cloud."""
        return "batch" if self.over_wire(options) else "interactive"

    def simulated(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the simulator that stands in for any annealer."""
        return {name: value for name, value in options.items() if name == "sweeps"}

    def payload_device(self, options: Mapping[str, Any], *, state_dir: Path) -> PayloadDevice:
        """Open an annealer.

        Args:
            options: As `AnnealingOptions`.
            state_dir: Where is stored what is needed to read the answers of the cloud.
        """
        chosen = _parse_options(options)
        if chosen.solver is not None:
            from backends.annealing.cloud import CloudAnnealer
            from backends.annealing.sapi import SapiClient
            from backends.site_access import checked_url, token_from_options

            client = SapiClient(
                checked_url(options, "annealing"), token_from_options(options, "annealing")
            )
            return CloudAnnealer(
                client, chosen.solver, state_dir / "problems", parameters=chosen.parameters
            )
        from backends.annealing.simulated import SimulatedAnnealer
        from backends.devices.local import LocalPayloadDevice

        return LocalPayloadDevice(SimulatedAnnealer(sweeps=chosen.sweeps))


def _parse_options(options: Mapping[str, Any]) -> AnnealingOptions:
    names = [one.name for one in fields(AnnealingOptions)]
    check_names(options, names, "backend 'annealing'")
    chosen = AnnealingOptions(**options)
    if not _is_whole(chosen.sweeps) or not 1 <= chosen.sweeps <= _MOST_SWEEPS:
        raise PluginUnusable(
            f"option sweeps = {chosen.sweeps!r}; give a whole number from 1 to {_MOST_SWEEPS}"
        )
    if "solver" in options and not (chosen.solver and isinstance(chosen.solver, str)):
        raise PluginUnusable(f"option solver = {chosen.solver!r}; give the name of a solver")
    unused = [name for name in ("url", "token", "parameters") if options.get(name)]
    if chosen.solver is None and unused:
        raise PluginUnusable(
            f"option {unused[0]} belongs to a solver of D-Wave's cloud; name one with solver = '…'"
        )
    if not isinstance(chosen.parameters, Mapping):
        raise PluginUnusable("option parameters must be a table, such as { annealing_time = 100 }")
    taken = sorted(set(chosen.parameters) & set(_TAKEN))
    if taken:
        raise PluginUnusable(f"option parameters.{taken[0]} is set by hpcqc; leave it out")
    return chosen


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


create = AnnealingFactory()
