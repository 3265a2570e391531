"""Whether a site vouches for what ran at some time (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from backends.api import QualityWindow

__all__ = ["is_provisional"]


def is_provisional(windows: Sequence[QualityWindow], at_s: float | None) -> bool:
    """Whether a time lies outside all quality windows, so that the site does not vouch for it.

    at_s: in seconds since the epoch; None if nobody knows when it ran.
    """
    if not windows or at_s is None:
        return False
    clock = datetime.fromtimestamp(at_s, UTC).strftime("%H:%M")
    return not any(_is_within(clock, window) for window in windows)


def _is_within(clock: str, window: QualityWindow) -> bool:
    if window.start <= window.end:
        return window.start <= clock < window.end
    return clock >= window.start or clock < window.end  # over midnight
