"""How long a broker waits before it looks again, gives up or forgets."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STANDARD_PACING", "Pacing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """Pauses in seconds, and counts.

    stalled_s: before a transaction that the ledger did not take is tried again.
    doubtful_s: between two looks at a task in doubt.
    unread_looks: failed looks in a row after which a task is in doubt.
    watch_s: between two looks at calendars and calibrations.
    ended_s: how long a job stays in memory after its end; it may yet be asked for.
    checkpoint_events: events between two checkpoints of a broker that makes them.
    close_s: how long closing waits for what is open.
    """

    stalled_s: float = 1.0
    doubtful_s: float = 5.0
    unread_looks: int = 60
    watch_s: float = 30.0
    ended_s: float = 60.0
    checkpoint_events: int = 5000
    close_s: float = 5.0


STANDARD_PACING = Pacing()
