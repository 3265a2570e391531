"""``hpcqc run``: progress, the outcome, and an end of the process with its run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backends.plugins import installed
from orchestrator.cli.options import (
    Budgets,
    CouplingName,
    Json,
    Labels,
    Parameters,
    Qpu,
    Settings,
    SiteFile,
    path,
)
from orchestrator.cli.output import (
    open_console,
    print_error,
    print_json,
    print_warning,
    say,
    tabulate,
)

if TYPE_CHECKING:
    from orchestrator.application.execution import RunResult
    from orchestrator.application.run import RunRequest
    from orchestrator.provenance.outcome import Outcome
    from orchestrator.provenance.schema import RunRecord

__all__ = ["Target", "output_aside", "print_outcome", "print_result", "run"]

_MAX_ROWS = 40
Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help=f"{', '.join(installed('hpcqc.flows'))}, or path/to/file.py:flow."
    ),
]


def run(
    target: Target,
    parameter: Parameters = None,
    qpu: Qpu = None,
    site: SiteFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="DIR", help="Folder of this run; hpcqc-runs/<run id> if not given."
        ),
    ] = None,
    setting: Settings = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id", metavar="ID", help="Name of the run; that of an earlier one continues it."
        ),
    ] = None,
    budget: Budgets = None,
    coupling: CouplingName = None,
    label: Labels = None,
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
    batch: Annotated[
        bool,
        typer.Option(
            "--batch", help="Let a Slurm job run it, as [batch] of the site says, and return."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a flow and leave a folder with its record, result and report."""
    from orchestrator.application.parameters import assignments
    from orchestrator.application.run import RunRequest, execute
    from orchestrator.cli.run.progress import Terminal
    from orchestrator.config.environment import budgets_of
    from orchestrator.config.loading import label_settings

    request = RunRequest(
        flow=target,
        parameters=assignments(parameter or ()),
        as_text=True,
        qpu=qpu,
        site=site,
        settings=[*(setting or ()), *label_settings(label or ())],
        out=out,
        run_id=run_id,
        budgets=budgets_of(budget or ()),
        coupling=coupling,
        verbose=verbose,
        use_agent=agent,
    )
    if batch:
        _submit(request, as_json=as_json)
        return
    with output_aside(wanted=as_json):
        result = execute(request, Terminal())
    raise typer.Exit(print_outcome(result, as_json=as_json))


def _submit(request: RunRequest, *, as_json: bool) -> None:
    from dataclasses import asdict

    from orchestrator.application.batch import submitted_run

    with output_aside(wanted=as_json):
        submitted = submitted_run(request, print_warning)
    if as_json:
        print_json(asdict(submitted))
    else:
        say(f"run {submitted.id} is submitted as Slurm job {submitted.slurm_job}")
        say(f"follow it with: hpcqc logs -f {submitted.id}")


@contextmanager
def output_aside(*, wanted: bool) -> Iterator[None]:
    """Send what the flow prints to stderr if ``wanted``; ignore a closed stdout either way."""
    from orchestrator.cli.streams import LastingStream

    with redirect_stdout(LastingStream(sys.stderr if wanted else sys.stdout)):
        yield


def print_outcome(finished: RunResult, *, as_json: bool) -> int:
    """Print a run's outcome; return its exit code."""
    from orchestrator.cli.errors import FAILED, MISTAKE

    if as_json:
        print_json(_document(finished))
    elif finished.error is None:
        _print_result(finished)
    if finished.left:
        print_warning(finished.left)
    if finished.error is None:
        return 0
    print_error(str(finished.record.error))
    log = finished.folder / "run.log"
    hint = f"the run's record is in {finished.folder}"
    say(f"{hint}; the traceback in {log.name}" if log.exists() else hint, stderr=True)
    return MISTAKE if finished.is_mistake else FAILED


def _document(finished: RunResult) -> dict[str, Any]:
    record = finished.record
    kind = "mistake" if finished.is_mistake else "failure"
    error = {"kind": kind, "message": record.error} if finished.error else None
    files = sorted(p.name for p in finished.folder.iterdir() if not p.name.startswith("."))
    return {
        **record.model_dump(include={"id", "status", "duration_s", "usage"}),
        "error": error,
        "folder": str(finished.folder),
        "files": files,
        "result": finished.value,
    }


def print_result(outcome: Outcome, value: Any) -> None:
    """Print what of a result a report shows, or else the result itself, cut short."""
    from orchestrator.provenance.markup import cell_text

    if outcome.table is not None:
        shown = outcome.table.rows[:_MAX_ROWS]
        tabulate(outcome.table.columns, shown)
        left = len(outcome.table.rows) - len(shown)
        if left:
            say(f"… {left} more rows in result.json")
    for line in (*outcome.summary, *outcome.notes):
        say(line)
    if outcome.table is None and outcome.plot is None and not outcome.summary:
        say(f"result: {cell_text(value)}"[:2000])


def _print_result(finished: RunResult) -> None:
    from orchestrator.provenance.markup import duration_text
    from orchestrator.provenance.report import leftover_lines, stage_total, usage_rows
    from orchestrator.wording import counted

    print_result(finished.outcome, finished.value)
    record = finished.record
    console = open_console()
    console.print()
    stages, jobs = stage_total(record), len(record.jobs)
    before = _finished_before(record)
    attempts = len(record.attempts)
    say(
        f"{counted(stages, 'stage')}{f' ({before} finished before)' if before else ''} and "
        f"{counted(jobs, 'quantum job')} in {duration_text(record.duration_s)}"
        f"{f' over {attempts} attempts' if attempts > 1 else ''}",
        style="dim",
    )
    for qpu, count, tasks, _circuits, shots, seconds, charged in usage_rows(record):
        say(
            f"QPU {qpu}: {counted(count, 'job')} in {counted(tasks, 'task')}, {counted(shots, 'shot')}, "
            f"{duration_text(seconds)} on the device, charged {charged or 'nothing'}",
            style="dim",
        )
    for line in leftover_lines(record):
        say(line, style="dim")
    for name in ("report.html", "plot.png", "plot.svg", "gantt.png", "result.json", "run.json"):
        file = finished.folder / name
        if file.exists():
            say(f"  {file}")


def _finished_before(record: RunRecord) -> int:
    """Count the stages that earlier attempts had finished."""
    start = record.attempts[-1].started_at
    found = {
        stage.key
        for stage in record.stages
        if stage.state == "cached"
        or (stage.state == "completed" and stage.ended_at is not None and stage.ended_at < start)
    }
    return len(found)
