"""Closures from the events of iCalendar files (RFC 5545)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Length:
    """How long an event lasts: days by the calendar, then seconds by the clock."""

    days: int = 0
    exact: timedelta = timedelta()

    def after(self, start: datetime) -> datetime:
        """Return the end, in UTC, of what begins at a local time."""
        if not self.days:
            return _in_utc(start) + self.exact
        naive = start.replace(tzinfo=None, fold=0) + timedelta(days=self.days)
        return _in_utc(naive.replace(tzinfo=start.tzinfo)) + self.exact


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """What its occurrences no longer tell. zone: of its whole days; periods: ends by start."""

    length: _Length
    zone: tzinfo
    periods: Mapping[datetime, datetime] = field(default_factory=dict)

    def window(self, occurrence: Any, title: str) -> Window:
        """Return one occurrence as a closure."""
        first = occurrence["DTSTART"].dt
        if not isinstance(first, datetime):
            first = datetime.combine(first, time(), self.zone)
        start = _in_utc(first)
        categories = occurrence.get("CATEGORIES")
        words = f"{title} {categories.to_ical().decode() if categories else ''}".lower()
        return Window(
            start=start,
            end=self.periods.get(start) or self.length.after(first),
            kind="calibration" if "calibrat" in words else "maintenance",
            title=title,
        )


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
    import recurring_ical_events

    try:
        calendars = _calendars(path)
        windows: list[Window] = []
        for calendar in calendars:
            events = _prepare(calendar)
            # To the library a period is as long as its event.
            lengths = [end - start for event in events for start, end in event.periods.items()]
            first = since - max([_DAY, *lengths])
            found = recurring_ical_events.of(calendar).between(first, until + _DAY)
            if str(calendar.get("METHOD", "")).upper() != "CANCEL":
                windows += _windows(found, events)
    except _Refused as error:
        raise ConfigError(f"{path}: {error}") from None
    except TextFileError as error:
        raise ConfigError(f"cannot read the calendar {error}") from None
    except Exception as error:  # noqa: BLE001  # the parsers raise what they like
        raise ConfigError(f"{path} is not an iCalendar file that can be read: {error}") from None
    return [window for window in windows if window.end > since and window.start < until]


def _windows(occurrences: Iterable[Any], events: Sequence[_Event]) -> Iterator[Window]:
    for occurrence in occurrences:
        cancelled = str(occurrence.get("STATUS", "")).upper() == "CANCELLED"
        if not cancelled and str(occurrence.get("TRANSP", "")).upper() != "TRANSPARENT":
            event = events[int(occurrence[_PLACE])]
            yield event.window(occurrence, str(occurrence.get("SUMMARY", "")))


def _calendars(path: Path) -> list[Any]:
    """Parse a file. Titles of older ones are in Latin-1; all else is ASCII."""
    import icalendar

    text = "\n".join(lines_of(read_text(path, fallback="latin-1")))
    lines = [line for line in re.sub(r"\n[ \t]", "", text).split("\n") if line.strip()]
    _check_nesting(lines)
    kept = []
    for line in lines:
        # The parser takes a zone that it does not know for none, and remembers those of others.
        kept.append(_ZONED_LINE.sub(rf"\1{_ZONE}=", line, count=1))
        duration = _DURATION_LINE.fullmatch(line)
        if duration:  # once read, a day and 24 hours are the same
            kept.append(f"{_LENGTH}:{duration[1]}")
    found = icalendar.Calendar.from_ical("\r\n".join(kept), multiple=True)
    if not found or any(calendar.name != "VCALENDAR" for calendar in found):
        raise _Refused("it holds no VCALENDAR; expected an iCalendar file (.ics)")
    return list(found)


def _check_nesting(lines: Sequence[str]) -> None:
    """Refuse a file that was cut off: parsers drop what is not ended."""
    begun: list[str] = []
    for line in lines:
        word, _, name = line.strip().upper().partition(":")
        if word == "BEGIN":
            begun.append(name)
        elif word == "END" and (not begun or begun.pop() != name):
            raise _Refused(f"END:{name} without its BEGIN:{name}; the file is damaged")
    if begun:
        raise _Refused(f"END:{begun[-1]} is missing; the file may be cut off")


def _prepare(calendar: Any) -> list[_Event]:
    """Give all times of a calendar's events their zones, and note what expanding them loses."""
    zones = _Zones.of(calendar)
    named = calendar.pop("X-WR-TIMEZONE", None)
    floating = UTC if named is None else zones.find(str(named), "X-WR-TIMEZONE")
    events = []
    for place, event in enumerate(calendar.walk("VEVENT")):
        title = f"event {str(event.get('SUMMARY') or event.get('UID') or place)!r}"
        events.append(
            _Reading(event=event, title=title, zones=zones, floating=floating).event_read()
        )
        event[_PLACE] = str(place)
    return events


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zones:
    """The time zones that a file may name. defined: by the file itself, its VTIMEZONEs."""

    defined: Mapping[str, tzinfo]

    @classmethod
    def of(cls, calendar: Any) -> _Zones:
        """Take the zones that a calendar defines."""
        return cls(
            defined={
                str(zone["TZID"]): zone.to_tz(lookup_tzid=False)
                for zone in calendar.walk("VTIMEZONE")
            }
        )

    def find(self, name: str, where: str) -> tzinfo:
        """Return a zone by its IANA name, by its VTIMEZONE, or by Windows's name.

        Abbreviations such as EST are IANA names too, and others mean others with them, so there
        the file's own definition comes first. Raises `_Refused` for a name that nobody knows.
        """
        from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON

        if name in self.defined and "/" not in name.strip("/"):
            return self.defined[name]
        parts = name.strip("/").split("/")
        # The last parts of a globally unique name, such as /example.org/Europe/Prague.
        suffixes = ["/".join(parts[at:]) for at in range(len(parts) if name[:1] == "/" else 1)]
        for known in (*suffixes, WINDOWS_TO_OLSON.get(name)):
            zone = None if known is None else _iana(known)
            if zone is not None:
                return zone
        if name in self.defined:
            return self.defined[name]
        raise _Refused(
            f"{where} names the time zone {name!r}, which is not known and not defined in the file; "
            "use an IANA name such as 'Europe/Prague', or add its VTIMEZONE"
        )


