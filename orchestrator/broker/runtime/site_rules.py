"""A QPU's rules from what the site file says and what its backend publishes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from backends.api import QualityWindow, Target
from backends.plugins import PluginUnusable, installed, load, unknown
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import POLICIES, Policy, make_policy
from orchestrator.broker.core.rules import Calendar, QpuRules, Window
from orchestrator.broker.runtime.calendar_files import closures_of_file
from orchestrator.config.errors import ConfigError
from orchestrator.config.qpu_tables import QpuSettings, WindowSettings
from orchestrator.data_labels import accepted_labels

__all__ = [
    "GROUP",
    "SETTLING",
    "calendar_of",
    "check_schedule",
    "check_schedules",
    "known_policies",
    "named_policy",
    "qpu_rules",
    "quality_windows",
    "windows_between",
]

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)
# So far back and ahead a calendar is written out. A service does so anew every day.
_PAST = timedelta(days=2)
_AHEAD = timedelta(days=60)
# After a calibration the QPU stays closed until its new calibration has been read.
SETTLING = timedelta(seconds=1)


def check_schedule(settings: QpuSettings) -> Policy:
    """Return the policy of a QPU. Raises `ConfigError` for an unknown or invalid one."""
    schedule = settings.schedule
    try:
        return named_policy(schedule.policy, schedule.parameters)
    except ValueError as error:
        raise ConfigError(f"[qpu.{settings.name}.schedule]: {error}") from None


def check_schedules(qpus: Iterable[QpuSettings], now: datetime) -> None:
    """Check the policy and calendar of each QPU before anything starts. Raises `ConfigError`."""
    for settings in qpus:
        check_schedule(settings)
        if settings.schedule.calendar is not None:
            closures_of_file(settings.schedule.calendar, now, now + _AHEAD)


def qpu_rules(
    settings: QpuSettings, target: Target, now: datetime, more: Iterable[Window] = ()
) -> QpuRules:
    """Return a QPU's rules. Raises `ConfigError` for an invalid policy or unreadable calendar.

    more: windows besides those of the settings and the target.
    """
    schedule = settings.schedule
    return QpuRules(
        limits=TaskLimits.of(target, settings.uncertain),
        policy=check_schedule(settings),
        calendar=calendar_of(settings, target, now, more=more),
        timing=target.timing,
        metering=target.metering,
        slice_s=schedule.slice_s or None,
        allocation_s=settings.slurm.usable_s / target.clock_scale
        if settings.slurm is not None and target.clock_scale
        else None,
        rate=schedule.rate,
        leases=schedule.lease,
        clock_scale=target.clock_scale,
        shares=dict(schedule.shares),
        accepted=accepted_labels(settings.accepts, settings.jurisdictions),
    )


def calendar_of(
    settings: QpuSettings,
    target: Target | None,
    now: datetime,
    ahead: timedelta = _AHEAD,
    more: Iterable[Window] = (),
) -> Calendar:
    """Return a QPU's windows from two days ago on: of the site file, its calendar, its target, more.

    Without a target, its quality windows are missing. Raises `ConfigError` for a bad calendar.
    """
    schedule, since, until = settings.schedule, now - _PAST, now + ahead
    windows = [*windows_between(schedule.window, since, until), *more]
    if schedule.calendar is not None:
        windows += closures_of_file(schedule.calendar, since, until)
    if target and not any(window.kind == "quality" for window in schedule.window):
        windows += quality_windows(target.quality_windows, since, until)
    return Calendar.of(
        replace(window, end=window.end + SETTLING) if window.kind == "calibration" else window
        for window in windows
    )


def windows_between(
    stated: Iterable[WindowSettings], since: datetime, until: datetime
) -> list[Window]:
    """Return all windows that overlap the time between, repeated ones as often as they come."""
    windows = []
    for one in stated:
        for start, end in _times(one, since, until):
            # In UTC: Python computes within one zone by the wall clock, also over a change.
            begin, stop = start.astimezone(UTC), end.astimezone(UTC)
            if stop > since and begin < until:
                windows.append(Window(start=begin, end=stop, kind=one.kind, title=one.title))
    return windows


def _times(
    one: WindowSettings, since: datetime, until: datetime
) -> Iterator[tuple[datetime, datetime]]:
    if one.start is not None and one.end is not None:
        yield one.start, one.end
    elif one.daily is not None:
        zone = ZoneInfo(one.zone)
        first, last = map(time.fromisoformat, one.daily.split("-"))
        day = since.astimezone(zone).date() - _DAY
        while day <= until.astimezone(zone).date():
            if not one.weekdays or _WEEKDAYS[day.weekday()] in one.weekdays:
                end_day = day + _DAY if last <= first else day
                yield datetime.combine(day, first, zone), datetime.combine(end_day, last, zone)
            day += _DAY


def quality_windows(
    daily: Iterable[QualityWindow], since: datetime, until: datetime
) -> list[Window]:
    """Return the daily windows, in UTC, that a backend vouches for."""
    stated = [WindowSettings(kind="quality", daily=f"{one.start}-{one.end}") for one in daily]
    return windows_between(stated, since, until)


GROUP = "hpcqc.policies"
_MEMBERS = ("name", "by_payer", "longest_wait_s", "job_score", "account_score", "terms")


def known_policies() -> list[str]:
    """Return the names of all policies: the broker's own, then those of installed packages."""
    return list(dict.fromkeys([*POLICIES, *installed(GROUP)]))


def named_policy(name: str, parameters: Mapping[str, Any] | None = None) -> Policy:
    """Return a policy by name, its parameters as given; the broker's own come first.

    Raises ``ValueError`` for an unknown name or parameter, or a package that holds no policy.
    """
    if name in POLICIES:
        return make_policy(name, parameters)
    points = installed(GROUP)
    if name not in points:
        raise unknown(name, [*POLICIES, *points], noun="policy")
    loaded: Any = load(GROUP, name, noun="policy")
    missing = [member for member in _MEMBERS if not hasattr(loaded, member)]
    if not is_dataclass(loaded) or not isinstance(loaded, type) or missing:
        raise PluginUnusable(
            f"policy {name!r} is {loaded!r}; expected a frozen dataclass with {', '.join(_MEMBERS)}"
        )
    return make_policy(name, parameters, {name: loaded})
