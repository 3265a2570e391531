"""Kinds of compute by name: hpcqc's own, and those that installed packages register."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from backends.plugins import PluginUnusable, load
from orchestrator.compute.api import Compute, ComputeKind, ComputeRun, Demand, DemandNotMet
from orchestrator.compute.local import DryDask, LocalDask
from orchestrator.compute.shared import SharedDask
from orchestrator.compute.slurm import SlurmDask
from orchestrator.config.compute_tables import COMPUTE_KINDS, ComputeSettings
from orchestrator.config.durations import duration_text
from orchestrator.config.environment import shared_cluster
from orchestrator.config.site import Site
from orchestrator.wording import size_text

__all__ = ["check_demand", "check_fits_one_job", "open_compute", "settings_in_force"]

_OWN: Mapping[str, ComputeKind] = {
    "local": LocalDask,
    "shared": SharedDask,
    "slurm": SlurmDask,
    "dry": DryDask,  # of dry runs, in no site file
}


def settings_in_force(site: Site, name: str | None = None) -> ComputeSettings:
    """Return a compute's settings, or raise `ConfigError`; None for the default one."""
    # A running cluster that the environment names takes the place of local workers.
    settings = site.compute(name)
    if settings.name != site.default_compute or settings.kind != "local":
        return settings
    return settings if shared_cluster() is None else settings.model_copy(update={"kind": "shared"})


def open_compute(settings: ComputeSettings, run: ComputeRun | None = None) -> Compute:
    """Return a compute as `ComputeKind` does. Also raises ``UnknownPlugin``, ``PluginUnusable``."""
    return _kind(settings.kind)(settings, run)


def check_demand(stage: str, demand: Demand, settings: ComputeSettings) -> None:
    """Raise `DemandNotMet` where a compute cannot give what a stage asks for."""
    for resource, reason in _kind(settings.kind).lacks(settings, demand).items():
        raise DemandNotMet(
            f"stage {stage!r} asks for {resource} = {_shown(demand, resource)}, which compute "
            f"{settings.name!r} of kind {settings.kind!r} cannot give: {reason}"
        )


def check_fits_one_job(stage: str, demand: Demand, settings: ComputeSettings) -> None:
    """Raise `DemandNotMet` where a run that is one job would have no room for a stage in it.

    The stage would wait for an allocation of its own while its run holds the nodes.
    """
    if settings.kind != "slurm":
        return
    changes = SlurmDask.enough_together(settings, demand)
    if not changes:
        return
    usual = Demand(nodes_max=demand.nodes_max)
    asked = ", ".join(
        f"{name} = {_shown(demand, name)}"
        for name in ("nodes", "tasks_per_node", "cores", "memory", "gpus", "walltime")
        if getattr(demand, name) != getattr(usual, name)
    )
    table = f"compute.{settings.name}.options"
    change = ", ".join(
        f"{table}.{name} = {_option(name, value)}" for name, value in changes.items()
    )
    raise DemandNotMet(
        f"stage {stage!r} asks for {asked}, which is more than the one job of a run in coupling "
        f"'exclusive' has for it, and the run holds that job to its end; make it large enough "
        f"({change}), or use another coupling, in which such a stage has an allocation of its own"
    )


def _option(name: str, value: Any) -> str:
    """Return a value as a site file has it."""
    if isinstance(value, timedelta):
        return f'"{duration_text(value)}"'
    return f'"{-(-value // (1 << 20))} MiB"' if name == "memory" else str(value)


def _shown(demand: Demand, resource: str) -> str:
    """Return an amount of a demand, as its stage may have stated it."""
    amount = getattr(demand, resource)
    return size_text(amount) if resource == "memory" else str(amount)


def _kind(name: str) -> ComputeKind:
    if name in _OWN:
        return _OWN[name]
    found: Any = load(COMPUTE_KINDS, name, noun="compute kind")
    if not callable(found) or not callable(getattr(found, "lacks", None)):
        raise PluginUnusable(
            f"compute kind {name!r} is {found!r}; expected orchestrator.compute.api.ComputeKind"
        )
    kind: ComputeKind = found
    return kind
