"""What a run says when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.cli.errors import FAILED, MISTAKE
from orchestrator.cli.output import open_console, print_error, print_json, say, tabulate
from orchestrator.provenance.markup import cell_text, duration_text
from orchestrator.provenance.report import stage_total, usage_rows
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.application.run import RunResult
    from orchestrator.provenance.schema import RunRecord

__all__ = ["tell"]

_MAX_ROWS = 40


def tell(finished: RunResult, *, as_json: bool) -> int:
    """Print a run's outcome; return its exit code."""
    record = finished.record
    if as_json:
        print_json(_document(finished))
    elif finished.error is None:
        _tell_outcome(finished)
    if finished.error is not None:
        print_error(str(record.error))
        log = finished.folder / "run.log"
        hint = f"what is known is in {finished.folder}"
        say(f"{hint}; the traceback in {log.name}" if log.exists() else hint, stderr=True)
    return _exit_code(finished)


def _exit_code(finished: RunResult) -> int:
    """Return the exit code of a run."""
    if finished.error is None:
        return 0
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


def _tell_outcome(finished: RunResult) -> None:
    outcome, record = finished.outcome, finished.record
    if outcome.table is not None:
        shown = outcome.table.rows[:_MAX_ROWS]
        tabulate(outcome.table.columns, shown)
        left = len(outcome.table.rows) - len(shown)
        if left:
            say(f"… {left} more rows in result.json")
    for line in (*outcome.summary, *outcome.notes):
        say(line)
    if outcome.table is None and outcome.plot is None and not outcome.summary:
        say(f"result: {cell_text(finished.value)}"[:2000])
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
    names = ("report.html", "plot.png", "plot.svg", "gantt.png", "result.json", "run.json")
    for name in names:
        file = finished.folder / name
        if file.exists():
            say(f"  {file}")


def _finished_before(record: RunRecord) -> int:
    """Count the stages that this attempt found finished."""
    start = record.attempts[-1].started_at
    found = {
        stage.key
        for stage in record.stages
        if stage.state == "cached"
        or (stage.state == "completed" and stage.ended_at is not None and stage.ended_at < start)
    }
    return len(found)
