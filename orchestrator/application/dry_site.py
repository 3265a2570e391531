"""A site as a dry run needs it: simulators for QPUs, all state in a folder that goes (pure)."""

from __future__ import annotations

from pathlib import Path

from backends.simulator import stand_in
from orchestrator.config.site import BrokerSettings, QpuSettings, Site

__all__ = ["dry_qpu", "dry_site"]


def dry_site(site: Site, scratch: Path) -> Site:
    """Return the site with every QPU simulated, a broker per run, and its state in ``scratch``."""
    return site.model_copy(
        update={
            "qpus": {name: dry_qpu(settings) for name, settings in site.qpus.items()},
            "broker": BrokerSettings(),
            "state_dir": scratch / "state",
        }
    )


def dry_qpu(settings: QpuSettings) -> QpuSettings:
    """Return the simulator that stands in for a QPU: its profile if it has one, no clock.

    Windows, rates and leases go: they only make work wait, which a dry run need not. Slices stay.
    """
    backend, options = stand_in(settings.backend, settings.options)
    schedule = settings.schedule.model_copy(
        update={"window": [], "calendar": None, "rate": None, "lease": None}
    )
    return QpuSettings(name=settings.name, backend=backend, options=options, schedule=schedule)
