"""What can be wrong with a ledger, and how a database's own words are quoted."""

from __future__ import annotations

__all__ = ["LedgerError", "LedgerHeld", "LedgerUnwritable", "database_words", "is_damage"]

# SQLite's words for a file that is not, or is no longer, what it wrote.
_DAMAGE = ("malformed", "not a database", "file is encrypted", "disk image")


class LedgerError(ValueError):
    """The ledger cannot be opened, read or written; nothing was changed in it."""


class LedgerUnwritable(LedgerError):
    """A transaction could not be written now; the same one may be tried again."""


class LedgerHeld(LedgerError):
    """Another broker serves this ledger."""


def database_words(error: Exception) -> str:
    """Return what the database itself said, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def is_damage(words: str) -> bool:
    """Whether SQLite says that the file itself is broken."""
    return any(word in words for word in _DAMAGE)
