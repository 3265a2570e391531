"""What a broker tells those who look on: one transaction of its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import LedgerError

__all__ = ["Commit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Events that were written in one transaction, or could not be, and then ``error`` says why."""

    events: tuple[ev.Event, ...]
    at: datetime
    duration_s: float
    error: LedgerError | None = None
