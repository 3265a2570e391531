"""Priorities that users or projects give, and age, so that the lowest is reached too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from orchestrator.broker.core.policies.interface import QueuedJob, Situation
from orchestrator.identity import Payer

__all__ = ["Priority"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority:
    """``urgency = priority + waited / ageing_s``.

    A job that has waited ``ageing_s`` seconds longer makes up for one step of priority, so it
    is overtaken for at most ``ageing_s · (highest - its own priority)`` seconds.
    """

    ageing_s: float = 600.0

    name: ClassVar[str] = "priority"
    by_payer: ClassVar[bool] = False

    @property
    def longest_wait_s(self) -> float | None:
        """None: ageing bounds the wait."""
        return None

    def standing(self, job: QueuedJob) -> float:
        """Return the urgency, counted from the epoch."""
        return job.priority - job.submitted_s / self.ageing_s

    def merit(self, payer: Payer, situation: Situation) -> float:
        """Return 0."""
        del payer, situation
        return 0.0

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return priority and age."""
        waited_s = situation.now_s - job.submitted_s
        return {"priority": float(job.priority), "age": waited_s / self.ageing_s}

    def settings(self) -> dict[str, Any]:
        """Return the parameters in force."""
        return asdict(self)
