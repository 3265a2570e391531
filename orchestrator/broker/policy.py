"""Which queued job goes next: pure ordering functions over the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.broker.views import JobId

__all__ = ["Policy", "QueuedJob", "fifo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """What a policy may look at. arrival: position in the order of submission."""

    job: JobId
    arrival: int


Policy = Callable[[Sequence[QueuedJob]], Sequence[QueuedJob]]


def fifo(queue: Sequence[QueuedJob]) -> Sequence[QueuedJob]:
    """First in, first out."""
    return sorted(queue, key=lambda queued: queued.arrival)
