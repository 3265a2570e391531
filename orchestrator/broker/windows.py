"""Windows of a calendar written out: repeated ones from the site file, and those of an .ics file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backends.api import QualityWindow
from orchestrator.broker.calendar import Window
from orchestrator.config import ConfigError, WindowSettings

__all__ = ["closures_of_file", "quality_windows", "windows_between"]

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


def closures_of_file(path: Path, since: datetime, until: datetime) -> list[Window]:
    """Return the events of an iCalendar file as closures, repeated ones as often as they come.

    An event whose categories or summary speak of calibration is one, any other is maintenance.
    Cancelled and transparent ("free") events close nothing. Raises `ConfigError` if the file
    cannot be read.
    """
    import icalendar
    import recurring_ical_events

    try:
        calendar = icalendar.Calendar.from_ical(path.read_bytes())
        found = recurring_ical_events.of(calendar).between(since, until)
    except OSError as error:
        raise ConfigError(f"cannot read the calendar {path}: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001  # the parsers raise what they like
        raise ConfigError(f"{path} is no iCalendar file that can be read: {error}") from None
    windows = []
    for event in found:
        if str(event.get("STATUS", "")).upper() == "CANCELLED":
            continue
        if str(event.get("TRANSP", "")).upper() == "TRANSPARENT":
            continue
        title = str(event.get("SUMMARY", ""))
        categories = event.get("CATEGORIES")
        words = f"{title} {categories.to_ical().decode() if categories else ''}".lower()
        windows.append(
            Window(
                start=_moment(event.start),
                end=_moment(event.end),
                kind="calibration" if "calibrat" in words else "maintenance",
                title=title,
            )
        )
    return windows


def _moment(value: date | datetime) -> datetime:
    """Return a time with its zone: whole days and floating times are taken as UTC."""
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


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
