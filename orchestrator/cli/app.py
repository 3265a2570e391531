"""The commands of ``hpcqc`` and their options; what they do is loaded when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import agent_commands
from orchestrator.cli.broker_commands import broker

__all__ = [
    "app",
    "backends",
    "config_check",
    "config_show",
    "doctor",
    "jobs",
    "options",
    "qpu_list",
    "qpu_show",
    "run",
    "sample",
    "simulate",
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

_Site = Annotated[
    Path | None,
    typer.Option("--site", metavar="FILE", help="Site file instead of the one found."),
]
_Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the site, such as qpu.vlq.time_scale=1. Repeatable.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]
_Qpu = Annotated[
    str | None, typer.Option("--qpu", metavar="NAME", help="QPU instead of the site's default.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"hpcqc {version('hpcqc')}")
        except PackageNotFoundError:
            typer.echo("hpcqc, not installed (run from its source)")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Run hybrid quantum-classical flows: classical stages on Dask, quantum stages on QPUs."""


@app.command()
def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="flows.dissociation, flows.maxcut, or path/to/file.py:flow."
        ),
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
    qpu: _Qpu = None,
    site: _Site = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of this run; hpcqc-runs/<run id> if not given."),
    ] = None,
    setting: _Setting = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id", metavar="ID", help="Name of the run; that of an earlier one continues it."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show Prefect's log instead of filing it.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Run a flow and leave a folder with its record, result and report."""
    from orchestrator.cli.closing import tell
    from orchestrator.cli.running import RunRequest, run_flow

    request = RunRequest(
        target=target,
        parameters=parameter or (),
        qpu=qpu,
        site_file=site,
        out=out,
        overrides=setting or (),
        run_id=run_id,
        verbose=verbose,
        as_json=as_json,
    )
    raise typer.Exit(tell(run_flow(request), as_json=as_json))


@app.command()
def sample(
    circuit: Annotated[
        Path, typer.Argument(metavar="CIRCUIT", help="OpenQASM 2 or 3 (.qasm), or QPY (.qpy).")
    ],
    qpu: _Qpu = None,
    shots: Annotated[int, typer.Option(metavar="N", help="Shots.")] = 1024,
    seed: Annotated[
        int | None,
        typer.Option(metavar="S", help="Seed of a simulator; equal seeds, equal counts."),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="Rows of the table.")] = 16,
    site: _Site = None,
    setting: _Setting = None,
    as_json: _Json = False,
) -> None:
    """Sample one circuit from a file and show the counts."""
    from orchestrator.cli.sampling import SampleRequest, sample_file, tell_sample

    request = SampleRequest(
        file=circuit, qpu=qpu, shots=shots, seed=seed, site_file=site, overrides=setting or ()
    )
    tell_sample(sample_file(request), top=top, as_json=as_json)


@app.command()
def backends(as_json: _Json = False) -> None:
    """List the installed backends, ours and other packages'."""
    from orchestrator.cli.describing import tell_backends

    tell_backends(as_json=as_json)


@app.command()
def jobs(
    job: Annotated[str | None, typer.Argument(metavar="[ID]", help="One job, in detail.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Only the jobs of this run.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The latest so many.")] = 20,
    site: _Site = None,
    as_json: _Json = False,
) -> None:
    """List quantum jobs from the ledger, or show one."""
    from orchestrator.cli.job_listing import tell_job, tell_jobs

    if job is not None:
        tell_job(job, site, as_json=as_json)
    else:
        tell_jobs(run, limit, site, as_json=as_json)


