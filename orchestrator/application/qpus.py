"""The QPUs of a site: what each accepts, and whether its options are right."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backends.simulator import stand_in
from orchestrator.application.errors import reason
from orchestrator.config.backend_environments import backend_environment
from orchestrator.config.broker_tables import BrokerSettings
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.loading import load_site
from orchestrator.config.private import login_name
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.secrets import credentials_used, resolve_secrets
from orchestrator.config.site import Site
from orchestrator.names import ANY

if TYPE_CHECKING:
    from backends.api import Target
    from backends.coupling_class import CouplingClass
    from orchestrator.broker.client.status import QpuReadiness

__all__ = [
    "LookAtQpu",
    "QpuCheck",
    "check_qpus",
    "coupling_class_of",
    "describe_qpu",
    "dry_qpu",
    "dry_site",
    "load_ahead",
    "look_at_qpu",
    "target_from_settings",
]

# QPUs that are asked at the same time; one that does not answer takes a while.
_LOOKS = 16


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
        found = registry.describe(settings.backend, options, environment=environment)
        return settings.as_stated(found)
    except QpuUnavailable as error:
        from orchestrator.broker.client.status import unreachable

        raise unreachable(settings.name, error) from None


def coupling_class_of(settings: QpuSettings) -> CouplingClass | None:
    """Return a QPU's coupling class as far as it is known without a process or a connection."""
    from backends import registry
    from backends.api import BackendError

    if settings.coupling_class is not None:
        return settings.coupling_class
    try:
        return registry.coupling_class(settings.backend, resolve_secrets(settings.options))
    except (ValueError, BackendError):  # `hpcqc doctor` says what is wrong
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAtQpu:
    """What a QPU itself answered.

    facts: its status, capacity and readiness. target: None without an answer. denied: why its server
    refuses the credentials, if it does.
    """

    facts: QpuReadiness
    target: Target | None = None
    denied: str | None = None


def look_at_qpu(settings: QpuSettings) -> LookAtQpu | None:
    """Ask a QPU behind a wire; None for one on this machine. Raises ``ValueError`` for its options."""
    from backends import registry
    from backends.api import AccessDenied, BackendError, Dated

    if not registry.is_over_wire(settings.backend, settings.options):
        return None
    options, environment = resolve_secrets(settings.options), backend_environment(settings)
    target, why, denied = None, "", None
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            closing(
                registry.create(
                    settings.backend, options, state_dir=Path(scratch), environment=environment
                )
            ) as backend,
        ):
            target = settings.as_stated(backend.target())
            if isinstance(backend, Dated) and backend.heard.silent_since_s is not None:
                target, why = None, "its server does not answer"
    except AccessDenied as error:
        why = denied = reason(error)
    except BackendError as error:
        why = reason(error)
    return LookAtQpu(facts=_facts(settings, target, why), target=target, denied=denied)


def _facts(settings: QpuSettings, target: Target | None, why: str) -> QpuReadiness:
    """Return what one answer says: nothing of whether a job would start, for which a broker plans."""
    from orchestrator.broker.client.status import FactSource, QpuReadiness

    now = datetime.now(UTC)
    whose = credentials_used(settings.options, login_name())
    source = FactSource(at=None if target is None else now, credentials=whose)
    return QpuReadiness(
        name=settings.name,
        operational=None if target is None else True,
        operational_reason=why or None,
        slots=None if target is None else target.max_concurrent_tasks,
        open=None,
        sources={
            "status": source,
            "capacity": source,
            "readiness": FactSource(at=None, credentials=whose),
        },
        room_reason="no broker service plans its tasks",
        asked_at=now,
        read_at=None if target is None else now,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuCheck:
    """What is wrong with a QPU's table, if anything, and how the QPU stands if it was asked."""

    fault: str | None = None
    facts: QpuReadiness | None = None


def check_qpus(site: Site) -> dict[str, QpuCheck]:
    """Check each QPU's schedule and options, and ask those behind a wire, all at the same time."""
    with ThreadPoolExecutor(max_workers=_LOOKS) as threads:
        return dict(zip(site.qpus, threads.map(_check, site.qpus.values()), strict=True))


def _check(settings: QpuSettings) -> QpuCheck:
    from backends.api import BackendError
    from orchestrator.broker.runtime.site_rules import check_schedules

    try:
        check_schedules([settings], datetime.now(UTC))
        target_from_settings(settings)
        look = look_at_qpu(settings)
    except (ValueError, BackendError) as error:
        return QpuCheck(fault=reason(error))
    return QpuCheck() if look is None else QpuCheck(fault=look.denied, facts=look.facts)


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
