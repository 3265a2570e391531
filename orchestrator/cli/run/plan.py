"""``hpcqc plan``: what a run takes in each coupling, and the one that is best."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, cast

import typer

from orchestrator.cli.options import Json, Parameters, Qpu, Settings, SiteFile, real, whole
from orchestrator.cli.output import print_json, say, tabulate
from orchestrator.cli.run.run import Target, output_aside
from orchestrator.provenance.markup import cell_text, duration_text

if TYPE_CHECKING:
    from orchestrator.application.plan import CouplingPlan
    from orchestrator.couplings.replay import Preference

__all__ = ["plan"]


def plan(
    target: Target,
    parameter: Parameters = None,
    qpu: Qpu = None,
    site: SiteFile = None,
    setting: Settings = None,
    time: Annotated[
        list[str] | None,
        typer.Option(
            "--time",
            metavar="NAME=SECONDS[@NODES]",
            help="Time of a stage, on a number of nodes where that matters. Repeatable.",
        ),
    ] = None,
    copies: Annotated[
        int, typer.Option(parser=whole(1), metavar="N", help="Runs that start at once.")
    ] = cast("int", "1"),
    wait: Annotated[
        float | None,
        typer.Option(
            parser=real(0),
            metavar="SECONDS",
            help="What a new job waits in Slurm's queue; if not given, by the jobs there now.",
        ),
    ] = None,
    prefer: Annotated[
        str, typer.Option("--prefer", metavar="WHAT", help="balanced, time or nodes.")
    ] = "balanced",
    as_json: Json = False,
) -> None:
    """Predict what a run takes in each coupling, and recommend one."""
    from orchestrator.application.parameters import assignments
    from orchestrator.application.plan import make_plan, stage_times
    from orchestrator.application.run import RunRequest
    from orchestrator.cli.run.progress import Terminal
    from orchestrator.config.errors import ConfigError

    if prefer not in ("balanced", "time", "nodes"):
        raise ConfigError(f"--prefer {prefer!r}: expected balanced, time or nodes")
    request = RunRequest(
        flow=target,
        parameters=assignments(parameter or ()),
        as_text=True,
        qpu=qpu,
        site=site,
        settings=setting or (),
    )
    with output_aside(wanted=True):
        made = make_plan(
            request,
            times=stage_times(time or ()),
            copies=copies,
            wait_s=wait,
            prefer=cast("Preference", prefer),
            watcher=Terminal(),
        )
    _print(made, as_json=as_json)


def _print(made: CouplingPlan, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(made))
        return
    columns = (
        "coupling",
        "time",
        "node-seconds",
        "of workers",
        "QPU held, s",
        "QPU used, s",
        "cost",
    )
    rows = [
        (
            one.coupling,
            duration_text(one.makespan_s),
            round(one.node_seconds + one.qpu_node_seconds),
            round(one.node_seconds),
            round(one.qpu_held_s, 1),
            round(one.qpu_used_s, 1),
            ", ".join(f"{cell_text(amount)} {unit}" for unit, amount in one.cost.items()),
        )
        for one in made.couplings
    ]
    tabulate(columns, rows)
    for coupling, words in made.impossible.items():
        say(f"{coupling}: {words}", style="dim")
    for note in made.notes:
        say(note, style="dim")
    _print_classes(made)
    say(f"recommended: {made.reason}. Nothing was submitted.")


def _print_classes(made: CouplingPlan) -> None:
    """Print what each stage needs, and what the QPU is; warnings alone where it is not enough."""
    for warning in made.warnings:
        say(f"warning: {warning}", style="yellow")
    if not made.warnings:
        stated = made.coupling_class or "not known"
        for one in made.needed_classes:
            say(f"{one.in_words()}; that of the QPU is {stated}", style="dim")
