"""The commands of the local agent: ``agent``, ``deploy``, ``submit`` and ``runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.option_values import path, real, whole

__all__ = ["agent", "deploy", "logs", "runs", "start", "status", "stop", "submit"]

agent = typer.Typer(
    no_args_is_help=True,
    help="The local agent: Prefect server, broker, Dask and worker, kept running.",
)

_Site = Annotated[
    Path | None,
    typer.Option("--site", parser=path, metavar="FILE", help="Site file instead of the one found."),
]
_Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]
_Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="'AMOUNT UNIT'",
        help="Stop before the quantum call that would cost more in all, such as "
        "'10 billed-s'; 'none billed-s' lifts it. Repeatable.",
    ),
]


@agent.command()
def start(
    site: _Site = None,
    foreground: Annotated[
        bool,
        typer.Option("--foreground", help="Stay, and end with this process; for systemd."),
    ] = False,
    prefect_port: Annotated[
        int,
        typer.Option(
            parser=whole(0, 65535), metavar="N", help="Port of Prefect's UI; 0 for a free one."
        ),
    ] = 0,
    broker_port: Annotated[
        int,
        typer.Option(
            parser=whole(0, 65535),
            metavar="N",
            help="Port of the broker's page; 0 for a free one.",
        ),
    ] = 0,
    pool: Annotated[
        str | None, typer.Option(metavar="NAME", help="Prefect work pool; hpcqc if not given.")
    ] = None,
    flows: Annotated[
        int,
        typer.Option(parser=whole(0), metavar="N", help="Flows at once; 0 for as many as cores."),
    ] = 0,
    timeout: Annotated[
        float, typer.Option(parser=real(1), metavar="S", help="Seconds until it must be ready.")
    ] = 180.0,
    as_json: _Json = False,
) -> None:
    """Bring everything up, wait until it is ready, and say where to look."""
    from orchestrator.cli.agent.control import StartRequest, start_and_tell

    request = StartRequest(
        site_file=site,
        foreground=foreground,
        prefect_port=prefect_port,
        broker_port=broker_port,
        pool=pool,
        flows=flows,
        timeout_s=timeout,
        as_json=as_json,
    )
    start_and_tell(request)


@agent.command()
def status(as_json: _Json = False) -> None:
    """Say what runs and where; exit 1 unless all of it is healthy."""
    from orchestrator.cli.agent.control import tell_status

    raise typer.Exit(tell_status(as_json=as_json))


@agent.command()
def stop(as_json: _Json = False) -> None:
    """End the agent and every process it started; flows under way go on at the next start."""
    from orchestrator.cli.agent.control import stop_and_tell

    stop_and_tell(as_json=as_json)


@agent.command()
def logs(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="prefect, dask, broker, worker or supervisor."),
    ] = None,
    lines: Annotated[
        int, typer.Option(parser=whole(1), metavar="N", help="The last so many lines.")
    ] = 40,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as lines are written.")] = False,
    as_json: _Json = False,
) -> None:
    """Show the end of a log, or of all of them."""
    from orchestrator.cli.agent.control import tell_logs

    tell_logs(name, lines, follow=follow, as_json=as_json)


def deploy(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="path/to/file.py:flow, or a ready flow's name.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name to submit by; the flow's if not given.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Make a flow known to the agent as a Prefect deployment."""
    from orchestrator.cli.agent.deployments import deploy_and_tell

    deploy_and_tell(target, name, as_json=as_json)


def submit(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A deployment's name, or a ready flow's.")
    ],
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--parameter",
            metavar="NAME=VALUE",
            help="Parameter of the flow: a TOML or JSON value, or text. Repeatable.",
        ),
    ] = None,
    qpu: Annotated[
        str | None,
        typer.Option(
            "--qpu", metavar="NAME", envvar="HPCQC_QPU", help="QPU instead of the site's default."
        ),
    ] = None,
    budget: _Budget = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return at the run's end; exit 1 unless it completed.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Have the agent run a flow."""
    from orchestrator.cli.agent.deployments import SubmitRequest, submit_and_tell

    request = SubmitRequest(
        name=name,
        parameters=parameter or (),
        qpu=qpu,
        budgets=budget or (),
        wait=wait,
        as_json=as_json,
    )
    raise typer.Exit(submit_and_tell(request))


def runs(
    run: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One run, with its result.")
    ] = None,
    limit: Annotated[
        int, typer.Option(parser=whole(1), metavar="N", help="The latest so many.")
    ] = 20,
    as_json: _Json = False,
) -> None:
    """List the agent's flow runs, or show one."""
    from orchestrator.cli.agent.deployments import tell_run, tell_runs

    if run is not None:
        tell_run(run, as_json=as_json)
    else:
        tell_runs(limit, as_json=as_json)
