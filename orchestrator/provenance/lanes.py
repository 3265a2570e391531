"""The rows and bars of a run's Gantt chart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

__all__ = ["FAILED", "Bar", "Lane", "Timeline", "stage_name", "timeline_of"]

FAILED = frozenset({"failed", "cancelled", "uncertain"})


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
    """All rows: computes first, then quantum stages, then QPUs.

    length_s: of the run, without the time between its attempts. seams_s: where a later attempt
    goes on.
    """

    lanes: tuple[Lane, ...]
    length_s: float = 0.0
    seams_s: tuple[float, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """What there is to tell apart by colour, in order of appearance."""
        return tuple(dict.fromkeys(bar.label for lane in self.lanes for bar in lane.bars))


def timeline_of(record: Mapping[str, Any]) -> Timeline:
    """Lay out a run record (see `run_document`). What never started has no bar.

    A QPU's bars are as long as it worked on a task. Work without an end, in a run that was cut
    short, lasts until the record's last instant. What overlaps gets rows of its own, up to a limit
    that keeps the picture readable.
    """
    stages = [s for s in record["stages"] if s["state"] != "cached"]
    # Jobs may share a task.
    found = {task["tag"]: (job, task) for job in record["jobs"] for task in job["tasks"]}
    tasks = list(found.values())
    work = [*stages, *(task for _, task in tasks)]
    instants = [_instant(item[key]) for item in work for key in _EDGES if item[key]]
    if not instants:
        return Timeline(lanes=())
    axis = _axis(record, instants)
    classical: dict[str, list[Bar]] = {}
    waiting: list[Bar] = []
    qpus: dict[str, list[Bar]] = {}
    workers = _worker_names(stages)
    for stage in stages:
        bar = axis.bar(_as_run(stage), stage_name(stage["name"]))
        if bar is not None and stage["kind"] == "quantum":
            waiting.append(bar)
        elif bar is not None:
            place = stage["where"] or "classical stages"
            classical.setdefault(workers.get(stage.get("worker"), place), []).append(bar)
    for job, task in tasks:
        bar = axis.bar(_as_worked(task), f"{job['kind']} job")
        if bar is not None:
            qpus.setdefault(f"QPU {job['qpu']}", []).append(bar)
    lanes = [lane for name, bars in sorted(classical.items()) for lane in _packed(name, bars)]
    lanes += _packed("quantum stages", waiting, waits=True)
    lanes += [lane for name, bars in sorted(qpus.items()) for lane in _packed(name, bars)]
    return Timeline(lanes=tuple(lanes), length_s=axis.length_s, seams_s=axis.seams_s)


def _as_worked(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let the bar of a task begin when the QPU turned to it; it had it in a queue before."""
    if not task["ended_at"] or task["worked_s"] is None:
        return task
    begun = _instant(task["ended_at"]) - timedelta(seconds=task["worked_s"])
    return {**task, "started_at": begun.isoformat()}


def _as_run(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let the bar of a stage last as long as a worker was at it, where that is known."""
    ran_from, ran_until = stage.get("ran_from"), stage.get("ran_until")
    if not (ran_from and ran_until):
        return stage
    return {**stage, "started_at": ran_from, "ended_at": ran_until}


def _worker_names(stages: Iterable[Mapping[str, Any]]) -> dict[str | None, str]:
    """Number the workers of each compute in the order of their first work."""
    names: dict[str | None, str] = {}
    for stage in sorted(stages, key=lambda stage: str(stage.get("ran_from") or "")):
        worker = stage.get("worker")
        if worker and worker not in names:
            names[worker] = f"{stage['where']}, worker {len(names) + 1}"
    return names


def stage_name(name: str) -> str:
    """Drop the suffix that Prefect gives task runs.

    >>> stage_name("integrals-3f2"), stage_name("integrals-12"), stage_name("x-ray")
    ('integrals', 'integrals', 'x-ray')
    """
    stem, dash, suffix = name.rpartition("-")
    counted = suffix.isdigit() or (len(suffix) == 3 and set(suffix) <= _HEX)
    return stem if dash and stem and counted else name


_HEX = set("0123456789abcdef")
_MAX_ROWS = 10
_EDGES = ("started_at", "ended_at")


@dataclass(frozen=True, slots=True)
class _Axis:
    """Seconds of a run by the clock. attempts: when each began and ended, in order."""

    attempts: tuple[tuple[datetime, datetime], ...]

    @property
    def seams_s(self) -> tuple[float, ...]:
        ends = accumulate((end - start).total_seconds() for start, end in self.attempts)
        return tuple(ends)[:-1]

    @property
    def length_s(self) -> float:
        return sum((end - start).total_seconds() for start, end in self.attempts)

    def place(self, instant: datetime) -> float:
        """Return the second of the run at an instant; between attempts none passes."""
        passed = (min(max(instant, start), end) - start for start, end in self.attempts)
        return sum((one.total_seconds() for one in passed), start=0.0)

    def bar(self, item: Mapping[str, Any], label: str) -> Bar | None:
        if not item["started_at"]:
            return None
        start_s = self.place(_instant(item["started_at"]))
        end = _instant(item["ended_at"]) if item["ended_at"] else self.attempts[-1][1]
        return Bar(
            label=label,
            start_s=start_s,
            length_s=max(self.place(end) - start_s, 0.0),
            state=str(item["state"]),
        )


def _axis(record: Mapping[str, Any], instants: Sequence[datetime]) -> _Axis:
    """Return a run's seconds. instants: of its work, which tell how long a killed attempt lasted."""
    starts = [_instant(attempt["started_at"]) for attempt in record["attempts"]]
    starts = starts or [_instant(record["started_at"])]
    ends = [attempt["ended_at"] for attempt in record["attempts"]] or [record["ended_at"]]
    attempts = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        later = starts[number + 1] if number + 1 < len(starts) else max(*instants, start)
        seen = [instant for instant in instants if start <= instant <= later]
        attempts.append((start, _instant(end) if end else max(seen, default=start)))
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


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
