"""In which units QPUs bill, so that a budget in another is told of before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from orchestrator.application.service import service_at
from orchestrator.application.target import stages_beside
from orchestrator.config.backend_environments import backend_environment
from orchestrator.config.environment import budgets_of
from orchestrator.config.errors import ConfigError
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.secrets import resolve_secrets
from orchestrator.config.site import Site

if TYPE_CHECKING:
    from prefect import Flow

__all__ = ["agree_with_service", "budget_texts", "check_units", "idle_budgets", "qpus_of"]


def budget_texts(budgets: Mapping[str, float | None]) -> list[str]:
    """Return budgets as the command line takes them. Raises ``ConfigError`` for an invalid one."""
    texts = [f"{'none' if amount is None else amount} {unit}" for unit, amount in budgets.items()]
    budgets_of(texts)
    return texts


def check_units(site: Site, budgets: Iterable[str]) -> None:
    """Check that a QPU of the site bills in each unit, else ``ConfigError``."""
    # A broker service knows its QPUs better than the site file; `agree_with_service` asks it.
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
    """Send a run's budgets to the site's service; ``BrokerRefused``, ``BrokerUnreachable``."""
    if not budgets or site.broker.url is None:
        return
    with closing(service_at(site, site.broker.url)) as service:
        for unit, amount in budgets.items():
            service.limit_run(run, unit, amount)


def qpus_of(flow: Flow[..., Any], site: Site, default: str | None) -> set[str]:
    """Return the QPUs that the stages beside a flow may get; the default ones if there are none."""
    stages = (needs for needs in stages_beside(flow).values() if needs.kind == "quantum")
    asked = {needs.where or default for needs in stages} or {default}
    return {settings.name for name in asked for settings in site.qpus_for(name)}


def idle_budgets(site: Site, qpus: Iterable[str], budgets: Mapping[str, float | None]) -> list[str]:
    """Return a warning for each budget in a unit that no QPU of the run bills in."""
    limits = [unit for unit, amount in budgets.items() if amount is not None]
    if not limits:
        return []
    units = _units(site, sorted(qpus))
    if None in units.values():
        return []
    listed = ", ".join(f"{unit} ({qpu})" for qpu, unit in units.items())
    return [
        f"the budget in {unit} limits nothing: the QPUs of this run bill in {listed}; only "
        "what a function of the flow asks of another QPU, by its name, could count in it"
        for unit in sorted(set(limits) - set(units.values()))
    ]


def _units(site: Site, qpus: Iterable[str]) -> dict[str, str | None]:
    """Return the unit of each QPU, as the broker service says if the site has one."""
    if site.broker.url is None:
        return {qpu: _unit(site.qpu(qpu)) for qpu in qpus}
    with closing(service_at(site, site.broker.url)) as service:
        try:
            return {qpu: service.target(qpu).metering.unit for qpu in qpus}
        except Exception:  # noqa: BLE001  # it is told when the QPU is used
            return dict.fromkeys(qpus)


def _unit(settings: QpuSettings) -> str | None:
    """Return the unit of a QPU, None if its backend cannot tell now."""
    from backends import registry

    try:
        options = resolve_secrets(settings.options)
        environment = backend_environment(settings)
        return registry.describe(settings.backend, options, environment=environment).metering.unit
    except Exception:  # noqa: BLE001  # it is told when the QPU is used
        return None
