"""Events of iCalendar files: when they are, in every zone and over every change of clocks."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orchestrator.broker.runtime.calendar_files import closures_of_file
from orchestrator.broker.runtime.site_rules import check_schedules
from orchestrator.config.errors import ConfigError
from orchestrator.config.qpu_tables import QpuSettings, ScheduleSettings
from tests.errors import naming


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


EVENTS = {
    "weekly": "SUMMARY:Weekly\nDTSTART:20261102T080000Z\nDTEND:20261102T100000Z\n"
    "RRULE:FREQ=WEEKLY;COUNT=3\nEXDATE:20261109T080000Z",
    "whole day": "SUMMARY:Day off\nDTSTART;VALUE=DATE:20261104\nDTEND;VALUE=DATE:20261105",
    "cancelled": "SUMMARY:No\nSTATUS:CANCELLED\nDTSTART:20261105T080000Z\nDTEND:20261105T090000Z",
    "free": "SUMMARY:No\nTRANSP:TRANSPARENT\nDTSTART:20261105T080000Z\nDTEND:20261105T090000Z",
    "floating": "SUMMARY:Floating\nDTSTART:20261106T080000\nDTEND:20261106T090000",
    "zone": "SUMMARY:Prague\nDTSTART;TZID=Europe/Prague:20261024T230000\n"
    "DTEND;TZID=Europe/Prague:20261025T050000",
    "category": "SUMMARY:Tune-up\nCATEGORIES:Calibration\n"
    "DTSTART:20261107T080000Z\nDTEND:20261107T090000Z",
    "summary": "SUMMARY:recalibrate couplers\nDTSTART:20261108T080000Z\nDTEND:20261108T090000Z",
}


def calendar_file(folder: Path, *names: str) -> Path:
    events = "".join(
        f"BEGIN:VEVENT\nUID:{name}@site\nDTSTAMP:20260101T000000Z\n{EVENTS[name]}\nEND:VEVENT\n"
        for name in names
    )
    text = f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//site//EN\n{events}END:VCALENDAR\n"
    path = folder / "qpu.ics"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "weekly",
            [("02 08:00", "02 10:00", "maintenance"), ("16 08:00", "16 10:00", "maintenance")],
        ),
        ("whole day", [("04 00:00", "05 00:00", "maintenance")]),
        ("cancelled", []),
        ("free", []),
        ("floating", [("06 08:00", "06 09:00", "maintenance")]),
        ("zone", [("24 21:00", "25 04:00", "maintenance")]),
        ("category", [("07 08:00", "07 09:00", "calibration")]),
        ("summary", [("08 08:00", "08 09:00", "calibration")]),
    ],
)
def test_events_of_an_icalendar_file(
    name: str, expected: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    path = calendar_file(tmp_path, name)
    found = closures_of_file(path, at("2026-10-01"), at("2026-12-01"))
    told = [(f"{w.start:%d %H:%M}", f"{w.end:%d %H:%M}", w.kind) for w in sorted(found)]
    assert told == expected
    assert all(window.start.tzinfo is UTC for window in found)


def test_a_calendar_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, broken = tmp_path / "none.ics", tmp_path / "broken.ics"
    broken.write_text("this is no calendar")
    for path in (missing, broken):
        with pytest.raises(ConfigError, match=naming(path)):
            closures_of_file(path, at("2026-10-01"), at("2026-12-01"))


BERLIN = """BEGIN:VTIMEZONE
TZID:{name}
BEGIN:STANDARD
DTSTART:16010101T030000
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10
END:STANDARD
BEGIN:DAYLIGHT
DTSTART:16010101T020000
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3
END:DAYLIGHT
END:VTIMEZONE
"""


def written(folder: Path, *events: str, head: str = "", tail: str = "") -> Path:
    body = "".join(
        f"BEGIN:VEVENT\nUID:{n}@site\nDTSTAMP:20260101T000000Z\n{event}\nEND:VEVENT\n"
        for n, event in enumerate(events)
    )
    text = f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//site//EN\n{head}{body}{tail}END:VCALENDAR\n"
    path = folder / "q.ics"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    return path


def read(path: Path, since: str = "2026-01-01", until: str = "2027-01-01") -> list[tuple[str, str]]:
    found = sorted(closures_of_file(path, at(since), at(until)))
    return [(f"{w.start:%m-%d %H:%M}", f"{w.end:%m-%d %H:%M}") for w in found]


NIGHT = "DTSTART;TZID={zone}:20261024T230000\nDTEND;TZID={zone}:20261025T050000"


@pytest.mark.parametrize(
    ("zone", "defined"),
    [
        ("Europe/Berlin", False),
        ("W. Europe Standard Time", False),
        ('"W. Europe Standard Time"', False),
        ("/freeassociation.sourceforge.net/Europe/Berlin", False),
        ("/mozilla.org/20050126_1/Europe/Berlin", False),
        ("W. Europe Standard Time 1", True),
        ("Customized Time Zone", True),
        ("/example.org/custom", True),
        ("CEST", True),
        ("EST", True),
    ],
)
@pytest.mark.parametrize("first", ["zone", "event"])
def test_zones_are_known_by_their_names_or_by_the_file(
    zone: str, defined: bool, first: str, tmp_path: Path
) -> None:
    definition = BERLIN.format(name=zone) if defined else ""
    place = {"head" if first == "zone" else "tail": definition}
    path = written(tmp_path, NIGHT.format(zone=zone), **place)
    assert read(path) == [("10-24 21:00", "10-25 04:00")]


def test_a_zone_defined_in_one_file_is_not_known_in_another(tmp_path: Path) -> None:
    event = NIGHT.format(zone="Customized Time Zone")
    offset = BERLIN.format(name="Customized Time Zone")
    east = offset.replace("+0200", "+0900").replace("+0100", "+0900")
    assert read(written(tmp_path, event, head=offset)) == [("10-24 21:00", "10-25 04:00")]
    assert read(written(tmp_path, event, head=east)) == [("10-24 14:00", "10-24 20:00")]
    with pytest.raises(ConfigError, match=naming("Customized Time Zone")):
        read(written(tmp_path, event))


@pytest.mark.parametrize("name", ["DTSTART", "DTEND", "EXDATE", "RDATE", "RECURRENCE-ID"])
@pytest.mark.parametrize(
    "zone", ["CEST", "W. Europe Standard Time 1", "../../etc/passwd", "Europe"]
)
def test_a_zone_that_nobody_knows_is_refused_when_the_site_file_is_checked(
    name: str, zone: str, tmp_path: Path
) -> None:
    event = "SUMMARY:cryostat\nDTSTART:19990101T080000Z\nDTEND:19990101T090000Z\n"
    if name in ("DTSTART", "DTEND"):
        event = event.replace(f"{name}:1999", f"{name};TZID={zone}:1999").replace(
            "Z\nDTEND", "\nDTEND"
        )
        event = event.replace("090000Z", "090000" if name == "DTEND" else "090000Z")
    else:
        event += f"{name};TZID={zone}:19990102T080000"
    path = written(tmp_path, EVENTS["weekly"], event.strip())
    schedule = ScheduleSettings(calendar=path)
    with pytest.raises(ConfigError) as caught:
        check_schedules(
            [QpuSettings(name="q", backend="fake", schedule=schedule)], at("2026-11-01")
        )
    told = str(caught.value)
    assert told.startswith(f"{path}: event 'cryostat' names the time zone {zone!r}")
    assert "use an IANA name such as 'Europe/Prague'" in told


def test_a_default_zone_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, EVENTS["floating"], head="X-WR-TIMEZONE:CEST\n")
    with pytest.raises(ConfigError, match=naming("X-WR-TIMEZONE", "CEST")):
        read(path)


@pytest.mark.parametrize("zone", ["Europe/Prague", "Central Europe Standard Time"])
def test_whole_days_and_floating_times_are_in_the_zone_of_the_calendar(
    zone: str, tmp_path: Path
) -> None:
    days = "DTSTART;VALUE=DATE:20261025\nDTEND;VALUE=DATE:20261026"
    later = "DTSTART;VALUE=DATE:20260701\nRRULE:FREQ=MONTHLY;COUNT=2"
    head = f"X-WR-TIMEZONE:{zone}\n"
    path = written(tmp_path, days, later, EVENTS["floating"], EVENTS["summary"], head=head)
    assert read(path) == [
        ("06-30 22:00", "07-01 22:00"),
        ("07-31 22:00", "08-01 22:00"),
        ("10-24 22:00", "10-25 23:00"),  # a day of 25 hours
        ("11-06 07:00", "11-06 08:00"),
        ("11-08 08:00", "11-08 09:00"),
    ]


def test_a_whole_day_may_have_a_zone_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, "DTSTART;VALUE=DATE;TZID=America/New_York:20260704")
    assert read(path) == [("07-04 04:00", "07-05 04:00")]


START = "DTSTART;TZID=Europe/Berlin:20261024T220000\n"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (START + "DURATION:PT6H", ("10-24 20:00", "10-25 02:00")),
        (START + "DURATION:P1D", ("10-24 20:00", "10-25 21:00")),
        (START + "DURATION:PT24H", ("10-24 20:00", "10-25 20:00")),
        (START + "DURATION:P1DT6H", ("10-24 20:00", "10-26 03:00")),
        (START + "duration:P1W", ("10-24 20:00", "10-31 21:00")),
        (START + "DURATION:+PT90M", ("10-24 20:00", "10-24 21:30")),
        (START + "DURATION;X-A=b:PT1H", ("10-24 20:00", "10-24 21:00")),
        (START + "DURA\n TION:PT1\n\t2H", ("10-24 20:00", "10-25 08:00")),
        (START + "DTEND;TZID=America/New_York:20261024T180000", ("10-24 20:00", "10-24 22:00")),
        (START + "DTEND:20261025T000000Z", ("10-24 20:00", "10-25 00:00")),
        (
            "DTSTART;TZID=Europe/Berlin:20260329T023000\nDURATION:PT1H",
            ("03-29 01:30", "03-29 02:30"),
        ),
        (
            "DTSTART;TZID=Europe/Berlin:20261025T023000\nDURATION:PT1H",
            ("10-25 00:30", "10-25 01:30"),
        ),
        (
            "DTSTART;TZID=Europe/Berlin:20261101T080000Z\nDURATION:PT1H",
            ("11-01 08:00", "11-01 09:00"),
        ),
        ("DTSTART;VALUE=DATE:20261101T000000\nDURATION:P2D", ("11-01 00:00", "11-03 00:00")),
        ("DTSTART;VALUE=DATE:20261101\nDURATION:PT36H", ("11-01 00:00", "11-02 12:00")),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_hours_are_by_the_clock_and_days_by_the_calendar(
    event: str, expected: tuple[str, str], own: bool, tmp_path: Path
) -> None:
    """Over a change of clocks; in a zone of IANA, and in the same one defined by the file."""
    if own:
        event = event.replace("Europe/Berlin", "Own")
    path = written(tmp_path, event, head=BERLIN.format(name="Own"))
    assert read(path) == [expected]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("RRULE:FREQ=DAILY;UNTIL=20261026T130000Z", 3),  # 08:00 in New York is 12:00 UTC, or 13:00
        ("RRULE:FREQ=DAILY;UNTIL=20261026T115959Z", 2),
        ("RRULE:FREQ=DAILY;UNTIL=20261026T080000", 3),  # in the event's zone
        ("RRULE:FREQ=DAILY;UNTIL=20261026", 3),  # the whole day
        ("RRULE:FREQ=DAILY;COUNT=4\nEXDATE:20261025T120000Z", 3),
        ("RRULE:FREQ=DAILY;COUNT=4\nEXDATE;TZID=America/New_York:20261025T080000", 3),
        ("RRULE:FREQ=DAILY;COUNT=4\nEXDATE;VALUE=DATE:20261025", 3),
        ("RDATE;TZID=Europe/Berlin:20261025T140000", 2),
    ],
)
def test_rules_end_where_they_say(rule: str, expected: int, tmp_path: Path) -> None:
    start = "DTSTART;TZID=America/New_York:20261024T080000\nDURATION:PT1H\n"
    found = read(written(tmp_path, start + rule))
    assert len(found) == expected
    assert all(begin.endswith("12:00") or begin == "10-25 13:00" for begin, _ in found)


def test_whole_days_end_with_the_day_that_a_rule_names(tmp_path: Path) -> None:
    days = "DTSTART;VALUE=DATE:20261024\nRRULE:FREQ=DAILY;UNTIL="
    head = "X-WR-TIMEZONE:Europe/Prague\n"
    for until in ("20261026", "20261025T230000Z", "20261026T000000"):
        assert len(read(written(tmp_path, days + until, head=head))) == 3


def test_periods_of_their_own_end_by_the_clock(tmp_path: Path) -> None:
    event = (
        "DTSTART;TZID=Europe/Berlin:20261001T080000\nDURATION:PT1H\n"
        "RDATE;TZID=Europe/Berlin;VALUE=PERIOD:20261024T220000/PT6H,20261031T220000/20261101T000000"
    )
    assert read(written(tmp_path, event)) == [
        ("10-01 06:00", "10-01 07:00"),
        ("10-24 20:00", "10-25 02:00"),
        ("10-31 21:00", "10-31 23:00"),
    ]


def test_a_long_period_that_began_days_ago_closes(tmp_path: Path) -> None:
    event = (
        "DTSTART:20260101T000000Z\nDURATION:PT1H\n"
        "RDATE;VALUE=PERIOD:20261001T000000Z/20261020T000000Z"
    )
    now = datetime(2026, 10, 15, tzinfo=UTC)
    (found,) = closures_of_file(written(tmp_path, event), now, now + timedelta(days=1))
    assert (found.start.day, found.end.day) == (1, 20)


def test_an_occurrence_that_was_moved_or_cancelled(tmp_path: Path) -> None:
    series = "DTSTART;TZID=Europe/Berlin:20261017T220000\nDURATION:PT6H\nRRULE:FREQ=WEEKLY;COUNT=4"
    moved = (
        "RECURRENCE-ID;TZID=Europe/Berlin:20261024T220000\n"
        "DTSTART;TZID=Europe/Berlin:20261025T000000\nDURATION:PT4H"
    )
    gone = (
        "RECURRENCE-ID:20261031T210000Z\nSTATUS:CANCELLED\n"
        "DTSTART;TZID=Europe/Berlin:20261031T220000\nDURATION:PT6H"
    )
    path = written(tmp_path, series, moved, gone)
    path.write_bytes(path.read_bytes().replace(b"UID:1@", b"UID:0@").replace(b"UID:2@", b"UID:0@"))
    assert read(path) == [
        ("10-17 20:00", "10-18 02:00"),
        ("10-24 22:00", "10-25 02:00"),
        ("11-07 21:00", "11-08 03:00"),
    ]


def test_every_later_occurrence_may_be_moved(tmp_path: Path) -> None:
    series = "DTSTART:20261001T080000Z\nDURATION:PT1H\nRRULE:FREQ=DAILY;COUNT=4"
    moved = "RECURRENCE-ID;RANGE=THISANDFUTURE:20261003T080000Z\nDTSTART:20261003T090000Z\nDURATION:PT2H"
    path = written(tmp_path, series, moved)
    path.write_bytes(path.read_bytes().replace(b"UID:1@", b"UID:0@"))
    assert read(path) == [
        ("10-01 08:00", "10-01 09:00"),
        ("10-02 08:00", "10-02 09:00"),
        ("10-03 09:00", "10-03 11:00"),
        ("10-04 09:00", "10-04 11:00"),
    ]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("SUMMARY:x\nDTEND:20261101T080000Z", naming("x", "DTSTART")),
        ("SUMMARY:x\nDTSTART:20261101T080000Z\nDTEND:20261101T070000Z", naming("x", "ends")),
        ("DTSTART:20261101T080000Z\nDURATION:-PT1H", naming("0@site", "ends")),
        ("DTSTART;VALUE=DATE:20261102\nDTEND;VALUE=DATE:20261101", naming("0@site", "ends")),
        ("DTSTART;VALUE=DATE:20261102\nDTEND:20261103T080000Z", naming("0@site", "day")),
        (
            "DTSTART:20261101T080000Z\nDTEND:20261101T090000Z\nDURATION:PT1H",
            naming("0@site", "DTEND", "DURATION"),
        ),
        ("DTSTART:20261101T080000Z\nDTSTART:20261102T080000Z", naming("0@site", "DTSTART")),
        ("DTSTART:20261101T080000Z\nnonsense", "line"),
        ("DTSTART:20261301T080000Z", "20261301T080000Z"),
        ("DTSTART:20261101T080000Z\nDURATION:6H", "6H"),
        ("DTSTART:20261101T080000Z\nDURATION:PT", "PT"),
        ("DTSTART:20261101T080000Z\nDTEND:20261101T090000Z\nRRULE:FREQ=SECONDLY", "second"),
        ("DTSTART:20261101T080000Z\nDTEND:20261101T090000Z\nRRULE:FREQ=OFTEN", "OFTEN|frequency"),
        ("DTSTART:20261101T080000Z\nDTEND:20261101T090000Z\nEXRULE:FREQ=DAILY", "EXDATE"),
    ],
)
def test_an_event_that_cannot_be_used_is_refused_by_name(
    event: str, said: str, tmp_path: Path
) -> None:
    path = written(tmp_path, event)
    with pytest.raises(ConfigError, match=said) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = written(tmp_path, EVENTS["weekly"]).read_bytes()
    path = tmp_path / "damaged.ics"
    for data in (
        b"",
        b"\r\n",
        whole[: whole.index(b"END:VCALENDAR")],
        whole[: whole.index(b"RRULE")],
        whole.replace(b"END:VEVENT\r\n", b""),
        whole.replace(b"BEGIN:VEVENT\r\n", b""),
        whole[whole.index(b"BEGIN:VEVENT") : whole.index(b"END:VCALENDAR")],
        b"\0" + whole,
    ):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=naming(path)):
            read(path)


def test_marks_encodings_line_ends_and_several_calendars(tmp_path: Path) -> None:
    path = written(tmp_path, EVENTS["weekly"].replace("Weekly", "café"), EVENTS["category"])
    whole, expected = path.read_bytes(), read(path)
    assert len(expected) == 3
    for data in (
        b"\xef\xbb\xbf" + whole,
        whole.replace(b"\r\n", b"\n"),
        whole.decode().encode("latin-1"),
        whole.decode().encode("utf-16"),
        whole.replace(b"DTSTART", b"DT\r\n STA\r\n\tRT"),
    ):
        path.write_bytes(data)
        assert read(path) == expected
    path.write_bytes(whole + written(tmp_path, EVENTS["zone"]).read_bytes())
    assert read(path) == sorted([("10-24 21:00", "10-25 04:00"), *expected])


def test_a_cancelled_calendar_closes_nothing(tmp_path: Path) -> None:
    assert read(written(tmp_path, EVENTS["weekly"], head="METHOD:CANCEL\n")) == []


ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC",
         "America/Santiago", "Africa/Casablanca", "Pacific/Apia", "Atlantic/Azores")  # fmt: skip


def test_random_events_are_when_the_clocks_of_their_zone_say(tmp_path: Path) -> None:
    """Against an independent calculation: wall clocks counted on, each turned into UTC."""
    rng = random.Random(8)
    for _ in range(150):
        zone = ZoneInfo(rng.choice(ZONES))
        first = datetime.fromisoformat("2025-01-01") + timedelta(
            minutes=15 * rng.randrange(35040 * 2)
        )
        step, count = rng.choice([("DAILY", 1), ("WEEKLY", 7)]), rng.randrange(1, 40)
        dropped = set(rng.sample(range(count), k=min(count, rng.randrange(3))))
        days, minutes = rng.choice([(0, 45), (0, 600), (1, 0), (2, 90), (7, 0)])
        how = rng.choice(["DURATION", "DTEND", "UNTIL"])
        starts = [first + timedelta(days=step[1] * n) for n in range(count)]
        event = f"DTSTART;TZID={zone.key}:{first:%Y%m%dT%H%M%S}\n"
        if how == "DTEND":
            last = first + timedelta(days=days, minutes=minutes)
            event += f"DTEND;TZID={zone.key}:{last:%Y%m%dT%H%M%S}\n"
        else:
            event += f"DURATION:P{days}DT{minutes}M\n"
        if how == "UNTIL":
            event += f"RRULE:FREQ={step[0]};UNTIL={utc(starts[-1], zone):%Y%m%dT%H%M%SZ}\n"
        else:
            event += f"RRULE:FREQ={step[0]};COUNT={count}\n"
        for n in dropped:
            event += f"EXDATE;TZID={zone.key}:{starts[n]:%Y%m%dT%H%M%S}\n"
        if how == "DTEND":
            exact = utc(first + timedelta(days=days, minutes=minutes), zone) - utc(first, zone)
            expected = {(utc(s, zone), utc(s, zone) + exact) for s in starts}
        else:
            expected = {
                (utc(s, zone),
                 utc(s + timedelta(days=days), zone) + timedelta(minutes=minutes))
                for s in starts
            }  # fmt: skip
        expected -= {one for one in expected if one[0] in {utc(starts[n], zone) for n in dropped}}
        path = written(tmp_path, event.strip())
        found = closures_of_file(path, at("2024-01-01"), at("2030-01-01"))
        assert {(w.start, w.end) for w in found} == expected, event


def utc(naive: datetime, zone: ZoneInfo) -> datetime:
    return naive.replace(tzinfo=zone).astimezone(UTC)


def test_random_whole_days_begin_and_end_at_midnight(tmp_path: Path) -> None:
    rng = random.Random(9)
    for _ in range(60):
        zone = ZoneInfo(rng.choice(ZONES))
        first = date(2026, 1, 1) + timedelta(days=rng.randrange(365))
        length = rng.randrange(1, 9)
        ends = rng.choice([f"DTEND;VALUE=DATE:{first + timedelta(days=length):%Y%m%d}",
                           f"DURATION:P{length}D"])  # fmt: skip
        event = f"DTSTART;VALUE=DATE:{first:%Y%m%d}\n{ends}\nRRULE:FREQ=MONTHLY;INTERVAL=1;COUNT=1"
        path = written(tmp_path, event, head=f"X-WR-TIMEZONE:{zone.key}\n")
        (found,) = closures_of_file(path, at("2025-01-01"), at("2028-01-01"))
        expected = [
            utc(datetime.combine(day, time()), zone)
            for day in (first, first + timedelta(days=length))
        ]
        assert [found.start, found.end] == expected, event
