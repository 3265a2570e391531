"""Events as rows of a table and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.broker.core.events import Event, event_from_json, event_to_json

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
    body = event_to_json(event)
    text = json.dumps(body, separators=(",", ":"))
    return scope, at.timestamp(), event.kind, body.get("job"), body.get("tag"), text


def event_of(kind: str, body: str, at: float) -> tuple[Event, datetime]:
    """Rebuild an event and its time. Raises ``ValueError`` if the row makes no sense."""
    return event_from_json(kind, json.loads(body)), datetime.fromtimestamp(at, UTC)
