"""A site as a dry run needs it: simulators for QPUs, all state in a folder that goes (pure)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.config import BrokerSettings, QpuSettings, Site

__all__ = ["dry_qpu", "dry_site", "is_modelled"]

_SIMULATOR = "aer"


def dry_site(site: Site, scratch: Path) -> Site:
    """Return the site with every QPU simulated, a broker per run, and its state in ``scratch``."""
    return replace(
        site,
        qpus={name: dry_qpu(settings) for name, settings in site.qpus.items()},
        broker=BrokerSettings(),
        state_dir=scratch / "state",
    )


def dry_qpu(settings: QpuSettings) -> QpuSettings:
    """Return the simulator that stands in for a QPU: its profile if it has one, no clock.

    Windows, rates and leases go: they only make work wait, which a dry run need not. Slices stay.
    """
    if settings.backend == _SIMULATOR:
        options = {key: value for key, value in settings.options.items() if key != "time_scale"}
    else:
        # Other backends' options are their own; of secrets a simulator needs none.
        profile = settings.options.get("profile")
        options = {} if profile is None else {"profile": profile}
    schedule = replace(settings.schedule, windows=(), calendar=None, rate=None, lease=None)
    return QpuSettings(name=settings.name, backend=_SIMULATOR, options=options, schedule=schedule)


def is_modelled(settings: QpuSettings) -> bool:
    """Whether there is a profile, and so a timing model, to tell the QPU's time by."""
    return settings.options.get("profile") is not None
