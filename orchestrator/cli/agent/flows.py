"""``hpcqc deploy`` and ``submit``: flows on the local agent."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import Budgets, Json, Parameters, Qpu
from orchestrator.cli.output import print_json, print_warning, say
from orchestrator.cli.run.runs import flow_run_document, print_flow_run

__all__ = ["deploy", "submit"]


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
            print_json(flow_run_document(view))
        return
    view = flow_run(
        str(view.id), wait=True, progress=lambda now: say(now.state.lower(), stderr=True)
    )
    print_flow_run(view, as_json=as_json)
    raise typer.Exit(0 if view.state == "Completed" else FAILED)
