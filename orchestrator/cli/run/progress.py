"""Live progress of a run: its stages and quantum jobs, on the terminal or in plain lines."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from orchestrator.application.execution import Watcher
from orchestrator.cli.interrupts import end_after
from orchestrator.cli.output import print_warning, write
from orchestrator.cli.streams import LastingStream
from orchestrator.provenance.gantt import stage_name
from orchestrator.wording import visible

if TYPE_CHECKING:
    from orchestrator.application.execution import RunExecution
    from orchestrator.broker.core.views import JobView
    from orchestrator.runs import StageSpan

__all__ = ["JobLine", "Progress", "StageLine", "Terminal", "job_lines", "stage_lines"]

_PLAIN_EVERY_S = 10.0
_JOBS_EVERY_S = 1.0
_STANDSTILLS_EVERY_S = 10.0
_TABLE_EVERY_S = 0.25
_JOBS_SHARE = 20  # reading the ledger may take a twentieth of the time


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLine:
    """Stages of one name. units: finished and total over their fan-outs."""

    name: str
    where: str
    running: int
    done: int
    cached: int
    failed: int
    units: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """Quantum jobs of one QPU."""

    qpu: str
    queued: int
    running: int
    done: int
    failed: int
    uncertain: int
    shots: int


def stage_lines(spans: Iterable[StageSpan]) -> list[StageLine]:
    """Return one line per stage name, in order of first start."""
    groups: dict[str, list[StageSpan]] = {}
    for span in spans:
        groups.setdefault(stage_name(span.name), []).append(span)
    return [_stage_line(name, held) for name, held in groups.items()]


def job_lines(jobs: Iterable[JobView]) -> list[JobLine]:
    """Return one line per QPU."""
    groups: dict[str, list[JobView]] = {}
    for job in jobs:
        groups.setdefault(job.qpu, []).append(job)
    lines = []
    for qpu, held in groups.items():
        states = Counter(job.state.value for job in held)
        lines.append(
            JobLine(
                qpu=qpu,
                queued=states["queued"],
                running=states["running"],
                done=states["completed"],
                failed=states["failed"] + states["cancelled"],
                uncertain=states["uncertain"],
                shots=sum(job.usage.shots for job in held),
            )
        )
    return lines


class Progress:
    """Shows how far a run is: a live table on a terminal, now and then a line elsewhere."""

    def __init__(
        self,
        spans: Callable[[], list[StageSpan]],
        jobs: Callable[[], list[JobView]],
        standstills: Callable[[Collection[str]], list[str]],
        stream: IO[str],
    ) -> None:
        """Show what these functions return on ``stream``; `tick` calls them when they are due."""
        self._spans, self._jobs, self._stream = spans, jobs, stream
        self._standstills = standstills
        self._live: Any = None
        self._stages: list[StageLine] = []
        self._known: list[JobLine] = []
        self._still: list[str] = []
        self._jobs_due = self._still_due = self._table_due = self._plain_due = 0.0
        self._last = ""

    def start(self) -> None:
        """Begin showing."""
        self._plain_due = time.monotonic() + _PLAIN_EVERY_S
        if not self._stream.isatty():
            return
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            console=Console(file=self._stream, highlight=False),
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def tick(self) -> None:
        """Refresh what is due."""
        now = time.monotonic()
        if now >= self._jobs_due or (self._live is None and now >= self._plain_due):
            # Both at once: what one line says of stages and of jobs is of one moment.
            self._stages = stage_lines(self._spans())
            self._known = job_lines(self._jobs())
            took = time.monotonic() - now
            self._jobs_due = now + max(_JOBS_EVERY_S, _JOBS_SHARE * took)
            self._look_at_qpus(now)
        if self._live is not None and now >= self._table_due:
            self._table_due = now + _TABLE_EVERY_S
            self._live.update(self._table(), refresh=True)
        if self._live is None and now >= self._plain_due:
            self._plain_due = now + _PLAIN_EVERY_S
            line = self._line()
            if line and line != self._last:
                self._last = line
                write(f"{line}\n", self._stream)

    def stop(self) -> None:
        """Stop showing, and clear the live table; stopping twice does nothing."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _look_at_qpus(self, now: float) -> None:
        waited_for = [line.qpu for line in self._known if line.queued or line.running]
        if not waited_for:
            self._still = []
        elif now >= self._still_due:
            self._still = self._standstills(waited_for)
            self._still_due = now + _STANDSTILLS_EVERY_S

    def _table(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        from orchestrator.cli.output import rich_table

        columns = ("stage", "where", "running", "done", "cached", "failed", "units")
        rows = [
            (s.name, s.where, s.running, s.done, s.cached, s.failed, _units(s.units))
            for s in self._stages
        ]
        parts = [rich_table(columns, rows)] if rows else []
        if self._known:
            headings = ("QPU", "jobs queued", "running", "done", "failed", "uncertain", "shots")
            known = [
                (j.qpu, j.queued, j.running, j.done, j.failed, j.uncertain, j.shots)
                for j in self._known
            ]
            parts.append(rich_table(headings, known))
        return Group(*parts, *(Text(visible(line)) for line in self._still))

    def _line(self) -> str:
        parts = [
            f"{s.name}: {s.running} running, {s.done + s.cached} done"
            + (f", {s.failed} failed" if s.failed else "")
            + (f" ({_units(s.units)} units)" if s.units else "")
            for s in self._stages
        ]
        parts += [
            f"QPU {j.qpu}: {j.queued} queued, {j.running} running, {j.done} done"
            + (f", {j.failed} failed" if j.failed else "")
            + (f", {j.uncertain} uncertain" if j.uncertain else "")
            for j in self._known
        ]
        return "; ".join([*parts, *self._still])


def _stage_line(name: str, spans: list[StageSpan]) -> StageLine:
    states = Counter(span.state for span in spans)
    units = [span.units for span in spans if span.units]
    return StageLine(
        name=name,
        where=", ".join(dict.fromkeys(span.where for span in spans if span.where)),
        running=states["running"],
        done=states["completed"],
        cached=states["cached"],
        failed=states["failed"] + states["cancelled"],
        units=(sum(u[0] for u in units), sum(u[1] for u in units)) if units else None,
    )


def _units(units: tuple[int, int] | None) -> str | None:
    return f"{units[0]}/{units[1]}" if units else None


class Terminal(Watcher):
    """Shows a run on stderr, and ends this process with it when it is interrupted."""

    goes_on = False

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def warn(self, words: str) -> None:
        """Print a warning."""
        print_warning(words)

    def start(self, run: RunExecution) -> None:
        """Begin to show a run."""
        shown = cast("IO[str]", LastingStream(sys.stderr))
        self._progress = Progress(run.spans, run.jobs, run.standstills, shown)
        self._progress.start()

    def tick(self) -> None:
        """Refresh what is due."""
        if self._progress is not None:
            self._progress.tick()

    def stop(self) -> None:
        """Stop showing."""
        if self._progress is not None:
            self._progress.stop()

    def interrupted(self, interrupt: KeyboardInterrupt, run: RunExecution) -> None:
        """End the run and this process."""
        words = (
            "nothing was spent, and nothing is kept"
            if run.is_dry
            else "cancelling quantum jobs and ending workers. Continue with the same command "
            f"and --run-id {run.id}"
        )
        end_after(
            interrupt,
            words,
            run.close,
            run.record_interrupt,
            left=run.left_behind,
            record_in_haste=lambda: run.record_interrupt(in_haste=True),
        )
