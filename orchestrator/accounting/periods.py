"""Periods as people state them: whole days, or instants with or without a time zone (pure)."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo

from orchestrator.accounting.entries import Period

__all__ = ["PeriodError", "instant_or_day", "period_of"]


class PeriodError(ValueError):
    """A text is not a day or an instant, or a period ends before it begins."""


def instant_or_day(text: str) -> date:
    """Read a day, as ``2026-11-29``, or an instant, as ``2026-11-29T08:00`` or with an offset.

    Returns:
        A ``date`` for a day, else a ``datetime``, which is aware only if the text has an offset.

    Raises:
        PeriodError: It is neither.
    """
    try:
        return date.fromisoformat(text) if len(text) <= 10 else datetime.fromisoformat(text)
    except ValueError:
        raise PeriodError(
            f"invalid time {text!r}: expected a day such as 2026-11-29, or a time such as "
            "2026-11-29T08:00 or 2026-11-29T08:00+01:00"
        ) from None


def period_of(
    since: date | None, until: date | None, now: datetime, zone: tzinfo | None = None
) -> Period:
    """Return a period from the begin of a day, or an instant, to the end of a day, or an instant.

    Args:
        since: None for the begin of the month of ``now``.
        until: None for ``now``.
        now: Aware.
        zone: Of days, and of instants that are not aware; None for that of this machine.

    Raises:
        PeriodError: It does not end after its begin.
    """
    here = now.astimezone(zone)
    begin = _instant(here.date().replace(day=1) if since is None else since, zone)
    if until is None:
        end = now
    elif isinstance(until, datetime):
        end = _instant(until, zone)
    else:
        end = _instant(until + timedelta(days=1), zone)  # the whole of that day, of 23 to 25 hours
    if begin >= end:
        first = begin if since is None else since
        last = f"now, {now.isoformat()}" if until is None else _end_text(until)
        raise PeriodError(
            f"invalid period from {first.isoformat()} to {last}: expected a begin before the end"
        )
    return Period(since=begin, until=end)


def _end_text(until: date) -> str:
    is_day = not isinstance(until, datetime)
    return f"the end of {until.isoformat()}" if is_day else until.isoformat()


def _instant(at: date, zone: tzinfo | None) -> datetime:
    moment = at if isinstance(at, datetime) else datetime.combine(at, time())
    if moment.tzinfo is not None:
        return moment
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
