"""What the site says about one QPU: its limits, how it is scheduled, measured and billed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backends.metering import Metering
from backends.timing import TimingModel
from orchestrator.broker.core.closures import Calendar
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Policy, Weighted
from orchestrator.config.bounds import LeaseBounds, Rate

__all__ = ["QpuRules", "occupied_seconds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuRules:
    """Everything about a QPU that decisions rest on, besides what happened on it.

    slice_s: work longer than so many QPU-seconds is cut, so that others can go in between; None
    cuts only where the machine's limits do. rate: None is no limit. leases: None grants none.
    clock_scale: seconds on the clock for each QPU-second. shares: by project, for fair share.
    """

    limits: TaskLimits = field(default_factory=TaskLimits)
    policy: Policy = field(default_factory=Weighted)
    calendar: Calendar = field(default_factory=Calendar)
    timing: TimingModel | None = None
    metering: Metering = field(default_factory=Metering)
    slice_s: float | None = None
    rate: Rate | None = None
    leases: LeaseBounds | None = field(default_factory=LeaseBounds)
    clock_scale: float = 1.0
    shares: dict[str, float] = field(default_factory=dict)

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
