"""The commands of ``hpcqc`` and their options; what they do is loaded when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backends.plugins import installed
from orchestrator.cli.agent import commands as agent_commands
from orchestrator.cli.broker.commands import broker
from orchestrator.cli.option_values import path, real, whole
from orchestrator.cli.simulate import command as simulate_command

__all__ = [
    "app",
    "backends",
    "clean",
    "config_check",
    "config_show",
    "doctor",
    "estimate",
    "jobs",
    "options",
    "qpu_list",
    "qpu_show",
    "report",
    "run",
    "sample",
]

app = typer.Typer(
    name="hpcqc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is there in a fifth of the time
    help="Run hybrid quantum-classical flows: classical stages on Dask, quantum stages on QPUs.",
)
_qpu = typer.Typer(no_args_is_help=True, help="The QPUs of the site.")
_config = typer.Typer(no_args_is_help=True, help="The site's configuration.")
app.add_typer(_qpu, name="qpu")
app.add_typer(_config, name="config")
app.add_typer(broker, name="broker")
app.add_typer(agent_commands.agent, name="agent")

_Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help=f"{', '.join(installed('hpcqc.flows'))}, or path/to/file.py:flow.",
    ),
]
_Site = Annotated[
    Path | None,
    typer.Option("--site", parser=path, metavar="FILE", help="Site file instead of the one found."),
]
_Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the site, such as qpu.vlq.longest_task_s=60. Repeatable.",
    ),
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
_Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        help="Parameter of the flow: a TOML or JSON value, or text. Repeatable.",
    ),
]
_Qpu = Annotated[
    str | None,
    typer.Option(
        "--qpu", metavar="NAME", envvar="HPCQC_QPU", help="QPU instead of the site's default."
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        from orchestrator.cli.output import say

        try:
            say(f"hpcqc {version('hpcqc')}")
        except PackageNotFoundError:
            say("hpcqc, not installed (run from its source)")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Run hybrid quantum-classical flows: classical stages on Dask, quantum stages on QPUs."""
    del version  # its own callback has answered it
    from orchestrator.cli.output import print_warning
    from orchestrator.config.proxies import bypass_for_loopback, drop_unusable

    bypass_for_loopback()
    for words in drop_unusable():
        print_warning(words)


@app.command()
def run(
    target: _Target,
    parameter: _Parameters = None,
    qpu: _Qpu = None,
    site: _Site = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="DIR", help="Folder of this run; hpcqc-runs/<run id> if not given."
        ),
    ] = None,
    setting: _Setting = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id", metavar="ID", help="Name of the run; that of an earlier one continues it."
        ),
    ] = None,
    budget: _Budget = None,
    agent: Annotated[
        bool,
        typer.Option(
            "--agent/--no-agent",
            help="Use the Prefect server, broker and workers of a running agent of the same site.",
        ),
    ] = True,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show Prefect's log instead of filing it.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Run a flow and leave a folder with its record, result and report."""
    from orchestrator.application.parameters import assignments
    from orchestrator.application.run import RunRequest
    from orchestrator.cli.run.run import run_with_progress
    from orchestrator.cli.run.summary import tell
    from orchestrator.config.environment import budgets_of

    request = RunRequest(
        flow=target,
        parameters=assignments(parameter or ()),
        as_text=True,
        qpu=qpu,
        site_file=site,
        settings=setting or (),
        out=out,
        run_id=run_id,
        budgets=budgets_of(budget or ()),
        verbose=verbose,
        use_agent=agent,
    )
    raise typer.Exit(tell(run_with_progress(request, as_json=as_json), as_json=as_json))


@app.command()
def estimate(
    target: _Target,
    parameter: _Parameters = None,
    qpu: _Qpu = None,
    site: _Site = None,
    setting: _Setting = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show Prefect's log of the dry run.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Run a flow dry, on simulators, and say what a real run will use and cost."""
    from orchestrator.application.estimate import dry_run
    from orchestrator.application.parameters import assignments
    from orchestrator.application.run import RunRequest
    from orchestrator.cli.estimate.estimate import tell_estimate
    from orchestrator.cli.run.run import HOOKS, output_aside

    request = RunRequest(
        flow=target,
        parameters=assignments(parameter or ()),
        as_text=True,
        qpu=qpu,
        site_file=site,
        settings=setting or (),
        verbose=verbose,
    )
    with output_aside(wanted=True):
        found = dry_run(request, HOOKS)
    tell_estimate(found, as_json=as_json)


@app.command()
def sample(
    circuit: Annotated[
        Path,
        typer.Argument(
            parser=path, metavar="CIRCUIT", help="OpenQASM 2 or 3 (.qasm), or QPY (.qpy)."
        ),
    ],
    qpu: _Qpu = None,
    shots: Annotated[int, typer.Option(parser=whole(), metavar="N", help="Shots.")] = 1024,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=whole(), metavar="S", help="Seed of a simulator; equal seeds, equal counts."
        ),
    ] = None,
    top: Annotated[int, typer.Option(parser=whole(), metavar="N", help="Rows of the table.")] = 16,
    site: _Site = None,
    setting: _Setting = None,
    as_json: _Json = False,
) -> None:
    """Sample one circuit from a file and show the counts."""
    from orchestrator.application.preload import load_ahead

    load_ahead(site, setting or (), qpu)
    from orchestrator.application.sample import SampleRequest
    from orchestrator.cli.sample.sample import sample_and_tell

    request = SampleRequest(
        circuit=circuit, qpu=qpu, shots=shots, seed=seed, site_file=site, settings=setting or ()
    )
    sample_and_tell(request, top=top, as_json=as_json)


