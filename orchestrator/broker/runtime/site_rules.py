"""A QPU's rules from what the site file says and what its backend publishes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from orchestrator.config.site import QpuSettings, WindowSettings

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


_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def windows_between(
    stated: Iterable[WindowSettings], since: datetime, until: datetime
) -> list[Window]:
    """Return all windows that overlap the time between, repeated ones as often as they come."""
    windows: list[Window] = []
    for one in stated:
        if one.start is not None and one.end is not None:
            windows.append(_window(one, one.start, one.end))
        elif one.daily is not None:
            windows += _repeated(one, one.daily, since, until)
    return [window for window in windows if window.end > since and window.start < until]


def quality_windows(
    daily: Iterable[QualityWindow], since: datetime, until: datetime
) -> list[Window]:
    """Return the daily windows, in UTC, that a backend vouches for."""
    stated = [WindowSettings(kind="quality", daily=f"{one.start}-{one.end}") for one in daily]
    return windows_between(stated, since, until)


def _window(one: WindowSettings, start: datetime, end: datetime) -> Window:
    """Return it in UTC: Python reckons within one zone by the wall clock, also over a change."""
    return Window(
        start=start.astimezone(UTC), end=end.astimezone(UTC), kind=one.kind, title=one.title
    )


def _repeated(one: WindowSettings, daily: str, since: datetime, until: datetime) -> list[Window]:
    zone = ZoneInfo(one.zone)
    begin, _, end = daily.partition("-")
    first, last = time.fromisoformat(begin), time.fromisoformat(end)
    day, windows = since.astimezone(zone).date() - timedelta(days=1), []
    while day <= until.astimezone(zone).date():
        if not one.weekdays or _WEEKDAYS[day.weekday()] in one.weekdays:
            following = day + timedelta(days=1) if last <= first else day
            start = datetime.combine(day, first, zone)
            stop = datetime.combine(following, last, zone)
            windows.append(_window(one, start, stop))
        day += timedelta(days=1)
    return windows


GROUP = "hpcqc.policies"
_MEMBERS = ("name", "by_payer", "longest_wait_s", "job_score", "account_score", "terms")


def known_policies() -> list[str]:
    """Return the names of all policies: the broker's own, then those of installed packages."""
    return list(dict.fromkeys([*POLICIES, *installed(GROUP)]))


def named_policy(name: str, parameters: Mapping[str, Any] | None = None) -> Policy:
    """Return a policy by name, its parameters as given; the broker's own come first.

    Raises ``ValueError`` for an unknown name, a package that does not import or holds no policy,
    and an unknown or invalid parameter.
    """
    if name in POLICIES:
        return make_policy(name, parameters)
    points = installed(GROUP)
    if name not in points:
        raise unknown(name, [*POLICIES, *points], noun="policy")
    return make_policy(name, parameters, {name: _class(name)})


def _class(name: str) -> type[Any]:
    found: Any = load(GROUP, name, noun="policy")
    missing = [member for member in _MEMBERS if not hasattr(found, member)]
    if not is_dataclass(found) or not isinstance(found, type) or missing:
        raise PluginUnusable(
            f"policy {name!r} is {found!r}; expected a frozen dataclass with {', '.join(_MEMBERS)}"
        )
    return found
