"""The commands of ``hpcqc broker`` and their options; what they do is loaded when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.option_values import path, whole
from orchestrator.config.errors import ConfigError

__all__ = ["broker"]

broker = typer.Typer(
    no_args_is_help=True,
    help="The broker as a service: many flows share the site's QPUs, nothing runs twice.",
)
_tokens = typer.Typer(no_args_is_help=True, help="Tokens of users and operators.")
broker.add_typer(_tokens, name="token")

_Site = Annotated[
    Path | None,
    typer.Option("--site", parser=path, metavar="FILE", help="Site file instead of the one found."),
]
_Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]
_Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the ledger.")]


@broker.command()
def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="unix:PATH, HOST:PORT (0: a free one), or fd:N for an inherited socket; with "
            "token-only: before it, a Unix socket on which users need a token. Repeatable; the "
            "sockets that systemd passes, else broker.sock in the state folder, if not given.",
        ),
    ] = None,
    site: _Site = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. Repeatable."),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            metavar="FORMAT",
            help="json or text, to stderr; text on a terminal and json elsewhere if not given.",
        ),
    ] = None,
) -> None:
    """Serve the site's QPUs until Ctrl-C or SIGTERM; running tasks are found again afterwards."""
    from orchestrator.cli.broker.serve import serve_site

    serve_site(site, setting or (), listen or (), log_format)


@broker.command()
def status(site: _Site = None, as_json: _Json = False) -> None:
    """Show whether the service is well, and each QPU; exit 1 if it is not."""
    from orchestrator.cli.broker.admin import tell_status

    raise typer.Exit(tell_status(site, as_json=as_json))


@broker.command()
def queue(
    qpu: Annotated[str | None, typer.Option("--qpu", metavar="NAME")] = None,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """List the jobs that wait, run or are uncertain."""
    from orchestrator.cli.broker.admin import tell_queue

    tell_queue(site, qpu, as_json=as_json)


@broker.command()
def drain(
    qpu: Annotated[str, typer.Argument(metavar="QPU")],
    reason: _Reason,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """Start nothing further on a QPU; what runs there ends as it would. For operators."""
    from orchestrator.cli.broker.admin import change_qpu

    change_qpu(site, qpu, drain=reason, as_json=as_json)


@broker.command()
def resume(
    qpu: Annotated[str, typer.Argument(metavar="QPU")], site: _Site = None, as_json: _Json = False
) -> None:
    """Let a drained QPU take work again. For operators."""
    from orchestrator.cli.broker.admin import change_qpu

    change_qpu(site, qpu, drain=None, as_json=as_json)


@broker.command()
def cancel(
    job: Annotated[str, typer.Argument(metavar="JOB")], site: _Site = None, as_json: _Json = False
) -> None:
    """Cancel a job, on the QPU too; says so if it was too late."""
    from orchestrator.cli.broker.admin import cancel_job

    cancel_job(site, job, as_json=as_json)


@broker.command()
def resolve(
    job: Annotated[str, typer.Argument(metavar="JOB")],
    verdict: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="VERDICT",
            help="failed: give the job up. not-started: the QPU never ran it, start it again.",
        ),
    ],
    reason: _Reason,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """Settle a job whose task may or may not have run. For operators."""
    from orchestrator.cli.broker.admin import resolve_job

    resolve_job(site, job, verdict, reason, as_json=as_json)


@broker.command()
def projects(
    project: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="This one alone.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="'AMOUNT UNIT'",
            help="Let the project spend so much in all, such as '500 billed-s'; 'none billed-s' "
            "lifts the limit. Repeatable, for operators.",
        ),
    ] = None,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """Show what each project used and has left in each unit, or set a project's budget."""
    from orchestrator.cli.broker.budgets import limit_project, tell_projects

    if not budget:
        tell_projects(site, project, as_json=as_json)
    else:
        limit_project(site, project, budget, as_json=as_json)


@broker.command()
def statement(
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Of this project alone.")
    ] = None,
    month: Annotated[
        str | None,
        typer.Option("--month", metavar="YYYY-MM", help="In UTC; this month if not given."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV to stdout.")] = False,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """State what each project was charged in a month, by QPU and unit."""
    from orchestrator.cli.broker.budgets import tell_statement

    if as_csv and as_json:
        raise ConfigError("--csv and --json both set the form; give one of them")
    tell_statement(site, project, month, "json" if as_json else "csv" if as_csv else "table")


@broker.command()
def backup(
    file: Annotated[Path, typer.Argument(parser=path, metavar="FILE", help="Where the copy goes.")],
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """Copy the ledger to a file, consistently, also while the service runs."""
    from orchestrator.cli.broker.serve import back_up

    back_up(site, file, as_json=as_json)


@_tokens.command("add")
def token_add(
    user: Annotated[str, typer.Argument(metavar="USER")],
    project: Annotated[
        list[str], typer.Option("--project", metavar="NAME", help="Repeatable; the first pays.")
    ],
    role: Annotated[str, typer.Option(metavar="ROLE", help="user or operator")] = "user",
    days: Annotated[
        int | None, typer.Option(parser=whole(1), metavar="N", help="Valid so long.")
    ] = None,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """Make a token; its secret is shown this once and kept only as a hash."""
    from orchestrator.cli.broker.serve import TokenRequest, add_token

    request = TokenRequest(user=user, role=role, projects=project, days=days)
    add_token(request, site, as_json=as_json)


@_tokens.command("list")
def token_list(site: _Site = None, as_json: _Json = False) -> None:
    """List tokens, without their secrets."""
    from orchestrator.cli.broker.serve import tell_tokens

    tell_tokens(site, as_json=as_json)


@_tokens.command("revoke")
def token_revoke(
    token: Annotated[str, typer.Argument(metavar="ID")], site: _Site = None, as_json: _Json = False
) -> None:
    """Take a token back; it is refused from the next request on."""
    from orchestrator.cli.broker.serve import revoke_token

    revoke_token(site, token, as_json=as_json)
