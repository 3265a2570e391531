"""How long a broker waits before it looks again, gives up or forgets."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STANDARD_PACING", "Pacing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """Pauses in seconds, and counts."""

    stalled_s: float = 1.0  # before a transaction that the ledger did not take is tried again
    doubtful_s: float = 5.0  # between two looks at a task in doubt
    unread_looks: int = 60  # failed looks in a row after which a task is in doubt
    watch_s: float = 30.0  # between two looks at calendars and calibrations
    ended_s: float = 60.0  # that a job stays in memory after its end; it may yet be asked for
    checkpoint_events: int = 5000  # between two checkpoints of a broker that makes them
    close_s: float = 5.0  # that closing waits for what is open


STANDARD_PACING = Pacing()
