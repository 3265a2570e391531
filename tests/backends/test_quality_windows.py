"""Whether a site vouches for what ran at some time."""

from __future__ import annotations

import pytest

from backends.api import QualityWindow
from backends.quality_windows import is_provisional

DAY = QualityWindow(start="08:00", end="18:00")
NIGHT = QualityWindow(start="22:00", end="02:00")


@pytest.mark.parametrize(
    ("hour", "windows", "expected"),
    [
        (8, [DAY], False),
        (17.99, [DAY], False),
        (18, [DAY], True),
        (7.99, [DAY], True),
        (23, [NIGHT], False),
        (1, [NIGHT], False),
        (2, [NIGHT], True),
        (12, [NIGHT], True),
        (12, [NIGHT, DAY], False),
        (12, [], False),
    ],
)
def test_times_of_the_day_are_in_utc(hour, windows, expected) -> None:
    assert is_provisional(windows, 20_000 * 86400.0 + hour * 3600.0) is expected


def test_a_time_that_nobody_knows_is_not_provisional() -> None:
    assert not is_provisional([DAY], None)
