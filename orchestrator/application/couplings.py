"""The coupling of a run: which ones a site allows, and which one is used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

from backends.suggestions import did_you_mean
from orchestrator.arguments import expect
from orchestrator.compute.kinds import settings_in_force
from orchestrator.config.errors import ConfigError
from orchestrator.config.site import Coupling, Site
from orchestrator.names import ANY
from orchestrator.runs import Gate

__all__ = ["coupling_in_force", "gate_of"]

_USUAL = "multiplexed"


def coupling_in_force(site: Site, asked: str | None) -> str:
    """Return the coupling of a run; empty where no compute of the site can change its workers.

    Args:
        site: The site.
        asked: What the run asks for; None for what the site says.

    Raises:
        ConfigError: There is no such coupling, or the site's computes cannot follow it.
    """
    expect("coupling", asked, (str, type(None)), "a coupling's name, or None for the site's")
    known = get_args(Coupling)
    if asked is not None and asked not in known:
        raise ConfigError(
            f"there is no coupling {asked!r}{did_you_mean(asked, known)}; use one of: "
            f"{', '.join(known)}"
        )
    coupling = asked or site.coupling
    kinds = {name: settings_in_force(site, name).kind for name in site.computes}
    if "slurm" in kinds.values():
        return coupling or _USUAL
    if coupling in (None, "auto", _USUAL):  # what any other compute does: its workers stay
        return ""
    listed = ", ".join(f"[compute.{name}] has kind {kind!r}" for name, kind in kinds.items())
    raise ConfigError(
        f"coupling {coupling!r} starts and ends nodes during a run, which only a compute of kind "
        f"'slurm' can, and at site {site.name!r} {listed}; use coupling {_USUAL!r}, in which "
        "workers stay and the broker shares the QPU, or such a compute"
    )


def gate_of(site: Site, coupling: str, quantum_after_s: float | None = None) -> Gate:
    """Return what a gated run goes by: the broker service's queue; nothing for other couplings.

    Args:
        site: The site.
        coupling: The run's.
        quantum_after_s: How long the run works before it needs the QPU first, None if not known.
    """
    if coupling != "gated" or site.broker.url is None:
        return Gate()

    def qpu_free_in_s(name: str) -> float | None:
        from orchestrator.application.qpus import target_from_settings
        from orchestrator.application.wait import expected_wait

        if name == ANY:
            return None
        settings = site.qpu(name)
        try:
            target = target_from_settings(settings)
            return expected_wait(site, settings, target, 0.0, now=datetime.now(UTC)).waiting_s
        except (ValueError, RuntimeError):  # it does not answer now: a shut gate would not open
            return None

    return Gate(qpu_free_in_s=qpu_free_in_s, quantum_after_s=quantum_after_s)
