"""``hpcqc simulate``: progress, a table, one JSON document, and a report."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.application.simulate import simulate
from orchestrator.cli.output import print_json, say, tabulate, write
from orchestrator.config.errors import ConfigError
from orchestrator.wording import counted

__all__ = ["tell_simulation"]

_PLAIN_EVERY_S = 10.0
# Below this part of its time at work, nobody waits for a QPU whatever the policy.
_IDLE = 0.3
_Progress = Callable[[str, int, int], None]


def tell_simulation(asked: Mapping[str, Any], report: Path | None, *, as_json: bool) -> None:
    """Simulate, and print a table or one JSON document; write a report if a file is named.

    asked: arguments of `simulate`.
    """
    from orchestrator.broker.runtime.site_rules import known_policies
    from orchestrator.provenance.study import figure_rows, study_document, write_report

    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {report}: there is no folder {report.parent}")
    with _progress(len(dict.fromkeys(asked["policies"] or known_policies()))) as progress:
        found = simulate(**asked, progress=progress)
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

    from orchestrator.cli.output import open_console

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
            write(f"{place}: {done:,} of {jobs:,} jobs handed in\n", sys.stderr)

    return line
