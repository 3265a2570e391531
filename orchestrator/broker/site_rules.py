"""A QPU's rules from what the site file says and what its backend publishes."""

from __future__ import annotations

from datetime import datetime, timedelta

from backends.api import Target
from orchestrator.broker.calendar import Calendar
from orchestrator.broker.packing import Limits
from orchestrator.broker.policies import Policy, make_policy
from orchestrator.broker.rules import LeaseBounds, QpuRules, Rate
from orchestrator.broker.windows import closures_of_file, quality_windows, windows_between
from orchestrator.config import ConfigError, QpuSettings

__all__ = ["calendar_of", "check_schedule", "qpu_rules"]

# So far back and ahead a calendar is written out. A service does so anew every day.
_PAST = timedelta(days=2)
_AHEAD = timedelta(days=60)


def check_schedule(settings: QpuSettings) -> Policy:
    """Return the policy of a QPU. Raises `ConfigError` for one that there is not."""
    schedule = settings.schedule
    try:
        return make_policy(schedule.policy, schedule.parameters)
    except ValueError as error:
        raise ConfigError(f"[qpu.{settings.name}.schedule]: {error}") from None


def qpu_rules(settings: QpuSettings, target: Target, now: datetime) -> QpuRules:
    """Return what decisions about a QPU rest on.

    Raises `ConfigError` for a policy that there is not, or a calendar that cannot be read.
    """
    schedule = settings.schedule
    time_scale = settings.options.get("time_scale", 0.0) if target.timing is not None else 1.0
    return QpuRules(
        limits=Limits.of(target, settings.uncertain),
        policy=check_schedule(settings),
        calendar=calendar_of(settings, target, now - _PAST, now + _AHEAD),
        timing=target.timing,
        metering=target.metering,
        slice_s=schedule.slice_s or None,
        rate=None
        if schedule.rate is None
        else Rate(starts=schedule.rate[0], per_s=schedule.rate[1]),
        leases=_lease_bounds(schedule.lease),
        time_scale=float(time_scale),
        shares=dict(schedule.shares),
    )


def _lease_bounds(stated: tuple[float, float] | None) -> LeaseBounds | None:
    if stated is None:
        return None
    longest_s, idle_s = stated
    return LeaseBounds(longest_s=longest_s, idle_s=idle_s)


def calendar_of(
    settings: QpuSettings, target: Target, since: datetime, until: datetime
) -> Calendar:
    """Return the windows of a QPU between two times: from the site file, its calendar, its target."""
    schedule = settings.schedule
    windows = windows_between(schedule.windows, since, until)
    if schedule.calendar is not None:
        windows += closures_of_file(schedule.calendar, since, until)
    if not any(window.kind == "quality" for window in schedule.windows):
        windows += quality_windows(target.quality_windows, since, until)
    return Calendar.of(windows)
