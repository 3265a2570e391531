"""Windows from a site file, and the calendar made of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orchestrator.broker.core.rules import Calendar, Window
from orchestrator.broker.runtime.site_rules import windows_between
from orchestrator.config.qpu_tables import WindowSettings


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def between(one: WindowSettings, since: str, until: str) -> list[tuple[str, str]]:
    found = windows_between([one], at(since), at(until))
    return [(f"{w.start:%d %H:%M}", f"{w.end:%d %H:%M}") for w in found]


def test_a_daily_window_comes_every_day_also_over_midnight() -> None:
    day = WindowSettings(daily="08:00-09:30")
    assert between(day, "2026-11-02", "2026-11-04") == [
        ("02 08:00", "02 09:30"),
        ("03 08:00", "03 09:30"),
    ]
    night = WindowSettings(daily="23:00-01:00")
    assert between(night, "2026-11-02T00:30", "2026-11-02T23:30") == [
        ("01 23:00", "02 01:00"),
        ("02 23:00", "03 01:00"),
    ]


def test_weekdays_are_those_on_which_a_window_begins() -> None:
    friday = WindowSettings(daily="22:00-06:00", weekdays=["fri"])
    assert between(friday, "2026-11-01", "2026-11-15") == [
        ("06 22:00", "07 06:00"),
        ("13 22:00", "14 06:00"),
    ]


def test_the_same_hour_twice_is_a_whole_day() -> None:
    saturday = WindowSettings(daily="00:00-00:00", weekdays=["sat"])
    assert between(saturday, "2026-11-01", "2026-11-10") == [("07 00:00", "08 00:00")]


def test_hours_follow_the_clocks_of_their_zone() -> None:
    one = WindowSettings(daily="08:00-09:00", zone="Europe/Prague")
    found = between(one, "2026-10-24", "2026-10-26")
    assert found == [("24 06:00", "24 07:00"), ("25 07:00", "25 08:00")]
    # The night in which clocks go back is an hour longer, and the one in spring shorter.
    night = WindowSettings(daily="22:00-06:00", zone="Europe/Prague")
    (autumn,) = windows_between([night], at("2026-10-25T00:00"), at("2026-10-25T01:00"))
    (spring,) = windows_between([night], at("2026-03-29T00:00"), at("2026-03-29T01:00"))
    assert autumn.end - autumn.start == timedelta(hours=9)
    assert spring.end - spring.start == timedelta(hours=7)


def test_hours_that_a_day_does_not_have_close_nothing() -> None:
    lost = WindowSettings(daily="02:15-02:45", zone="Europe/Prague")
    gone = WindowSettings(daily="02:30-03:00", zone="Europe/Prague")
    since, until = at("2026-03-28T22:00"), at("2026-03-29T20:00")
    for one in (lost, gone):
        closures = Calendar.of(windows_between([one], since, until)).closures
        assert all(c.end - c.start <= timedelta(minutes=30) for c in closures)


def test_a_window_that_comes_once() -> None:
    one = WindowSettings(
        start=datetime.fromisoformat("2026-10-25T01:00:00+02:00"),
        end=datetime.fromisoformat("2026-10-25T04:00:00+01:00"),
        title="cryostat",
    )
    (found,) = windows_between([one], at("2026-10-01"), at("2026-11-01"))
    assert found == Window(
        start=at("2026-10-24T23:00"), end=at("2026-10-25T03:00"), title="cryostat"
    )
    assert windows_between([one], at("2026-10-26"), at("2026-11-01")) == []


def test_closures_that_touch_are_one_and_quality_is_apart() -> None:
    calendar = Calendar.of(
        [
            Window(start=at("2026-11-02T10:00"), end=at("2026-11-02T11:00"), title="b"),
            Window(start=at("2026-11-02T08:00"), end=at("2026-11-02T10:00"), title="a"),
            Window(start=at("2026-11-02T12:00"), end=at("2026-11-02T12:00")),
            Window(start=at("2026-11-02T06:00"), end=at("2026-11-02T20:00"), kind="quality"),
        ]
    )
    (only,) = calendar.closures
    assert (only.start, only.end, only.title) == (
        at("2026-11-02T08:00"),
        at("2026-11-02T11:00"),
        "a and b",
    )
    assert calendar.free_s(at("2026-11-02T07:00")) == 3600
    assert calendar.free_s(at("2026-11-02T08:00")) == 0
    assert calendar.free_s(at("2026-11-02T11:00")) == float("inf")
    assert calendar.fit(at("2026-11-02T07:30"), 1800) == at("2026-11-02T07:30")
    assert calendar.fit(at("2026-11-02T07:30"), 1801) == at("2026-11-02T11:00")
    assert not calendar.is_provisional(at("2026-11-02T06:00"))
    assert calendar.is_provisional(at("2026-11-02T20:00"))
