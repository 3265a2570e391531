"""The rows and bars of a run's Gantt chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate

from orchestrator.provenance.schema import RecordedStage, RecordedTask, RunRecord

__all__ = ["FAILED", "Bar", "Lane", "Timeline", "stage_name", "timeline_of"]

FAILED = frozenset({"failed", "cancelled", "uncertain"})
_HEX = set("0123456789abcdef")
_MAX_ROWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One piece of work; times in seconds since the run's start, see `Timeline`."""

    label: str
    start_s: float
    length_s: float
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One row; a name of "" continues the row above. waits: its stages wait for a QPU."""

    name: str
    bars: tuple[Bar, ...]
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All rows: computes first, then quantum stages, then QPUs."""

    lanes: tuple[Lane, ...]
    length_s: float = 0.0  # without the time between attempts
    seams_s: tuple[float, ...] = ()  # where later attempts begin

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all bars, in order of appearance."""
        return tuple(dict.fromkeys(bar.label for lane in self.lanes for bar in lane.bars))


def timeline_of(record: RunRecord) -> Timeline:
    """Lay out a run; overlapping work gets several rows, up to a limit.

    Work without an end, in a killed run, lasts until the record's last instant.
    """
    stages = [stage for stage in record.stages if stage.state != "cached"]
    # Jobs may share a task.
    tasks = list({task.tag: (job, task) for job in record.jobs for task in job.tasks}.values())
    work: list[RecordedStage | RecordedTask] = [*stages, *(task for _, task in tasks)]
    instants = [at for item in work for at in (item.started_at, item.ended_at) if at is not None]
    if not instants:
        return Timeline(lanes=())
    axis = _axis(record, instants)
    classical: dict[str, list[Bar]] = {}
    waiting: list[Bar] = []
    qpus: dict[str, list[Bar]] = {}
    workers = _worker_names(stages)
    for stage in stages:
        bar = axis.bar(stage_name(stage.name), stage.state, *_run_times(stage))
        if stage.kind == "quantum":
            waiting.append(bar)
        else:
            place = stage.where or "classical stages"
            classical.setdefault(workers.get(stage.worker, place), []).append(bar)
    for job, task in tasks:
        if task.started_at is not None:
            times = _work_times(task, task.started_at)
            bar = axis.bar(f"{job.kind} job", task.state, *times)
            qpus.setdefault(f"QPU {job.qpu}", []).append(bar)
    lanes = [lane for name, bars in sorted(classical.items()) for lane in _packed(name, bars)]
    lanes += _packed("quantum stages", waiting, waits=True)
    lanes += [lane for name, bars in sorted(qpus.items()) for lane in _packed(name, bars)]
    return Timeline(lanes=tuple(lanes), length_s=axis.length_s, seams_s=axis.seams_s)


def _work_times(task: RecordedTask, start: datetime) -> tuple[datetime, datetime | None]:
    """Return when the QPU worked on a task, without the task's time in the QPU's queue."""
    if task.ended_at is None or task.worked_s is None:
        return start, task.ended_at
    return task.ended_at - timedelta(seconds=task.worked_s), task.ended_at


def _run_times(stage: RecordedStage) -> tuple[datetime, datetime | None]:
    """Return when a worker ran a stage, where that is known."""
    if stage.ran_from is None or stage.ran_until is None:
        return stage.started_at, stage.ended_at
    return stage.ran_from, stage.ran_until


def _worker_names(stages: Iterable[RecordedStage]) -> dict[str | None, str]:
    """Number the workers of each compute in the order of their first work."""
    names: dict[str | None, str] = {}
    for stage in sorted(stages, key=lambda stage: stage.ran_from or stage.started_at):
        if stage.worker and stage.worker not in names:
            names[stage.worker] = f"{stage.where}, worker {len(names) + 1}"
    return names


def stage_name(name: str) -> str:
    """Drop the suffix that Prefect gives task runs.

    >>> stage_name("integrals-3f2"), stage_name("integrals-12"), stage_name("x-ray")
    ('integrals', 'integrals', 'x-ray')
    """
    stem, dash, suffix = name.rpartition("-")
    counted = suffix.isdigit() or (len(suffix) == 3 and set(suffix) <= _HEX)
    return stem if dash and stem and counted else name


@dataclass(frozen=True, slots=True)
class _Axis:
    """The seconds of a run. attempts: when each began and ended, in order."""

    attempts: tuple[tuple[datetime, datetime], ...]

    @property
    def seams_s(self) -> tuple[float, ...]:
        ends = accumulate((end - start).total_seconds() for start, end in self.attempts)
        return tuple(ends)[:-1]

    @property
    def length_s(self) -> float:
        return sum((end - start).total_seconds() for start, end in self.attempts)

    def place(self, instant: datetime) -> float:
        """Return the second of the run at an instant; the time between attempts does not count."""
        passed = (min(max(instant, start), end) - start for start, end in self.attempts)
        return sum((one.total_seconds() for one in passed), start=0.0)

    def bar(self, label: str, state: str, start: datetime, end: datetime | None) -> Bar:
        start_s = self.place(start)
        end_s = self.place(end or self.attempts[-1][1])
        return Bar(
            label=label, start_s=start_s, length_s=max(end_s - start_s, 0.0), state=str(state)
        )


def _axis(record: RunRecord, instants: Sequence[datetime]) -> _Axis:
    """Return a run's axis. instants: of its work; the last one in a killed attempt is its end."""
    starts = [attempt.started_at for attempt in record.attempts] or [record.started_at]
    ends = [attempt.ended_at for attempt in record.attempts] or [record.ended_at]
    attempts = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        later = starts[number + 1] if number + 1 < len(starts) else max(*instants, start)
        within = [instant for instant in instants if start <= instant <= later]
        attempts.append((start, end or max(within, default=start)))
    return _Axis(attempts=tuple(attempts))


def _packed(name: str, bars: Iterable[Bar], *, waits: bool = False) -> list[Lane]:
    """Put bars into the first row that is free when they start."""
    rows: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: bar.start_s):
        free = (row for row in rows if row[-1].start_s + row[-1].length_s <= bar.start_s)
        row = next(free, None)
        if row is None and len(rows) < _MAX_ROWS:
            rows.append([bar])
        else:
            (row or rows[-1]).append(bar)
    return [
        Lane(name=name if number == 0 else "", bars=tuple(row), waits=waits)
        for number, row in enumerate(rows)
    ]
