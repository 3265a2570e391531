"""The append-only record of everything a broker did; all else is folded from it."""

from orchestrator.broker.ledger.place import LedgerError, LedgerHeld, LedgerUnwritable
from orchestrator.broker.ledger.reader import JobFilter, Restored
from orchestrator.broker.ledger.store import Ledger
from orchestrator.broker.ledger.tables import SCHEMA_VERSION, Entries

__all__ = [
    "SCHEMA_VERSION",
    "Entries",
    "JobFilter",
    "Ledger",
    "LedgerError",
    "LedgerHeld",
    "LedgerUnwritable",
    "Restored",
]
