"""Closures from the events of iCalendar files (RFC 5545)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.broker.core.rules import Window
from orchestrator.config.errors import ConfigError
from orchestrator.text_files import TextFileError, lines_of, read_text

__all__ = ["closures_of_file"]

_DAY = timedelta(days=1)
_DURATION = re.compile(
    r"([+-]?)P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.ASCII
)
_DURATION_LINE = re.compile(r"DURATION(?:;[^:]*)?:(.*)", re.IGNORECASE)
_ZONED_LINE = re.compile(
    r"""^((?:DTSTART|DTEND|RECURRENCE-ID|EXDATE|RDATE)(?:;(?!TZID=)(?:"[^"]*"|[^;:"])*)*;)TZID=""",
    re.IGNORECASE,
)
# Properties and a parameter of our own, for what is lost when events are read and repeated.
_LENGTH, _PLACE, _ZONE = "X-HPCQC-DURATION", "X-HPCQC-EVENT", "X-HPCQC-TZID"


class _Refused(ValueError):
    """An event cannot be used; the message says which and why."""


def closures_of_file(path: Path, since: datetime, until: datetime) -> list[Window]:
    """Return the events of an iCalendar file as closures, repeated ones as often as they come.

    An event whose categories or summary speak of calibration is one, any other is maintenance.
    Cancelled and transparent ("free") events, and those without a length, close nothing. Floating
    times and whole days are in the zone of ``X-WR-TIMEZONE``, or else in UTC. A ``DURATION`` has
    days by the calendar and hours by the clock; with ``DTEND``, every repetition lasts as long as
    the first by the clock (RFC 5545, 3.3.6 and 3.8.5.3).

    Raises `ConfigError` if the file cannot be read, or some event in it cannot be used: one
    with an unknown time zone, without a start, or that ends before it begins.
    """
    try:
        windows = [
            window for calendar in _calendars(path) for window in _windows(calendar, since, until)
        ]
    except _Refused as error:
        raise ConfigError(f"{path}: {error}") from None
    except TextFileError as error:
        raise ConfigError(f"cannot read the calendar {error}") from None
    except Exception as error:  # noqa: BLE001  # the parsers raise what they like
        raise ConfigError(f"{path} is not an iCalendar file that can be read: {error}") from None
    return [window for window in windows if window.end > since and window.start < until]


def _windows(calendar: Any, since: datetime, until: datetime) -> list[Window]:
    import recurring_ical_events

    zones = {
        str(zone["TZID"]): zone.to_tz(lookup_tzid=False) for zone in calendar.walk("VTIMEZONE")
    }
    name = calendar.pop("X-WR-TIMEZONE", None)
    floating = UTC if name is None else _zone(str(name), zones, "X-WR-TIMEZONE")
    events = [
        _Event(event, place, zones, floating) for place, event in enumerate(calendar.walk("VEVENT"))
    ]
    # To the library a period is as long as its event.
    lengths = [end - start for event in events for start, end in event.periods.items()]
    first = since - max([_DAY, *lengths])
    occurrences = recurring_ical_events.of(calendar).between(first, until + _DAY)
    if str(calendar.get("METHOD", "")).upper() == "CANCEL":
        return []
    return [
        events[int(occurrence[_PLACE])].window(occurrence)
        for occurrence in occurrences
        if str(occurrence.get("STATUS", "")).upper() != "CANCELLED"
        and str(occurrence.get("TRANSP", "")).upper() != "TRANSPARENT"
    ]


def _calendars(path: Path) -> list[Any]:
    """Parse a file. Titles of older ones are in Latin-1; all else is ASCII."""
    import icalendar

    text = "\n".join(lines_of(read_text(path, fallback="latin-1")))
    lines = [line for line in re.sub(r"\n[ \t]", "", text).split("\n") if line.strip()]
    _check_nesting(lines)
    parsed = []
    for line in lines:
        # The parser ignores a zone that it does not know, and remembers those of other files.
        parsed.append(_ZONED_LINE.sub(rf"\1{_ZONE}=", line, count=1))
        duration = _DURATION_LINE.fullmatch(line)
        if duration:  # once parsed, a day and 24 hours are the same
            parsed.append(f"{_LENGTH}:{duration[1]}")
    calendars = icalendar.Calendar.from_ical("\r\n".join(parsed), multiple=True)
    if not calendars or any(calendar.name != "VCALENDAR" for calendar in calendars):
        raise _Refused("it holds no VCALENDAR; expected an iCalendar file (.ics)")
    return list(calendars)


def _check_nesting(lines: Sequence[str]) -> None:
    """Refuse a file that was cut off: parsers drop components without an END."""
    begun: list[str] = []
    for line in lines:
        word, _, name = line.strip().upper().partition(":")
        if word == "BEGIN":
            begun.append(name)
        elif word == "END" and (not begun or begun.pop() != name):
            raise _Refused(f"END:{name} without its BEGIN:{name}; the file is damaged")
    if begun:
        raise _Refused(f"END:{begun[-1]} is missing; the file may be cut off")


def _zone(name: str, defined: Mapping[str, tzinfo], where: str) -> tzinfo:
    """Return a zone by its IANA name, by the file's VTIMEZONE, or by Windows's name.

    Abbreviations such as EST are IANA names too, and others mean others with them, so there the
    file's own definition comes first. Raises `_Refused` for an unknown name.
    """
    from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON

    if name in defined and "/" not in name.strip("/"):
        return defined[name]
    parts = name.strip("/").split("/")
    # The last parts of a globally unique name, such as /example.org/Europe/Prague.
    suffixes = ["/".join(parts[at:]) for at in range(len(parts) if name[:1] == "/" else 1)]
    for known in (*suffixes, WINDOWS_TO_OLSON.get(name, "")):
        with suppress(OSError, KeyError, ValueError):  # a folder of zones, an unknown name, a path
            return ZoneInfo(known)
    if name in defined:
        return defined[name]
    raise _Refused(
        f"{where} names the time zone {name!r}, which is not known and not defined in the file; "
        "use an IANA name such as 'Europe/Prague', or add its VTIMEZONE"
    )


class _Event:
    """A VEVENT whose times are given their zones in place, and what repeating it loses.

    periods: ends of single occurrences by their start. Raises `_Refused`.
    """

    def __init__(
        self, event: Any, place: int, zones: Mapping[str, tzinfo], floating: tzinfo
    ) -> None:
        self._event, self._zones, self._floating = event, zones, floating
        self._title = f"event {str(event.get('SUMMARY') or event.get('UID') or place)!r}"
        self._check()
        self._day_zone = self._zone(event["DTSTART"])
        for name in ("DTSTART", "DTEND", "RECURRENCE-ID"):
            if name in event:
                self._localise(name)
        self.periods = self._localise_lists()
        self._localise_rule()
        self._days, self._exact = self._length()
        event[_PLACE] = str(place)

    def window(self, occurrence: Any) -> Window:
        """Return one occurrence as a closure."""
        first = occurrence["DTSTART"].dt
        if not isinstance(first, datetime):
            first = datetime.combine(first, time(), self._day_zone)
        start, title = _in_utc(first), str(occurrence.get("SUMMARY", ""))
        end = first.replace(tzinfo=None, fold=0) + timedelta(days=self._days)
        end = _in_utc(end.replace(tzinfo=first.tzinfo)) if self._days else start
        categories = occurrence.get("CATEGORIES")
        words = f"{title} {categories.to_ical().decode() if categories else ''}".lower()
        return Window(
            start=start,
            end=self.periods.get(start) or end + self._exact,
            kind="calibration" if "calibrat" in words else "maintenance",
            title=title,
        )

    def _check(self) -> None:
        if self._event.errors:
            raise self._refusal(f"has a line that cannot be read: {self._event.errors[0][1]}")
        for name in ("DTSTART", "DTEND", "DURATION", "RECURRENCE-ID", "RRULE"):
            if isinstance(self._event.get(name), list):
                raise self._refusal(f"has more than one {name}; write one event for each")
        if "DTSTART" not in self._event:
            raise self._refusal("has no DTSTART; expected the time at which it begins")
        if "EXRULE" in self._event:
            raise self._refusal("has an EXRULE, which RFC 5545 abolished; use EXDATE")

    def _refusal(self, reason: str) -> _Refused:
        return _Refused(f"{self._title} {reason}")

    def _zone(self, value: Any) -> tzinfo:
        name = value.params.get(_ZONE)
        return self._floating if name is None else _zone(str(name), self._zones, self._title)

    def _local(self, moment: date | datetime, value: Any) -> date | datetime:
        if not isinstance(moment, datetime):
            return moment
        if str(value.params.get("VALUE", "")).upper() == "DATE":
            return moment.date()
        if moment.tzinfo is not None:  # it ends with Z
            return moment.astimezone(UTC)
        return moment.replace(tzinfo=self._zone(value))

    def _localise(self, name: str) -> None:
        from icalendar.prop import vDDDTypes

        value = self._event[name]
        local = vDDDTypes(self._local(value.dt, value))
        if "RANGE" in value.params:
            local.params["RANGE"] = value.params["RANGE"]
        self._event[name] = local

    def _localise_lists(self) -> dict[datetime, datetime]:
        """Localise EXDATE and RDATE; a period becomes its start, and its end is returned."""
        from icalendar.prop import vDDDLists

        periods = {}
        for name in ("EXDATE", "RDATE"):
            values = self._event.get(name, [])
            moments = []
            for value in values if isinstance(values, list) else [values]:
                for one in value.dts:
                    first, last = one.dt if isinstance(one.dt, tuple) else (one.dt, None)
                    local = self._local(first, value)
                    moments.append(local)
                    if isinstance(last, timedelta):
                        periods[_in_utc(local)] = _in_utc(local) + last
                    elif last is not None:
                        periods[_in_utc(local)] = _in_utc(self._local(last, value))
            if moments:
                self._event[name] = vDDDLists(moments)
        return periods

    def _localise_rule(self) -> None:
        """Write UNTIL as RFC 5545 has it, where a program wrote it otherwise."""
        rule = self._event.get("RRULE", {})
        if "SECONDLY" in map(str.upper, map(str, rule.get("FREQ", []))):
            raise self._refusal("repeats every second; give it a longer FREQ")
        if not rule.get("UNTIL"):
            return
        start, last = self._event["DTSTART"].dt, rule["UNTIL"][0]
        if isinstance(start, datetime):
            if not isinstance(last, datetime):  # that whole day
                last = datetime.combine(last, time(23, 59, 59))
            last = _in_utc(last if last.tzinfo else last.replace(tzinfo=start.tzinfo))
        elif isinstance(last, datetime):
            last = (last.astimezone(self._floating) if last.tzinfo else last).date()
        rule["UNTIL"] = [last]

    def _length(self) -> tuple[int, timedelta]:
        """Return how long it lasts: days by the calendar, and then a time by the clock."""
        start = self._event["DTSTART"].dt
        end = self._event["DTEND"].dt if "DTEND" in self._event else None
        if end is not None and "DURATION" in self._event:
            raise self._refusal("has both DTEND and DURATION; keep one")
        if end is None:
            days, exact = self._duration()
        elif isinstance(start, datetime) != isinstance(end, datetime):
            raise self._refusal("begins with a day and ends with a time, or the reverse")
        elif isinstance(start, datetime):
            days, exact = 0, _in_utc(end) - _in_utc(start)
        else:
            days, exact = (end - start).days, timedelta()
        if timedelta(days=days) + exact < timedelta():
            raise self._refusal(f"ends ({end or self._event[_LENGTH]}) before it begins ({start})")
        return days, exact

    def _duration(self) -> tuple[int, timedelta]:
        if "DURATION" not in self._event:
            return (0 if isinstance(self._event["DTSTART"].dt, datetime) else 1), timedelta()
        stated = str(self._event[_LENGTH]).strip()
        match = _DURATION.fullmatch(stated.upper())
        if match is None or not any(match.groups()[1:]):
            raise self._refusal(f"has the DURATION {stated!r}; expected one such as P1D or PT6H")
        weeks, days, hours, minutes, seconds = (int(number or 0) for number in match.groups()[1:])
        sign = -1 if match[1] == "-" else 1
        exact = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return sign * (7 * weeks + days), sign * exact


def _in_utc(local: Any) -> datetime:
    """Return a local time in UTC (RFC 5545, 3.3.5).

    One that comes twice, as clocks go back, is the first. One that does not come, as clocks go
    forward, is taken with the offset before that.
    """
    first = local.replace(fold=0)
    moment: datetime = first.astimezone(UTC)
    if moment.astimezone(first.tzinfo).replace(tzinfo=None) != first.replace(tzinfo=None):
        offset = (first - _DAY).utcoffset()
        moment = (first.replace(tzinfo=None) - offset).replace(tzinfo=UTC)
    return moment
