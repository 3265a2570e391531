"""``hpcqc deploy``, ``submit`` and ``runs``: flows on the local agent."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Budgets, Json, Limit, Parameters, Qpu
from orchestrator.cli.output import facts, print_json, print_warning, say, tabulate
from orchestrator.cli.run.clean import size_text
from orchestrator.provenance.markup import duration_text

if TYPE_CHECKING:
    from orchestrator.agent.deployments import FlowRunView

__all__ = ["deploy", "runs", "submit"]

_ID_SHOWN = 8


def deploy(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="path/to/file.py:flow, or a ready flow's name.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name to submit by; the flow's if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a flow known to the agent as a Prefect deployment."""
    from orchestrator.application.agent import deploy as deploy_flow

    deployed = deploy_flow(target, name)
    if as_json:
        print_json(deployed)
    else:
        say(f"deployed {deployed.deployment}; run it with: hpcqc submit {deployed.name}")


def submit(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A deployment's name, or a ready flow's.")
    ],
    parameter: Parameters = None,
    qpu: Qpu = None,
    budget: Budgets = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return at the run's end; exit 1 unless it completed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Have the agent run a flow."""
    from orchestrator.application.agent import flow_run, submitted
    from orchestrator.application.parameters import assignments
    from orchestrator.cli.errors import FAILED
    from orchestrator.config.environment import budgets_of

    view = submitted(
        name,
        assignments(parameter or ()),
        qpu=qpu,
        budgets=budgets_of(budget or ()),
        as_text=True,
        warn=print_warning,
    )
    if not as_json:
        say(f"run {view.id} ({view.name}): {view.url}")
    if not wait:
        if as_json:
            print_json(_document(view))
        return
    view = flow_run(
        str(view.id), wait=True, progress=lambda now: say(now.state.lower(), stderr=True)
    )
    _print_run(view, as_json=as_json)
    raise typer.Exit(0 if view.state == "Completed" else FAILED)


def runs(
    run: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One run, with its result.")
    ] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List the agent's flow runs, or show one."""
    from orchestrator.application.agent import agent_folder, flow_run, flow_runs
    from orchestrator.retention import stored_runs

    if run is not None:
        _print_run(flow_run(run), as_json=as_json)
        return
    views = flow_runs(limit)
    if as_json:
        print_json([_document(view) for view in views])
        return
    if not views:
        say("no runs yet; `hpcqc submit NAME` makes one")
        return
    sizes = {stored.id: stored.size_bytes for stored in stored_runs(agent_folder().path.parent)}
    columns = ("run", "name", "flow", "state", "started", "took", "holds")
    rows = [
        [
            str(view.id)[:_ID_SHOWN],
            view.name,
            view.deployment,
            view.state,
            f"{view.started_at:%Y-%m-%d %H:%M:%S}" if view.started_at else "-",
            duration_text(view.seconds),
            size_text(sizes.get(str(view.id), 0)),
        ]
        for view in views
    ]
    tabulate(columns, rows)


def _print_run(view: FlowRunView, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(view))
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
            "result": view.unread,
        },
        title=f"run {view.id}",
    )
    if view.result is not None:
        print_json(view.result)


def _document(view: FlowRunView) -> dict[str, Any]:
    return {**asdict(view), "id": str(view.id)}