def _iana(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name)
    except (OSError, KeyError, ValueError):  # a folder of zones, an unknown name, a path
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """One event, whose times are given their zones in place."""

    event: Any
    title: str
    zones: _Zones
    floating: tzinfo

    def event_read(self) -> _Event:
        """Return what is to be kept of the event. Raises `_Refused`."""
        event = self.event
        if event.errors:
            raise self._refusal(f"has a line that cannot be read: {event.errors[0][1]}")
        for name in ("DTSTART", "DTEND", "DURATION", "RECURRENCE-ID", "RRULE"):
            if isinstance(event.get(name), list):
                raise self._refusal(f"has more than one {name}; write one event for each")
        if "DTSTART" not in event:
            raise self._refusal("has no DTSTART; expected the time at which it begins")
        if "EXRULE" in event:
            raise self._refusal("has an EXRULE, which RFC 5545 abolished; use EXDATE")
        zone = self._zone(event["DTSTART"])
        for name in ("DTSTART", "DTEND", "RECURRENCE-ID"):
            if name in event:
                self._localise(name)
        periods = self._localise_lists()
        self._localise_rule()
        return _Event(length=self._length(), zone=zone, periods=periods)

    def _refusal(self, reason: str) -> _Refused:
        return _Refused(f"{self.title} {reason}")

    def _zone(self, value: Any) -> tzinfo:
        name = value.params.get(_ZONE)
        return self.floating if name is None else self.zones.find(str(name), self.title)

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

        value = self.event[name]
        local = vDDDTypes(self._local(value.dt, value))
        if "RANGE" in value.params:
            local.params["RANGE"] = value.params["RANGE"]
        self.event[name] = local

    def _localise_lists(self) -> dict[datetime, datetime]:
        """Localise EXDATE and RDATE; a period becomes its start, and its end is returned."""
        from icalendar.prop import vDDDLists

        periods = {}
        for name in ("EXDATE", "RDATE"):
            values = self.event.get(name, [])
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
                self.event[name] = vDDDLists(moments)
        return periods

    def _localise_rule(self) -> None:
        """Write UNTIL as RFC 5545 has it, where a program wrote it otherwise."""
        rule = self.event.get("RRULE")
        if rule is None:
            return
        if "SECONDLY" in map(str.upper, map(str, rule.get("FREQ", []))):
            raise self._refusal("repeats every second; give it a longer FREQ")
        if not rule.get("UNTIL"):
            return
        start, last = self.event["DTSTART"].dt, rule["UNTIL"][0]
        if not isinstance(start, datetime):
            if isinstance(last, datetime):
                local = last if last.tzinfo is None else last.astimezone(self.floating)
                last = local.date()
        else:
            if not isinstance(last, datetime):  # that whole day
                last = datetime.combine(last, time(23, 59, 59))
            if last.tzinfo is None:
                last = last.replace(tzinfo=start.tzinfo)
            last = _in_utc(last)
        rule["UNTIL"] = [last]

    def _length(self) -> _Length:
        start = self.event["DTSTART"].dt
        end = self.event["DTEND"].dt if "DTEND" in self.event else None
        if end is not None and "DURATION" in self.event:
            raise self._refusal("has both DTEND and DURATION; keep one")
        if end is None:
            length = self._duration()
        elif isinstance(start, datetime) != isinstance(end, datetime):
            raise self._refusal("begins with a day and ends with a time, or the reverse")
        elif isinstance(start, datetime):
            length = _Length(exact=_in_utc(end) - _in_utc(start))
        else:
            length = _Length(days=(end - start).days)
        if timedelta(days=length.days) + length.exact < timedelta():
            raise self._refusal(f"ends ({end or self.event[_LENGTH]}) before it begins ({start})")
        return length

    def _duration(self) -> _Length:
        if "DURATION" not in self.event:
            return _Length(days=0 if isinstance(self.event["DTSTART"].dt, datetime) else 1)
        stated = str(self.event[_LENGTH]).strip()
        match = _DURATION.fullmatch(stated.upper())
        if match is None or not any(match.groups()[1:]):
            raise self._refusal(f"has the DURATION {stated!r}; expected one such as P1D or PT6H")
        weeks, days, hours, minutes, seconds = (int(number or 0) for number in match.groups()[1:])
        sign = -1 if match[1] == "-" else 1
        exact = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return _Length(days=sign * (7 * weeks + days), exact=sign * exact)


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
