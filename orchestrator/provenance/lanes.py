"""The rows and bars of a run's Gantt chart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["FAILED", "Bar", "Lane", "Timeline", "timeline_of"]

FAILED = frozenset({"failed", "cancelled", "uncertain"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One piece of work; times in seconds since the run's first start."""

    label: str
    start_s: float
    length_s: float
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One row. waits: its bars are stages that wait for a QPU, and may overlap."""

    name: str
    bars: tuple[Bar, ...]
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All rows, classical workers first, then waiting stages, then QPUs."""

    lanes: tuple[Lane, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What there is to tell apart by colour, in order of appearance."""
        return tuple(dict.fromkeys(bar.label for lane in self.lanes for bar in lane.bars))


def timeline_of(record: Mapping[str, Any]) -> Timeline:
    """Lay out a run record (see `run_document`). What never started has no bar.

    Work without an end, in a run that was cut short, lasts until the record's last instant.
    """
    stages = [s for s in record["stages"] if s["state"] != "cached"]
    tasks = [(job, task) for job in record["jobs"] for task in job["tasks"]]
    work = [*stages, *(task for _, task in tasks)]
    instants = [_instant(item[key]) for item in work for key in _EDGES if item[key]]
    if not instants:
        return Timeline(lanes=())
    axis = _Axis(origin=min(instants), end=max(instants))
    classical: dict[str, list[Bar]] = {}
    waiting: list[Bar] = []
    qpus: dict[str, list[Bar]] = {}
    for stage in stages:
        bar = axis.bar(stage, stage["name"])
        if bar is not None and stage["kind"] == "quantum":
            waiting.append(bar)
        elif bar is not None:
            classical.setdefault(stage["where"] or "classical stages", []).append(bar)
    for job, task in tasks:
        bar = axis.bar(task, f"{job['kind']} job")
        if bar is not None:
            qpus.setdefault(f"QPU {job['qpu']}", []).append(bar)
    lanes = [*_lanes(classical)]
    if waiting:
        lanes.append(Lane(name="quantum stages", bars=tuple(waiting), waits=True))
    return Timeline(lanes=(*lanes, *_lanes(qpus)))


_EDGES = ("started_at", "ended_at")


@dataclass(frozen=True, slots=True)
class _Axis:
    origin: datetime
    end: datetime

    def bar(self, item: Mapping[str, Any], label: str) -> Bar | None:
        if not item["started_at"]:
            return None
        start = _instant(item["started_at"])
        end = _instant(item["ended_at"]) if item["ended_at"] else self.end
        return Bar(
            label=label,
            start_s=(start - self.origin).total_seconds(),
            length_s=max((end - start).total_seconds(), 0.0),
            state=str(item["state"]),
        )


def _lanes(rows: Mapping[str, Iterable[Bar]]) -> list[Lane]:
    return [Lane(name=name, bars=tuple(bars)) for name, bars in sorted(rows.items())]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
