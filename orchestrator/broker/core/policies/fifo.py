"""First in, first out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.broker.core.policies.interface import QueuedJob, Situation
from orchestrator.identity import Payer

__all__ = ["Fifo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifo:
    """``urgency = 0``: nothing but the order of arrival counts."""

    name: ClassVar[str] = "fifo"
    by_payer: ClassVar[bool] = False

    @property
    def longest_wait_s(self) -> float | None:
        """None: nobody is ever overtaken."""
        return None

    def standing(self, job: QueuedJob) -> float:
        """Return 0."""
        del job
        return 0.0

    def merit(self, payer: Payer, situation: Situation) -> float:
        """Return 0."""
        del payer, situation
        return 0.0

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return no terms."""
        del job, situation
        return {}

    def settings(self) -> dict[str, Any]:
        """Return no parameters."""
        return {}
