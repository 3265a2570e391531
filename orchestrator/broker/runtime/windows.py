"""Windows of the site file written out, repeated ones as often as they come."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from backends.api import QualityWindow
from orchestrator.broker.core.rules import Window
from orchestrator.config.site import WindowSettings

__all__ = ["quality_windows", "windows_between"]

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
