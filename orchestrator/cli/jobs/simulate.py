"""``hpcqc simulate``: jobs replayed under several policies."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Json, Settings, SiteFile, path, real, whole
from orchestrator.cli.output import open_console, print_json, say, tabulate, write
from orchestrator.wording import counted

__all__ = ["simulate"]

_PLAIN_EVERY_S = 10.0
# If the QPU is busy for a smaller part of its time than this, no job waits, whatever the policy.
_IDLE = 0.3
_Progress = Callable[[str, int, int], None]
# Not that of HPCQC_QPU: a simulation has its own subject.
_AnyQpu = Annotated[
    str | None, typer.Option("--qpu", metavar="NAME", help="QPU instead of the site's default.")
]


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
    qpu: _AnyQpu = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Device profile to simulate instead of the QPU's own."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME[:KEY=VALUE,…]",
            help="Policy, with its parameters; all that are installed if not given. Repeatable.",
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
    site: SiteFile = None,
    setting: Settings = None,
    as_json: Json = False,
) -> None:
    """Replay jobs under several policies, with the scheduler that ships and a virtual clock.

    The jobs are those of a ledger, of a workload file, or made up. Each policy gets the same ones,
    at the same times; wait, slowdown, utilisation, fairness and cost are shown side by side.
    """
    from orchestrator.application.simulate import simulate as replay
    from orchestrator.broker.runtime.site_rules import known_policies
    from orchestrator.config.errors import ConfigError
    from orchestrator.provenance.study import figure_rows, study_document, write_report
    from orchestrator.simulation.sources import QuantumRule

    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {report}: there is no folder {report.parent}")
    rule = QuantumRule(
        circuits_per_processor=circuits_per_processor,
        shots_per_second=shots_per_second,
        qubits=qubits,
    )
    with _progress(len(dict.fromkeys(policy or known_policies()))) as progress:
        found = replay(
            ledger=ledger,
            swf=swf,
            mix=mix,
            scope=scope,
            rule=rule,
            policies=policy or (),
            qpu=qpu,
            profile=profile,
            limit=limit,
            load=load,
            compress=compress,
            slice_s=slice_s,
            short_s=short_s,
            noise=noise,
            seed=seed,
            site=site,
            settings=setting or (),
            progress=progress,
        )
    outcomes = list(found.outcomes.items())
    if report is not None:
        try:
            write_report(report, found.study, found.qpu, outcomes)
        except OSError as error:
            raise ConfigError(f"--report {report} cannot be written: {error.strerror}") from None
    if as_json:
        print_json(study_document(found.study, found.qpu, outcomes))
        return
    workload = found.study.workload
    say(f"{counted(len(workload.arrivals), 'job')} of {workload.name} on QPU {found.qpu}")
    for note in workload.notes:
        say(f"  {note}", style="dim")
    tabulate(["", *(label for label, _ in outcomes)], figure_rows(outcomes))
    if max(outcome.metrics.utilisation for _, outcome in outcomes) < _IDLE:
        say(
            "the QPU has little to do, so policies hardly differ; --load 0.9 lets the same jobs come "
            "at the pace that asks for nine tenths of its time"
        )
    if report is not None:
        say(f"  {report}")


@contextlib.contextmanager
def _progress(policies: int) -> Iterator[_Progress]:
    """Show how far a simulation is: bars on a terminal, now and then a line elsewhere."""
    if not sys.stderr.isatty():
        yield _lines(policies)
        return
    from rich.progress import Progress, TaskID

    with Progress(console=open_console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def bar(label: str, done: int, jobs: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=jobs)
            if done % 50 == 0:
                bars.update(tasks[label], completed=done)

        yield bar


def _lines(policies: int) -> _Progress:
    due = time.monotonic() + _PLAIN_EVERY_S
    begun: dict[str, int] = {}

    def line(label: str, done: int, jobs: int) -> None:
        nonlocal due
        number = begun.setdefault(label, len(begun) + 1)
        if time.monotonic() >= due:
            due = time.monotonic() + _PLAIN_EVERY_S
            place = f"{label} ({number} of {policies})"
            write(f"{place}: {done:,} of {jobs:,} jobs submitted\n", sys.stderr)

    return line
