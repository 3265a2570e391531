"""Times as site files state them, such as ``90 min``, and as Slurm does."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

__all__ = ["Walltime", "duration", "duration_text"]

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_EXPECTED = (
    "a time above 0 in s, min, h or d, such as '90 min' or '2 d', or as Slurm's '1-12:00:00'"
)
_AMOUNT = re.compile(
    r"(\d+(?:\.\d+)?)\s*(?:(s|min|h|d)|(s)econds?|(min)utes?|(h)ours?|(d)ays?)\b\s*", re.ASCII
)
# Not "30:00" alone: to Slurm that is minutes and seconds, to others it is hours and minutes.
_CLOCK = re.compile(r"(?:(\d+)-|(?=\d+:\d\d:\d\d$))(\d+)(?::(\d\d))?(?::(\d\d))?", re.ASCII)
# What Slurm can store; it counts minutes in 32 bits.
_LONGEST = timedelta(days=365 * 100)


def duration(text: str) -> timedelta:
    """Return a time such as ``90 min`` or ``1 h 30 min``, or Slurm's ``1-12:00:00``.

    Units may be written out: ``3 days``. Raises ``ValueError``.

    >>> duration("1 h 30 min"), duration("1-12:00"), duration("0:10:00")
    (datetime.timedelta(seconds=5400), datetime.timedelta(days=1, seconds=43200), datetime.timedelta(seconds=600))
    """
    stated = text.strip()
    clock = _CLOCK.fullmatch(stated)
    try:
        if clock is not None:
            days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
            found = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        elif stated and not _AMOUNT.sub("", stated):
            found = timedelta(
                seconds=sum(float(n) * _UNITS["".join(u)] for n, *u in _AMOUNT.findall(stated))
            )
        else:
            found = timedelta()
    except (OverflowError, ValueError):
        found = timedelta()
    if not timedelta() < found <= _LONGEST:
        raise ValueError(f"{text!r:.80} is not valid: give {_EXPECTED}, and at most 100 years")
    return found


def duration_text(time: timedelta) -> str:
    """Return a time as `duration` reads it.

    >>> duration_text(timedelta(minutes=10)), duration_text(timedelta(seconds=90.5))
    ('10 min', '90.5 s')
    """
    seconds = time.total_seconds()
    return (
        f"{seconds / 60:.0f} min"
        if seconds % 60 == 0
        else f"{seconds:.6f}".rstrip("0").rstrip(".") + " s"
    )


def _duration_of(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    try:
        if not isinstance(value, str):
            raise TypeError
        return duration(value)
    except (TypeError, ValueError):
        raise PydanticCustomError("duration", _EXPECTED) from None


Walltime = Annotated[
    timedelta,
    BeforeValidator(_duration_of, json_schema_input_type=str),
    PlainSerializer(duration_text, return_type=str),
]
