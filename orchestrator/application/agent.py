"""Flows on the local agent: deployed, submitted, listed; and the agent that a site needs."""

from __future__ import annotations

import getpass
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.suggestions import did_you_mean
from orchestrator.agent.deployments import Deployments, FlowRunView, FlowSource, attach
from orchestrator.agent.folder import AgentError, AgentFolder
from orchestrator.agent.plan import AgentSettings
from orchestrator.application.budget_check import budget_texts, check_units, idle_budgets, qpus_of
from orchestrator.application.errors import reason
from orchestrator.application.parameters import (
    bound_parameters,
    checked_parameters,
    collapsed_parameters,
    json_parameters,
)
from orchestrator.application.target import TargetError, find_target, load_flow
from orchestrator.broker.runtime.site_rules import check_schedules
from orchestrator.config.environment import (
    labels_of_environment,
    prefect_is_configured,
    state_dir,
    variable,
)
from orchestrator.config.loading import LAPTOP, load_site, lookup
from orchestrator.inputs import check_inputs

if TYPE_CHECKING:
    from uuid import UUID

    from prefect import Flow

__all__ = [
    "Deployed",
    "agent_folder",
    "agent_settings",
    "cancel_flow_run",
    "deploy",
    "flow_run",
    "flow_runs",
    "submit",
    "submitted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A deployed flow. name: to submit it by; deployment: as Prefect has it, ``FLOW/NAME``."""

    name: str
    deployment: str
    pool: str


def agent_folder() -> AgentFolder:
    """Return the folder of this user's agent."""
    return AgentFolder(path=state_dir() / "agent")


def agent_settings(
    site_file: Path | None, *, pool: str | None, flows: int, prefect_port: int, broker_port: int
) -> AgentSettings:
    """Return the agent that a site needs. flows: how many run at once, 0 for the core count."""
    site = load_site(site_file)
    check_schedules(site.qpus.values(), datetime.now(UTC))
    compute, cores = site.compute(), len(os.sched_getaffinity(0))
    prefect_url, file = _configured_server(), lookup(site_file)
    private = f"hpcqc-{getpass.getuser()}-{os.uname().nodename}"
    return AgentSettings(
        state_dir=site.state_dir,
        site_file=None if file is None else file.absolute(),
        workers=compute.workers or cores,
        memory_per_worker=compute.memory_per_worker,
        prefect_url=prefect_url,
        broker_url=site.broker.url,
        pool=pool or ("hpcqc" if prefect_url is None else private),
        flows=flows or max(2, cores),
        prefect_port=prefect_port,
        broker_port=broker_port,
    )


def deploy(flow: str, name: str | None = None) -> Deployed:
    """Make a flow known to the local agent as a Prefect deployment, or replace the one of its name.

    Args:
        flow: ``"path/to/file.py:flow"``, or the name of a ready flow.
        name: To submit it by; None for the flow's own.

    Returns:
        Its name, and its deployment and work pool in Prefect.

    Raises:
        AgentError: No agent is running, or the name has a letter that Prefect refuses.
        TargetError: The flow cannot be found or imported.
    """
    target = find_target(flow)
    deployments = attach(agent_folder())
    loaded = load_flow(target)
    chosen = name or (loaded.name if target.path else flow)
    if bad := sorted(set(chosen) & set("/%&<>")):
        raise AgentError(f"name {chosen!r} holds {bad[0]!r}; use none of / % & < >")
    full = deployments.deploy(loaded, FlowSource(text=flow, file=target.path), chosen)
    return Deployed(name=chosen, deployment=full, pool=deployments.pool)


def submit(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    qpu: str | None = None,
    budgets: Mapping[str, float | None] | None = None,
) -> FlowRunView:
    """Let the local agent run a deployed or a ready flow; return at once.

    Args:
        name: Name of a deployment, or of a ready flow, which is deployed when first submitted.
        parameters: Values of the flow's parameters by name.
        qpu: QPU of the quantum stages that pin none; None for the site's default.
        budgets: By unit, what the run's quantum jobs may cost in all; None lifts a limit.

    Returns:
        The new flow run; `flow_run` waits for it.

    Raises:
        AgentError: No agent is running, or nothing is deployed under this name.
        ParameterError: A parameter is unknown, missing or of another type, or would not arrive as
            it is: JSON, and the annotation of the flow's parameter, must say what it is.
        ConfigError: The agent's site has no such QPU, or no QPU that bills in a budget's unit.
    """
    return submitted(name, parameters or {}, qpu=qpu, budgets=budgets or {})


def submitted(
    name: str,
    parameters: Mapping[str, Any],
    *,
    qpu: str | None,
    budgets: Mapping[str, float | None],
    as_text: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> FlowRunView:
    """Submit a flow as `submit` does. as_text: parameters are texts, read by annotation."""
    deployments = attach(agent_folder())
    site = load_site(deployments.site or LAPTOP)
    site.qpus_for(qpu)  # or raise that there is none
    stated = budget_texts(budgets)
    check_units(site, budgets)
    check_schedules(site.qpus.values(), datetime.now(UTC))
    deployment, flow = _deployed(deployments, name)
    bound = bound_parameters if as_text else checked_parameters
    given = bound(flow.fn, parameters)
    check_inputs(flow.fn, given)
    for words in idle_budgets(site, qpus_of(flow, site, qpu), budgets):
        warn(words)
    environment = {} if qpu is None else {"HPCQC_QPU": qpu}
    labels = labels_of_environment()
    if labels:
        environment["HPCQC_LABELS"] = ",".join(labels)
    if budgets:
        environment["HPCQC_BUDGET"] = ",".join(stated)
    encoded = collapsed_parameters(flow, json_parameters(flow, given, finite=True))
    return deployments.submit(deployment, encoded, Path.cwd(), environment)


def flow_run(
    run: str,
    *,
    wait: bool = False,
    progress: Callable[[FlowRunView], None] | None = None,
) -> FlowRunView:
    """Return one flow run of the local agent, with its result if it completed.

    Args:
        run: Id of the run, or the unambiguous start of it.
        wait: Return only when the run has ended for good.
        progress: Called with the run at each new state while waiting.

    Returns:
        The run as Prefect has it.

    Raises:
        AgentError: No agent is running, or it has no such run or several.
    """
    deployments = attach(agent_folder())
    view = deployments.run(run)
    if wait:
        view = deployments.wait(view.id, progress or (lambda _view: None))
    if view.state != "Completed":
        return view
    try:
        return replace(view, result=deployments.result(view.id))
    except Exception as error:  # noqa: BLE001 - a result of a type that is not known here
        return replace(view, unread=reason(error))


def cancel_flow_run(run: str) -> FlowRunView:
    """Ask the local agent to end a flow run; return it as it was before. Raises ``AgentError``."""
    deployments = attach(agent_folder())
    return deployments.cancel(deployments.run(run).id)


def flow_runs(limit: int = 20) -> list[FlowRunView]:
    """Return the latest flow runs of the local agent.

    Args:
        limit: How many.

    Returns:
        The runs, the oldest first, without their results.

    Raises:
        AgentError: No agent is running.
    """
    return attach(agent_folder()).runs(limit)[::-1]


def _configured_server() -> str | None:
    """Return the Prefect server that the user has configured, None if there is none."""
    if (named := variable("PREFECT_API_URL")) is not None:
        return named
    if not prefect_is_configured():
        return None
    from prefect.settings import PREFECT_API_URL  # only Prefect knows all the places

    found: str | None = PREFECT_API_URL.value()
    return found


def _deployed(deployments: Deployments, name: str) -> tuple[UUID, Flow[..., Any]]:
    """Return a deployment and its flow; deploy a ready flow that was not submitted before."""
    found = deployments.find(name)
    if found is not None:
        environment = (found.job_variables or {}).get("env", {})
        entrypoint = environment.get("PREFECT__FLOW_ENTRYPOINT", "")
        # The entry point of a file has its full path, which holds in every working folder.
        text = entrypoint if ".py:" in entrypoint else environment.get("HPCQC_TARGET", name)
        return found.id, load_flow(find_target(text))
    try:
        target = find_target(name)
    except TargetError as error:
        known = deployments.names()
        raise AgentError(
            f"no flow is deployed under the name {name!r}; deployed flows: "
            f"{', '.join(known) or 'none'}; deploy it first with 'hpcqc deploy' ({error})"
            f"{did_you_mean(name, known)}"
        ) from error
    flow = load_flow(target)
    chosen = flow.name if target.path else name
    deployments.deploy(flow, FlowSource(text=name, file=target.path), chosen)
    made = deployments.find(f"{flow.name}/{chosen}")
    if made is None:
        raise AgentError(f"{name!r} was deployed and has been removed again; submit it once more")
    return made.id, flow
