"""Periods: whole days of a time zone, also those of 23 and 25 hours, and instants."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from orchestrator.accounting.periods import PeriodError, instant_or_day, period_of

PRAGUE = ZoneInfo("Europe/Prague")
NOW = datetime(2026, 11, 29, 12, 30, tzinfo=UTC)


def test_without_bounds_it_is_this_month_so_far() -> None:
    period = period_of(None, None, NOW, PRAGUE)
    assert period.since == datetime(2026, 11, 1, tzinfo=PRAGUE)
    assert period.until == NOW


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-11-29", 24), ("2026-03-29", 23), ("2026-10-25", 25)]
)
def test_a_day_is_as_long_as_it_is_where_it_is(day: str, hours: int) -> None:
    period = period_of(instant_or_day(day), instant_or_day(day), NOW, PRAGUE)
    length = period.until.astimezone(UTC) - period.since.astimezone(UTC)
    assert length == timedelta(hours=hours)


def test_the_month_is_that_of_the_zone() -> None:
    new_year = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert period_of(None, None, new_year, PRAGUE).since == datetime(2027, 1, 1, tzinfo=PRAGUE)


def test_instants_have_the_zone_they_state_or_the_given_one() -> None:
    begin, end = instant_or_day("2026-11-29T08:00+05:00"), instant_or_day("2026-11-29T08:00")
    period = period_of(begin, end, NOW, PRAGUE)
    assert period.since == datetime(2026, 11, 29, 3, tzinfo=UTC)
    assert period.until == datetime(2026, 11, 29, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-13-01", "", "29.11.2026", "2026-11-29 8 o'clock"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(PeriodError):
        instant_or_day(text)


@pytest.mark.parametrize("days", [0, 1])
def test_a_period_does_not_end_before_it_begins(days: int) -> None:
    begin = NOW + timedelta(days=days)
    with pytest.raises(PeriodError):
        period_of(begin, NOW, NOW, PRAGUE)
    with pytest.raises(PeriodError):
        period_of(date(2027, 1, 1), None, NOW, PRAGUE)


@pytest.mark.parametrize(
    ("begin", "end"),
    [("2026-11-30", "2026-11-29"), ("2026-11-29T08:00:00.000002", "2026-11-29T08:00:00.000001")],
)
def test_the_error_of_a_period_states_what_was_given(begin: str, end: str) -> None:
    with pytest.raises(PeriodError) as raised:
        period_of(instant_or_day(begin), instant_or_day(end), NOW, PRAGUE)
    assert begin in str(raised.value)
    assert end in str(raised.value)
