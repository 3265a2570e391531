"""A QPU's rules from what the site file says and what its backend publishes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from backends.api import Target
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Policy
from orchestrator.broker.core.rules import Calendar, QpuRules
from orchestrator.broker.runtime.calendar_files import closures_of_file
from orchestrator.broker.runtime.policies import named_policy
from orchestrator.broker.runtime.windows import quality_windows, windows_between
from orchestrator.config.errors import ConfigError
from orchestrator.config.site import QpuSettings

__all__ = [
    "SETTLING",
    "calendar_of",
    "check_schedule",
    "check_schedules",
    "qpu_rules",
]

# So far back and ahead a calendar is written out. A service does so anew every day.
_PAST = timedelta(days=2)
_AHEAD = timedelta(days=60)
# After a calibration the QPU stays closed until its new calibration has been read.
SETTLING = timedelta(seconds=1)


def check_schedule(settings: QpuSettings) -> Policy:
    """Return the policy of a QPU. Raises `ConfigError` for one that there is not."""
    schedule = settings.schedule
    try:
        return named_policy(schedule.policy, schedule.parameters)
    except ValueError as error:
        raise ConfigError(f"[qpu.{settings.name}.schedule]: {error}") from None


def check_schedules(qpus: Iterable[QpuSettings], now: datetime) -> None:
    """See that each QPU's schedule can be kept, before anything is started.

    Raises `ConfigError` for a policy that there is not, or a calendar that cannot be read.
    """
    for settings in qpus:
        check_schedule(settings)
        if settings.schedule.calendar is not None:
            closures_of_file(settings.schedule.calendar, now, now + _AHEAD)


def qpu_rules(settings: QpuSettings, target: Target, now: datetime) -> QpuRules:
    """Return what decisions about a QPU rest on.

    Raises `ConfigError` for a policy that there is not, or a calendar that cannot be read.
    """
    schedule = settings.schedule
    return QpuRules(
        limits=TaskLimits.of(target, settings.uncertain),
        policy=check_schedule(settings),
        calendar=calendar_of(settings, target, now),
        timing=target.timing,
        metering=target.metering,
        slice_s=schedule.slice_s or None,
        rate=schedule.rate,
        leases=schedule.lease,
        clock_scale=target.clock_scale,
        shares=dict(schedule.shares),
    )


def calendar_of(
    settings: QpuSettings, target: Target | None, now: datetime, ahead: timedelta = _AHEAD
) -> Calendar:
    """Return a QPU's windows from two days ago on: of the site file, its calendar, its target.

    Without a target its quality windows are missing, and closures are all there.
    Raises `ConfigError` for a calendar that cannot be read.
    """
    schedule, since, until = settings.schedule, now - _PAST, now + ahead
    windows = windows_between(schedule.window, since, until)
    if schedule.calendar is not None:
        windows += closures_of_file(schedule.calendar, since, until)
    if target and not any(window.kind == "quality" for window in schedule.window):
        windows += quality_windows(target.quality_windows, since, until)
    return Calendar.of(
        replace(window, end=window.end + SETTLING) if window.kind == "calibration" else window
        for window in windows
    )
