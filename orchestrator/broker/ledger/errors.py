"""What can be wrong with a ledger, and how a database's own words are quoted."""

from __future__ import annotations

__all__ = ["LedgerError", "database_words"]


class LedgerError(ValueError):
    """The ledger cannot be opened, read or written; nothing was changed in it."""


def database_words(error: Exception) -> str:
    """Return what the database itself said, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())
