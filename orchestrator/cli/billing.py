"""In which units a site's QPUs bill, so that a budget in another is refused before anything runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from orchestrator.config import ConfigError, QpuSettings, Site, resolve_secrets

__all__ = ["agree_with_service", "check_units"]

_PATIENCE_S = 3.0


def check_units(site: Site, budgets: Iterable[str]) -> None:
    """See that each unit is one that a QPU of the site bills in. Raises ``ConfigError``.

    A broker service knows its QPUs better than the user's site file, and is asked when it is told
    of the budget.
    """
    wanted = set(budgets)
    if not wanted or site.broker.url is not None:
        return
    units: dict[str, str] = {}
    for name, settings in site.qpus.items():
        unit = _unit(settings)
        if unit is not None:
            units.setdefault(unit, name)
        if wanted <= set(units):
            return
    listed = ", ".join(f"{unit} ({name})" for unit, name in sorted(units.items()))
    raise ConfigError(
        f"no QPU of this site bills in {min(wanted - set(units))!r}; "
        f"the units are: {listed or 'none'}"
    )


def agree_with_service(site: Site, run: str, budgets: Mapping[str, float | None]) -> None:
    """Tell the site's broker service, if it has one, what a run may cost.

    Raises ``BrokerRefused`` for a unit that none of its QPUs bills in, ``BrokerUnreachable``.
    """
    if not budgets or site.broker.url is None:
        return
    from orchestrator.broker.remote import RemoteBroker

    token = resolve_secrets(site.broker.token)
    service = RemoteBroker(site.broker.url, token=token, patience_s=_PATIENCE_S)
    with closing(service):
        for unit, amount in budgets.items():
            service.limit_run(run, unit, amount)


def _unit(settings: QpuSettings) -> str | None:
    """Return the unit of a QPU, None for one that cannot be opened now."""
    from backends import registry
    from backends.profiles import ProfileError, load_profile

    profile = settings.options.get("profile")
    if settings.backend == "aer" and isinstance(profile, str):
        try:
            return load_profile(profile).metering.unit
        except ProfileError:
            return None
    with tempfile.TemporaryDirectory() as scratch:
        try:
            options = resolve_secrets(settings.options)
            backend = registry.create(settings.backend, options, state_dir=Path(scratch))
        except Exception:  # noqa: BLE001  # it is told when the QPU is used
            return None
        try:
            return backend.target().metering.unit
        finally:
            backend.close()
