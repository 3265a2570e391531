"""Events as rows of a table and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.broker.core.codec import to_json
from orchestrator.broker.core.events import Event, event_from_json

__all__ = ["EVENT_COLUMNS", "Entries", "event_of", "row_of"]

EVENT_COLUMNS = ("scope", "at", "kind", "job", "tag", "body")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """What one transaction adds. payloads: bytes by digest; results: bytes by tag."""

    events: Sequence[tuple[Event, datetime]]
    payloads: Mapping[str, bytes] = field(default_factory=dict)
    results: Mapping[str, bytes] = field(default_factory=dict)


def row_of(scope: str, event: Event, at: datetime) -> tuple[Any, ...]:
    """Return the values of `EVENT_COLUMNS`."""
    job, tag = getattr(event, "job", None), getattr(event, "tag", None)
    return scope, at.timestamp(), event.kind, job, tag, to_json(event)


def event_of(kind: str, body: str, at: float) -> tuple[Event, datetime]:
    """Rebuild an event and its time. Raises ``ValueError`` if the row makes no sense."""
    return event_from_json(kind, body), datetime.fromtimestamp(at, UTC)
