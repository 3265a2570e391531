"""Reads rows beside whoever writes, and says what is wrong with those that make no sense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.broker.core.events import Event
from orchestrator.broker.ledger.errors import LedgerError, database_words, is_damage
from orchestrator.broker.ledger.place import Place
from orchestrator.broker.ledger.rows import event_of
from orchestrator.broker.ledger.tables import events

__all__ = ["Numbered", "Reader"]

_PAGE = 5000
Numbered = tuple[int, Event, datetime]

# The oldest event of each scope, found by leaping from scope to scope through the index.
_SCOPES = sa.text(
    "WITH RECURSIVE leap(scope) AS (SELECT min(scope) FROM events UNION ALL "
    "SELECT (SELECT min(scope) FROM events WHERE events.scope > leap.scope) "
    "FROM leap WHERE leap.scope IS NOT NULL) "
    "SELECT scope, (SELECT min(seq) FROM events WHERE events.scope = leap.scope) AS first "
    "FROM leap WHERE scope IS NOT NULL ORDER BY first"
)


class Reader:
    """Asks a ledger's tables; each question is a transaction of its own."""

    def __init__(self, place: Place, engine: sa.Engine) -> None:
        """Take note; nothing is connected yet."""
        self.place, self._engine = place, engine

    @property
    def is_file(self) -> bool:
        """Whether SQLite answers."""
        return self.place.path is not None

    def rows(self, query: sa.Executable) -> Sequence[sa.Row[Any]]:
        """Return all rows. Raises `LedgerError`."""
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).all()
        except sa.exc.DBAPIError as error:
            words = database_words(error)
            advice = self.place.after_damage() if self.is_file and is_damage(words) else ""
            raise LedgerError(
                f"ledger {self.place.name} cannot be read: {words}. {advice}".strip()
            ) from error

    def events(self, scope: str, after: int = 0, kinds: Sequence[str] = ()) -> Iterator[Numbered]:
        """Yield a scope's events that were written after one, with their numbers, in order.

        kinds: those of these alone; none given means all.
        """
        of_kind = events.c.kind.in_(kinds) if kinds else sa.true()
        while True:
            query = (
                sa.select(events.c.seq, events.c.kind, events.c.body, events.c.at)
                .where(events.c.scope == scope, events.c.seq > after, of_kind)
                .order_by(events.c.seq)
                .limit(_PAGE)
            )
            page = self.rows(query)
            for seq, kind, body, at in page:
                try:
                    event, when = event_of(kind, body, at)
                except (ValueError, TypeError, KeyError) as error:
                    raise self.damage(f"event {seq}", error) from error
                yield seq, event, when
            if len(page) < _PAGE:
                return
            after = page[-1][0]

    def scopes(self) -> list[str]:
        """Return all scopes, the oldest first, without going through their events."""
        return [row[0] for row in self.rows(_SCOPES)]

    def starts_with(self, column: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
        """Return the condition that a column starts with a text, such that an index serves."""
        if self.is_file:
            return sa.and_(column >= text, column < text + "\U0010ffff")
        return column.startswith(text, autoescape=True)

    def damage(self, what: str, error: Exception) -> LedgerError:
        """Return the error to raise when stored data makes no sense."""
        return LedgerError(
            f"ledger {self.place.name} is damaged: {what} cannot be read "
            f"({type(error).__name__}: {error}). {self.place.after_damage()}"
        )