@app.command()
def simulate(
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", metavar="FILE", help="Jobs of a ledger, as they were handed in."),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of the ledger: one run, or 'service'; all if not given."
        ),
    ] = None,
    swf: Annotated[
        Path | None,
        typer.Option(
            "--swf",
            metavar="FILE",
            help="Jobs of a Standard Workload Format file, also .gz, one sampler call for each: "
            "its processors give the circuits, its run time the shots of each.",
        ),
    ] = None,
    circuits_per_processor: Annotated[
        float, typer.Option(metavar="N", min=0, help="Of each job of the SWF file.")
    ] = 1.0,
    shots_per_second: Annotated[
        float, typer.Option(metavar="N", min=0, help="Of run time, for each circuit; at least 100.")
    ] = 1.0,
    qubits: Annotated[
        int, typer.Option(metavar="N", min=1, help="Qubits of the circuits of the SWF file.")
    ] = 5,
    mix: Annotated[
        int | None,
        typer.Option("--mix", metavar="SEED", help="A made-up mix of short and long jobs."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The first so many jobs.")
    ] = None,
    load: Annotated[
        float | None,
        typer.Option(metavar="X", help="Pace at which jobs ask for this part of the QPU's time."),
    ] = None,
    compress: Annotated[
        float | None, typer.Option(metavar="X", help="Let jobs come so many times as fast.")
    ] = None,
    qpu: _Qpu = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Device profile to simulate instead of the QPU's own."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME[:KEY=VALUE,…]",
            help="Policy, with its parameters; all of them if not given. Repeatable.",
        ),
    ] = None,
    slice_s: Annotated[
        float | None,
        typer.Option("--slice", metavar="S", help="Longest work of a task, in seconds; 0: no cut."),
    ] = None,
    short_s: Annotated[
        float, typer.Option("--short", metavar="S", help="QPU-seconds up to which a job is short.")
    ] = 10.0,
    noise: Annotated[
        float,
        typer.Option(
            metavar="SIGMA", help="Tasks take longer or shorter: log-normal, of median 1."
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the noise.")] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with plots, too.")
    ] = None,
    site: _Site = None,
    setting: _Setting = None,
    as_json: _Json = False,
) -> None:
    """Replay jobs under several policies, with the scheduler that ships and a virtual clock.

    The jobs are those of a ledger, of a workload file, or made up. Each policy gets the same ones,
    at the same times; wait, slowdown, utilisation, fairness and cost are shown side by side.
    """
    from orchestrator.broker.simulation import QuantumRule
    from orchestrator.cli.simulating import Amounts, SimulateRequest, Source, tell_simulation

    rule = QuantumRule(
        circuits_per_processor=circuits_per_processor,
        shots_per_second=shots_per_second,
        qubits=qubits,
    )
    request = SimulateRequest(
        source=Source(ledger=ledger, swf=swf, mix=mix, scope=scope, rule=rule),
        amounts=Amounts(
            load=load,
            compress=compress,
            limit=limit,
            slice_s=slice_s,
            short_s=short_s,
            noise=noise,
            seed=seed,
        ),
        policies=policy or (),
        qpu=qpu,
        profile=profile,
        site_file=site,
        overrides=setting or (),
    )
    tell_simulation(request, report, as_json=as_json)


@app.command()
def doctor(site: _Site = None, as_json: _Json = False) -> None:
    """Check the installation, the machine and the site; exit 1 if something is broken."""
    from orchestrator.cli.examining import tell_diagnosis

    raise typer.Exit(tell_diagnosis(site, as_json=as_json))


@_qpu.command("list")
def qpu_list(site: _Site = None, setting: _Setting = None, as_json: _Json = False) -> None:
    """List the site's QPUs."""
    from orchestrator.cli.describing import tell_qpus

    tell_qpus(site, setting or (), as_json=as_json)


@_qpu.command("show")
def qpu_show(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    site: _Site = None,
    setting: _Setting = None,
    as_json: _Json = False,
) -> None:
    """Show what a QPU accepts, how it charges, and where its values come from."""
    from orchestrator.cli.describing import tell_qpu

    tell_qpu(name, site, setting or (), as_json=as_json)


@_config.command("show")
def config_show(site: _Site = None, setting: _Setting = None, as_json: _Json = False) -> None:
    """Show the configuration in force and where it was found."""
    from orchestrator.cli.examining import tell_config

    tell_config(site, setting or (), as_json=as_json)


@_config.command("check")
def config_check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The one found, if not given.")
    ] = None,
    setting: _Setting = None,
    as_json: _Json = False,
) -> None:
    """Check a site file down to each backend's options; exit 2 if something is wrong."""
    from orchestrator.cli.examining import tell_config_check

    raise typer.Exit(tell_config_check(file, setting or (), as_json=as_json))


app.command()(agent_commands.deploy)
app.command()(agent_commands.submit)
app.command()(agent_commands.runs)
