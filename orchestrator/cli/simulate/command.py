"""The command ``hpcqc simulate`` and its options; what it does is loaded when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.option_values import path, real, whole

__all__ = ["commands"]

commands = typer.Typer()

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
_Qpu = Annotated[
    str | None, typer.Option("--qpu", metavar="NAME", help="QPU instead of the site's default.")
]


@commands.command()
def simulate(
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--ledger",
            parser=path,
            metavar="FILE",
            help="Jobs of a ledger, as they were handed in.",
        ),
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
            parser=path,
            metavar="FILE",
            help="Jobs of a Standard Workload Format file, also .gz, one sampler call for each: "
            "its processors give the circuits, its run time the shots of each.",
        ),
    ] = None,
    circuits_per_processor: Annotated[
        float, typer.Option(parser=real(0), metavar="N", help="Of each job of the SWF file.")
    ] = 1.0,
    shots_per_second: Annotated[
        float,
        typer.Option(
            parser=real(0), metavar="N", help="Of run time, for each circuit; at least 100."
        ),
    ] = 1.0,
    qubits: Annotated[
        int,
        typer.Option(parser=whole(1), metavar="N", help="Qubits of the circuits of the SWF file."),
    ] = 5,
    mix: Annotated[
        int | None,
        typer.Option(
            "--mix", parser=whole(), metavar="SEED", help="A made-up mix of short and long jobs."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(parser=whole(1), metavar="N", help="The first so many jobs.")
    ] = None,
    load: Annotated[
        float | None,
        typer.Option(
            parser=real(),
            metavar="X",
            help="Pace at which jobs ask for this part of the QPU's time.",
        ),
    ] = None,
    compress: Annotated[
        float | None,
        typer.Option(parser=real(), metavar="X", help="Let jobs come so many times as fast."),
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
        typer.Option(
            "--slice",
            parser=real(),
            metavar="S",
            help="Longest work of a task, in seconds; 0: no cut.",
        ),
    ] = None,
    short_s: Annotated[
        float,
        typer.Option(
            "--short", parser=real(), metavar="S", help="QPU-seconds up to which a job is short."
        ),
    ] = 10.0,
    noise: Annotated[
        float,
        typer.Option(
            parser=real(),
            metavar="SIGMA",
            help="Tasks take longer or shorter: log-normal, of median 1.",
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(parser=whole(), metavar="N", help="Of the noise.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FILE.html", help="Write a page with plots, too."),
    ] = None,
    site: _Site = None,
    setting: _Setting = None,
    as_json: _Json = False,
) -> None:
    """Replay jobs under several policies, with the scheduler that ships and a virtual clock.

    The jobs are those of a ledger, of a workload file, or made up. Each policy gets the same ones,
    at the same times; wait, slowdown, utilisation, fairness and cost are shown side by side.
    """
    from orchestrator.cli.simulate.simulate import tell_simulation
    from orchestrator.simulation.sources import QuantumRule

    rule = QuantumRule(
        circuits_per_processor=circuits_per_processor,
        shots_per_second=shots_per_second,
        qubits=qubits,
    )
    asked = {
        "ledger": ledger,
        "swf": swf,
        "mix": mix,
        "scope": scope,
        "rule": rule,
        "policies": policy or (),
        "qpu": qpu,
        "profile": profile,
        "limit": limit,
        "load": load,
        "compress": compress,
        "slice_s": slice_s,
        "short_s": short_s,
        "noise": noise,
        "seed": seed,
        "site": site,
        "settings": setting or (),
    }
    tell_simulation(asked, report, as_json=as_json)
