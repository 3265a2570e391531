"""The commands of ``hpcqc``: each verb is a function of its own file, registered here by a line."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.agent.flows import deploy, submit
from orchestrator.cli.agent.services import logs, start, status, stop
from orchestrator.cli.broker.jobs import cancel, queue, resolve
from orchestrator.cli.broker.projects import projects, statement
from orchestrator.cli.broker.qpus import broker_status, drain, ready, resume
from orchestrator.cli.broker.serve import backup, serve, verify
from orchestrator.cli.broker.slots import publish
from orchestrator.cli.broker.tokens import token_add, token_list, token_revoke
from orchestrator.cli.jobs.jobs import jobs
from orchestrator.cli.jobs.simulate import simulate
from orchestrator.cli.jobs.why import why
from orchestrator.cli.links.certificates import certificates
from orchestrator.cli.links.links import check, serve_link
from orchestrator.cli.options import Json
from orchestrator.cli.realtime.serve import serve_decoding, serve_echoes
from orchestrator.cli.run.accounting import accounting
from orchestrator.cli.run.clean import clean
from orchestrator.cli.run.estimate import estimate
from orchestrator.cli.run.plan import plan
from orchestrator.cli.run.report import report
from orchestrator.cli.run.run import run
from orchestrator.cli.run.runs import cancel_run, run_logs, runs
from orchestrator.cli.run.sample import sample
from orchestrator.cli.run.target_help import TargetCommand
from orchestrator.cli.site.backends import backends_install, backends_list
from orchestrator.cli.site.config import config_check, config_show
from orchestrator.cli.site.doctor import doctor
from orchestrator.cli.site.qpu import qpu_list, qpu_show
from orchestrator.cli.site.rehearse import rehearse

__all__ = ["app", "options"]

_ABOUT = "Run hybrid quantum-classical flows: classical stages on Dask, quantum stages on QPUs."
_NOUNS = {
    "qpu": "The QPUs of the site.",
    "backends": "What can drive a QPU; without a verb, list it.",
    "config": "The site's configuration.",
    "broker": "The broker as a service: many flows share the site's QPUs, nothing runs twice.",
    "broker token": "Tokens of users and operators.",
    "links": "Quantum-safe links between sites: TLS 1.3, X25519 with ML-KEM-768, certificates.",
    "realtime": "Real-time calls over UDP: decode syndromes while an experiment runs.",
    "agent": "The local agent: Prefect server, broker, Dask and worker, kept running.",
}
# Their help describes a flow that is named.
_OF_FLOWS = {run, estimate, plan, deploy}
_VERBS = (
    ("run", run),
    ("runs", runs),
    ("logs", run_logs),
    ("cancel", cancel_run),
    ("estimate", estimate),
    ("plan", plan),
    ("sample", sample),
    ("backends list", backends_list),
    ("backends install", backends_install),
    ("jobs", jobs),
    ("report", report),
    ("clean", clean),
    ("accounting", accounting),
    ("why", why),
    ("doctor", doctor),
    ("simulate", simulate),
    ("rehearse", rehearse),
    ("deploy", deploy),
    ("submit", submit),
    ("qpu list", qpu_list),
    ("qpu show", qpu_show),
    ("config show", config_show),
    ("config check", config_check),
    ("broker serve", serve),
    ("broker status", broker_status),
    ("broker ready", ready),
    ("broker publish", publish),
    ("broker queue", queue),
    ("broker drain", drain),
    ("broker resume", resume),
    ("broker cancel", cancel),
    ("broker resolve", resolve),
    ("broker projects", projects),
    ("broker statement", statement),
    ("broker backup", backup),
    ("broker verify", verify),
    ("broker token add", token_add),
    ("broker token list", token_list),
    ("broker token revoke", token_revoke),
    ("links certificates", certificates),
    ("links serve", serve_link),
    ("links check", check),
    ("realtime serve", serve_decoding),
    ("realtime echo", serve_echoes),
    ("agent start", start),
    ("agent status", status),
    ("agent stop", stop),
    ("agent logs", logs),
)

app = typer.Typer(
    name="hpcqc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is there in a fifth of the time
    help=_ABOUT,
)
_groups = {"": app}
# Nouns that are verbs, too.
_BARE = {"backends"}
for _name, _help in _NOUNS.items():
    _parent, _, _noun = _name.rpartition(" ")
    _groups[_name] = typer.Typer(no_args_is_help=_name not in _BARE, help=_help)
    _groups[_parent].add_typer(_groups[_name], name=_noun)
for _name, _function in _VERBS:
    _parent, _, _verb = _name.rpartition(" ")
    _class = TargetCommand if _function in _OF_FLOWS else None
    _groups[_parent].command(_verb, cls=_class)(_function)


@_groups["backends"].callback(invoke_without_command=True)
def _bare_backends(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        backends_list(as_json=as_json)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        from orchestrator.cli.output import say

        try:
            say(f"hpcqc {version('hpcqc')}")
        except PackageNotFoundError:
            say("hpcqc, not installed (run from its source)")
        raise typer.Exit


@app.callback(help=_ABOUT)
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Prepare the process for any command."""
    del version  # its own callback has answered it
    from orchestrator.cli.output import print_warning
    from orchestrator.config.proxies import bypass_for_loopback, drop_unusable

    bypass_for_loopback()
    for words in drop_unusable():
        print_warning(words)
