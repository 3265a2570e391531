"""The QPUs of a site: what each accepts, and whether its options are right."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backends.simulator import stand_in
from orchestrator.application.errors import reason
from orchestrator.config.backend_environments import backend_environment
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import resolve_secrets
from orchestrator.config.site import BrokerSettings, ComputeSettings, QpuSettings, Site
from orchestrator.names import ANY

if TYPE_CHECKING:
    from backends.api import Target

__all__ = [
    "describe_qpu",
    "dry_qpu",
    "dry_site",
    "load_ahead",
    "qpu_faults",
    "target_from_settings",
]


def describe_qpu(
    qpu: str | None = None, *, site: Path | str | None = None, settings: Sequence[str] = ()
) -> Target:
    """Return what a QPU accepts, how it charges, and where its values come from.

    Args:
        qpu: QPU of the site; None for the default one.
        site: Path of a site file; None for the one that the usual lookup finds.
        settings: Changes to the site, such as ``"qpu.vlq.profile=helmi"``.

    Returns:
        The target that the QPU's backend describes from its options; no device is contacted.

    Raises:
        ConfigError: The site file is wrong, or has no such QPU.
        BackendError: The backend refuses its options.
    """
    found = load_site(site, settings)
    return target_from_settings(found.qpu(qpu))


def target_from_settings(settings: QpuSettings) -> Target:
    """Return what a QPU publishes. Raises what its backend raises for its options."""
    from backends import registry
    from backends.api import QpuUnavailable

    options = resolve_secrets(settings.options)
    environment = backend_environment(settings)
    try:
        return registry.describe(settings.backend, options, environment=environment)
    except QpuUnavailable as error:
        from orchestrator.broker.client.status import unreachable

        raise unreachable(settings.name, error) from None


def qpu_faults(site: Site) -> dict[str, str | None]:
    """Return for each QPU what is wrong with its schedule or its backend's options, None if nothing."""
    return {name: _fault(settings) for name, settings in site.qpus.items()}


def _fault(settings: QpuSettings) -> str | None:
    from backends.api import BackendError
    from orchestrator.broker.runtime.site_rules import check_schedules

    try:
        check_schedules([settings], datetime.now(UTC))
        target_from_settings(settings)
    except (ValueError, BackendError) as error:
        return reason(error)
    return None


def dry_site(site: Site, scratch: Path, *, noisy: bool = False) -> Site:
    """Return the site with every QPU simulated, no Slurm, and its broker and state its own."""
    return site.model_copy(
        update={
            "qpus": {name: dry_qpu(settings, noisy=noisy) for name, settings in site.qpus.items()},
            "computes": {name: _dry_compute(settings) for name, settings in site.computes.items()},
            "broker": BrokerSettings(),
            "state_dir": scratch / "state",
        }
    )


def _dry_compute(settings: ComputeSettings) -> ComputeSettings:
    return ComputeSettings(name=settings.name, kind="dry") if settings.kind == "slurm" else settings


def dry_qpu(settings: QpuSettings, *, noisy: bool = False) -> QpuSettings:
    """Return a QPU's simulator without what makes work wait: clock, windows, rates, leases.

    That is Aer, unless the backend itself has a simulator of what it reaches.

    noisy: whether the QPU's errors are simulated, which takes most of the time.
    """
    from backends import registry

    own = registry.simulated_options(settings.backend, settings.options)
    if own is None:
        backend, options = stand_in(settings.backend, settings.options, noisy=noisy)
    else:
        backend, options = settings.backend, own
    schedule = settings.schedule.model_copy(
        update={"window": [], "calendar": None, "rate": None, "lease": None}
    )
    return QpuSettings(
        name=settings.name,
        backend=backend,
        options=options,
        schedule=schedule,
        accepts=settings.accepts,
        jurisdictions=settings.jurisdictions,
        environment=None if own is None else settings.environment,
        environment_memory=settings.environment_memory,
    )


def load_ahead(site: Path | None, settings: Sequence[str], qpu: str | None) -> None:
    """Begin to load the processes of a QPU's backend, unless a broker service has them."""
    from backends import registry

    found = load_site(site, settings)
    if qpu == ANY:
        return
    chosen = found.qpu(qpu)
    if found.broker.url is None and chosen.environment is None:
        registry.preload(chosen.backend)
