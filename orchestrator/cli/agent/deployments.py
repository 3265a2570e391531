"""``hpcqc deploy``, ``submit`` and ``runs``: flows on the local agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.suggestions import did_you_mean
from orchestrator.agent.deployments import Deployments, FlowRunView, FlowSource, attach
from orchestrator.agent.folder import AgentError
from orchestrator.application.budget_check import check_units, idle_budgets, qpus_of
from orchestrator.application.errors import reason
from orchestrator.application.parameters import assignments, bound_parameters
from orchestrator.application.target import TargetError, find_target, load_flow
from orchestrator.broker.runtime.site_rules import check_schedules
from orchestrator.cli.agent.control import agent_folder
from orchestrator.cli.errors import FAILED
from orchestrator.cli.output import facts, print_json, print_warning, say, tabulate
from orchestrator.cli.run.clean import size_text
from orchestrator.config.environment import budgets_of
from orchestrator.config.loading import LAPTOP, load_site
from orchestrator.inputs import check_inputs
from orchestrator.provenance.markup import duration_text
from orchestrator.retention import stored_runs

if TYPE_CHECKING:
    from uuid import UUID

    from prefect import Flow

__all__ = ["SubmitRequest", "deploy_and_tell", "submit_and_tell", "tell_run", "tell_runs"]

_ID_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """What the user asked for, as it was typed."""

    name: str
    parameters: Sequence[str] = ()
    qpu: str | None = None
    budgets: Sequence[str] = ()
    wait: bool = False
    as_json: bool = False


def deploy_and_tell(text: str, name: str | None, *, as_json: bool) -> None:
    """Deploy a flow. Raises ``AgentError`` and ``TargetError``."""
    target = find_target(text)
    deployments = attach(agent_folder())
    flow = load_flow(target)
    source = FlowSource(text=text, file=target.path)
    chosen = name or (flow.name if target.path else text)
    if bad := sorted(set(chosen) & set("/%&<>")):
        raise AgentError(f"name {chosen!r} holds {bad[0]!r}; use none of / % & < >")
    full = deployments.deploy(flow, source, chosen)
    if as_json:
        print_json({"name": chosen, "deployment": full, "pool": deployments.pool})
    else:
        say(f"deployed {full}; run it with: hpcqc submit {chosen}")


def submit_and_tell(request: SubmitRequest) -> int:
    """Submit a flow; with ``wait``, return 0 only if it completed.

    Raises ``AgentError``, ``TargetError``, ``ParameterError`` and ``ConfigError``.
    """
    texts = assignments(request.parameters)
    deployments = attach(agent_folder())
    site = load_site(deployments.site or LAPTOP)
    site.qpu(request.qpu)
    budgets = budgets_of(request.budgets)
    check_units(site, budgets)
    check_schedules(site.qpus.values(), datetime.now(UTC))
    deployment, flow = _deployed(deployments, request.name)
    given = bound_parameters(flow.fn, texts)
    check_inputs(flow.fn, given)
    for words in idle_budgets(site, qpus_of(flow, site.qpu(request.qpu)), budgets):
        print_warning(words)
    parameters = flow.serialize_parameters(given)
    environment = {} if request.qpu is None else {"HPCQC_QPU": request.qpu}
    if request.budgets:
        environment["HPCQC_BUDGET"] = ",".join(request.budgets)
    view = deployments.submit(deployment, parameters, Path.cwd(), environment)
    if not request.as_json:
        say(f"run {view.id} ({view.name}): {view.url}")
    if not request.wait:
        if request.as_json:
            print_json(_document(view))
        return 0
    view = deployments.wait(view.id, lambda now: say(now.state.lower(), stderr=True))
    _tell(deployments, view, as_json=request.as_json)
    return 0 if view.state == "Completed" else FAILED


def tell_run(start_of_id: str, *, as_json: bool) -> None:
    """Write one run with its result. Raises ``AgentError``."""
    deployments = attach(agent_folder())
    _tell(deployments, deployments.run(start_of_id), as_json=as_json)


def tell_runs(limit: int, *, as_json: bool) -> None:
    """Write the latest runs, the oldest of them first. Raises ``AgentError``."""
    deployments = attach(agent_folder())
    views = deployments.runs(limit)[::-1]
    if as_json:
        print_json([_document(view) for view in views])
        return
    if not views:
        say("no runs yet; `hpcqc submit NAME` makes one")
        return
    held = {run.id: run.size_bytes for run in stored_runs(agent_folder().path.parent)}
    columns = ("run", "name", "flow", "state", "started", "took", "holds")
    rows = [
        [
            str(view.id)[:_ID_SHOWN],
            view.name,
            view.deployment,
            view.state,
            f"{view.started_at:%Y-%m-%d %H:%M:%S}" if view.started_at else "-",
            duration_text(view.seconds),
            size_text(held.get(str(view.id), 0)),
        ]
        for view in views
    ]
    tabulate(columns, rows)


def _deployed(deployments: Deployments, name: str) -> tuple[UUID, Flow[..., Any]]:
    """Return a deployment and its flow; a ready flow is deployed when it is first asked for."""
    found = deployments.find(name)
    if found is not None:
        text = (found.job_variables or {}).get("env", {}).get("HPCQC_TARGET", name)
        return found.id, load_flow(_found_again(found, text))
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


def _found_again(deployment: Any, text: str) -> Any:
    """Find a deployed flow's target; a file is known by its full path, wherever one stands now."""
    entrypoint = deployment.job_variables["env"].get("PREFECT__FLOW_ENTRYPOINT", "")
    return find_target(entrypoint if ".py:" in entrypoint else text)


def _tell(deployments: Deployments, view: FlowRunView, *, as_json: bool) -> None:
    value, unread = None, None
    if view.state == "Completed":
        try:
            value = deployments.result(view.id)
        except Exception as error:  # noqa: BLE001 - a result of a type that is not known here
            unread = reason(error)
    if as_json:
        print_json({**_document(view), "result": value, "unread": unread})
        return
    facts(
        {
            "flow": view.deployment,
            "state": view.state,
            "message": view.message,
            "started": view.started_at,
            "took": duration_text(view.seconds),
            "parameters": dict(view.parameters) or None,
            "Prefect": view.url,
            "result": unread,
        },
        title=f"run {view.id}",
    )
    if value is not None:
        print_json(value)


def _document(view: FlowRunView) -> dict[str, Any]:
    return {**asdict(view), "id": str(view.id)}