@app.command()
def backends(as_json: _Json = False) -> None:
    """List the installed backends, ours and other packages'."""
    from orchestrator.cli.site.qpu import tell_backends

    tell_backends(as_json=as_json)


@app.command()
def jobs(
    job: Annotated[str | None, typer.Argument(metavar="[ID]", help="One job, in detail.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Only the jobs of this run.")
    ] = None,
    limit: Annotated[
        int, typer.Option(parser=whole(1), metavar="N", help="The latest so many.")
    ] = 20,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """List quantum jobs from the ledger, or show one."""
    from orchestrator.cli.jobs.listing import tell_job, tell_jobs

    if job is not None:
        tell_job(job, site, as_json=as_json)
    else:
        tell_jobs(run, limit, site, as_json=as_json)


@app.command()
def report(
    record: Annotated[
        Path,
        typer.Argument(
            parser=path, metavar="RUN", help="The run.json of an earlier run, or its folder."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=path, metavar="FILE", help="HTML file; report.html beside the record."
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Write the report of an earlier run again."""
    from orchestrator.cli.run.report import report_and_tell

    report_and_tell(record, out, as_json=as_json)


@app.command()
def clean(
    days: Annotated[
        float | None,
        typer.Option(parser=real(0), metavar="N", help="Keep what was used in the last N days."),
    ] = None,
    gib: Annotated[
        float | None,
        typer.Option(
            parser=real(0), metavar="N", help="Keep N GiB in all; the oldest runs go first."
        ),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove it; without this, it is only listed.")
    ] = False,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """List what runs have stored to be continued, and remove what is beyond the site's limits."""
    from orchestrator.cli.run.clean import CleanRequest, clean_and_tell

    clean_and_tell(
        CleanRequest(site_file=site, keep_days=days, keep_gib=gib, remove=remove, as_json=as_json)
    )


@app.command()
def why(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="A job's id, or the unambiguous start of it.")
    ],
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """Say why a quantum job waits, why it went when it did, and when it will probably run."""
    from orchestrator.cli.jobs.why import tell_why

    tell_why(job, site, as_json=as_json)


@app.command()
def doctor(site: _Site = None, as_json: _Json = False) -> None:
    """Check the installation, the machine and the site; exit 1 if something is broken."""
    from orchestrator.cli.site.config import tell_diagnosis

    raise typer.Exit(tell_diagnosis(site, as_json=as_json))


@_qpu.command("list")
def qpu_list(site: _Site = None, setting: _Setting = None, as_json: _Json = False) -> None:
    """List the site's QPUs."""
    from orchestrator.cli.site.qpu import tell_qpus

    tell_qpus(site, setting or (), as_json=as_json)


@_qpu.command("show")
def qpu_show(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    site: _Site = None,
    setting: _Setting = None,
    as_json: _Json = False,
) -> None:
    """Show what a QPU accepts, how it charges, and where its values come from."""
    from orchestrator.cli.site.qpu import tell_qpu

    tell_qpu(name, site, setting or (), as_json=as_json)


@_config.command("show")
def config_show(site: _Site = None, setting: _Setting = None, as_json: _Json = False) -> None:
    """Show the configuration in force and where it was found."""
    from orchestrator.cli.site.config import tell_config

    tell_config(site, setting or (), as_json=as_json)


@_config.command("check")
def config_check(
    file: Annotated[
        Path | None,
        typer.Argument(parser=path, metavar="[FILE]", help="The one found, if not given."),
    ] = None,
    setting: _Setting = None,
    as_json: _Json = False,
) -> None:
    """Check a site file down to each backend's options; exit 2 if something is wrong."""
    from orchestrator.cli.site.config import tell_config_check

    raise typer.Exit(tell_config_check(file, setting or (), as_json=as_json))


app.registered_commands += simulate_command.commands.registered_commands
app.command()(agent_commands.deploy)
app.command()(agent_commands.submit)
app.command()(agent_commands.runs)
