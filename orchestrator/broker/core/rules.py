"""What the site says about one QPU: when it is open, its limits, how it is scheduled, measured and billed (pure)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from backends.metering import Metering
from backends.timing import TimingModel
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Policy, Weighted
from orchestrator.config.bounds import LeaseBounds, Rate

__all__ = ["Calendar", "QpuRules", "Window", "WindowKind", "in_utc", "occupied_seconds"]

# Nothing runs during maintenance and calibration; results are vouched for in quality windows.
WindowKind = Literal["maintenance", "calibration", "quality"]


def in_utc(at: datetime) -> str:
    """Return a time as text, with seconds: a closure may last less than a minute.

    >>> in_utc(datetime.fromisoformat("2026-11-24T19:00:00+01:00"))
    '2026-11-24 18:00:00 UTC'
    """
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Window:
    """A stretch of time, its end not included."""

    start: datetime
    end: datetime
    kind: WindowKind = "maintenance"
    title: str = ""

    @property
    def reason(self) -> str:
        """What the window is for."""
        return f"{self.kind} ({self.title})" if self.title else self.kind

    def closed(self, qpu: str) -> str:
        """Return the sentence that explains why a QPU starts nothing."""
        return f"{qpu} is closed for {self.reason} until {in_utc(self.end)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Windows of one QPU. ``closures`` are disjoint and sorted; ``quality`` are sorted."""

    closures: tuple[Window, ...] = ()
    quality: tuple[Window, ...] = ()
    _starts: tuple[datetime, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, windows: Iterable[Window]) -> Calendar:
        """Sort windows; closures that touch or overlap become one."""
        ordered = sorted(windows)
        closures: list[Window] = []
        for window in ordered:
            if window.kind == "quality" or window.end <= window.start:
                continue
            last = closures[-1] if closures else None
            if last is not None and window.start <= last.end:
                title = " and ".join(dict.fromkeys(t for t in (last.title, window.title) if t))
                closures[-1] = Window(
                    start=last.start, end=max(last.end, window.end), kind=last.kind, title=title
                )
            else:
                closures.append(window)
        return cls(
            closures=tuple(closures),
            quality=tuple(window for window in ordered if window.kind == "quality"),
            _starts=tuple(window.start for window in closures),
        )

    def closure_at(self, now: datetime) -> Window | None:
        """Return the closure that is on, if any."""
        index = bisect_right(self._starts, now) - 1
        if index >= 0 and now < self.closures[index].end:
            return self.closures[index]
        return None

    def next_closure(self, now: datetime) -> Window | None:
        """Return the first closure that begins after now."""
        index = bisect_right(self._starts, now)
        return self.closures[index] if index < len(self.closures) else None

    def free_s(self, now: datetime) -> float:
        """Return the seconds until the QPU closes: 0 while it is closed, infinity without end."""
        if self.closure_at(now) is not None:
            return 0.0
        following = self.next_closure(now)
        return float("inf") if following is None else (following.start - now).total_seconds()

    def fit(self, now: datetime, length_s: float) -> datetime:
        """Return the earliest time from now on at which so many seconds are free."""
        at = now
        while True:
            closure = self.closure_at(at)
            if closure is not None:
                at = closure.end
            following = self.next_closure(at)
            if following is None or at + timedelta(seconds=length_s) <= following.start:
                return at
            at = following.end

    def is_provisional(self, at: datetime) -> bool:
        """Whether results of this time are not vouched for."""
        if not self.quality:
            return False  # the site vouches for every result
        return not any(window.start <= at < window.end for window in self.quality)


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuRules:
    """Everything about a QPU that decisions rest on, besides what happened on it."""

    limits: TaskLimits = field(default_factory=TaskLimits)
    policy: Policy = field(default_factory=Weighted)
    calendar: Calendar = field(default_factory=Calendar)
    timing: TimingModel | None = None
    metering: Metering = field(default_factory=Metering)
    slice_s: float | None = None  # QPU-seconds; longer work is cut, so that others go in between
    allocation_s: float | None = None  # QPU-seconds in a Slurm job that holds it, None for no bound
    rate: Rate | None = None  # None is no limit
    leases: LeaseBounds | None = field(default_factory=LeaseBounds)  # None grants none
    clock_scale: float = 1.0  # seconds on the clock for each QPU-second
    shares: dict[str, float] = field(default_factory=dict)  # by project
    accepted: frozenset[str] = frozenset()  # labels of data that may go there

    def next_start(self, starts: Sequence[datetime]) -> datetime | None:
        """Return when the rate admits one more start after these; None if it did all along."""
        if self.rate is None or len(starts) < self.rate.starts:
            return None
        return starts[-self.rate.starts] + timedelta(seconds=self.rate.per_s)


def occupied_seconds(clock_s: float, predicted_s: float | None, rules: QpuRules) -> float:
    """Return the QPU-seconds that a task occupied which ran so long by the clock.

    On a QPU whose clock is scaled they are at most what the whole task was predicted to take; one
    that does not wait at all is taken to have been occupied for that long.
    """
    if rules.clock_scale == 1.0:
        return clock_s
    if not rules.clock_scale:
        return predicted_s or 0.0
    seconds = clock_s / rules.clock_scale
    return seconds if predicted_s is None else min(seconds, predicted_s)
