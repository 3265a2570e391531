"""``hpcqc run`` and ``hpcqc estimate``: the process that ends with its run, whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, cast

from orchestrator.application.run import (
    Display,
    Ending,
    RunHooks,
    RunRequest,
    RunResult,
    RunView,
    execute,
)
from orchestrator.cli.interrupts import end_after
from orchestrator.cli.output import print_warning
from orchestrator.cli.run.progress import Progress
from orchestrator.cli.streams import LastingStream

__all__ = ["HOOKS", "output_aside", "run_with_progress"]


def run_with_progress(request: RunRequest, *, as_json: bool) -> RunResult:
    """Run a flow with its progress on stderr. Raises as `execute` does.

    Ends the process itself when it is interrupted.
    """
    with output_aside(wanted=as_json):
        return execute(request, HOOKS)


def _display(view: RunView) -> Display:
    shown = cast("IO[str]", LastingStream(sys.stderr))
    return Progress(view.spans, view.jobs, view.standstills, shown)


def _end(interrupt: KeyboardInterrupt, ending: Ending) -> None:
    words = (
        "nothing was spent, and nothing is kept"
        if ending.is_dry
        else "cancelling quantum jobs and ending workers. Continue with the same command "
        f"and --run-id {ending.run}"
    )
    end_after(interrupt, words, ending.close, ending.record)


HOOKS = RunHooks(display=_display, warn=print_warning, interrupted=_end, goes_on=False)


@contextmanager
def output_aside(*, wanted: bool) -> Iterator[None]:
    """Send what the flow prints to stderr, so that stdout holds the JSON document alone.

    Either way the flow goes on if nobody reads it: `hpcqc run … | head`.
    """
    with redirect_stdout(LastingStream(sys.stderr if wanted else sys.stdout)):
        yield
