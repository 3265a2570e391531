"""Workloads of simulations: jobs with the times of their submission (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from orchestrator.broker.core.events import JobSubmitted

__all__ = ["Arrival", "Workload", "WorkloadError", "first_jobs", "on_qpu", "with_load"]


class WorkloadError(ValueError):
    """A workload cannot be read or simulated; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One job and when it was submitted."""

    at: datetime
    job: JobSubmitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Jobs in order of time. notes: how they were made, and what had to be left out."""

    name: str
    arrivals: tuple[Arrival, ...]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, name: str, arrivals: Iterable[Arrival], notes: Iterable[str] = ()) -> Workload:
        """Sort jobs by time; those of one moment stay as they come. Raises `WorkloadError`."""
        ordered = tuple(sorted(arrivals, key=lambda arrival: arrival.at))
        if not ordered:
            words = "; ".join(notes)
            raise WorkloadError(f"{name} has no job to simulate{f' ({words})' if words else ''}")
        return cls(name=name, arrivals=ordered, notes=tuple(notes))

    @property
    def start(self) -> datetime:
        """When the first job came."""
        return self.arrivals[0].at

    @property
    def span_s(self) -> float:
        """Seconds from the first job to the last."""
        return (self.arrivals[-1].at - self.start).total_seconds()

    def compressed(self, factor: float) -> Workload:
        """Return the same jobs, coming so many times as fast."""
        moved = tuple(
            replace(
                a, at=self.start + timedelta(seconds=(a.at - self.start).total_seconds() / factor)
            )
            for a in self.arrivals
        )
        note = f"jobs come {factor:.4g} times as fast as recorded"
        return replace(self, arrivals=moved, notes=(*self.notes, note))


def first_jobs(workload: Workload, most: int) -> Workload:
    """Return a workload's first so many jobs."""
    left = len(workload.arrivals) - most
    if left <= 0:
        return workload
    note = f"the first {most:,} jobs; {left:,} more were left out"
    return replace(workload, arrivals=workload.arrivals[:most], notes=(*workload.notes, note))


def with_load(
    workload: Workload, load: float, seconds_of: Callable[[JobSubmitted], float]
) -> Workload:
    """Return the jobs at a pace that asks for this part of the QPU's time, or `WorkloadError`."""
    asked_s = sum(seconds_of(arrival.job) for arrival in workload.arrivals)
    if not workload.span_s or not asked_s:
        raise WorkloadError(
            f"all jobs of {workload.name} come at once, so no pace gives a load; leave --load out"
        )
    return workload.compressed(load * workload.span_s / asked_s)


def on_qpu(workload: Workload, qpu: str, backend: str) -> Workload:
    """Return the same jobs, submitted to this QPU."""
    return replace(
        workload,
        arrivals=tuple(
            replace(a, job=replace(a.job, qpu=qpu, backend=backend)) for a in workload.arrivals
        ),
    )
