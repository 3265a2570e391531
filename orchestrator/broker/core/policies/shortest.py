"""The shortest job first, with a bound on how long others may be kept waiting for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from orchestrator.broker.core.policies.interface import QueuedJob, Situation
from orchestrator.identity import Payer

__all__ = ["Shortest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortest:
    """``urgency = -predicted QPU-seconds left``; after ``longest_wait_s`` a job goes first.

    Of all orders this one has the least mean wait, as far as predictions are right.
    """

    longest_wait_s: float | None = 14_400.0

    name: ClassVar[str] = "shortest"
    by_payer: ClassVar[bool] = False

    def standing(self, job: QueuedJob) -> float:
        """Return the urgency."""
        return -job.seconds

    def merit(self, payer: Payer, situation: Situation) -> float:
        """Return 0."""
        del payer, situation
        return 0.0

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return the seconds, as they count."""
        del situation
        return {"shortness": -job.seconds}

    def settings(self) -> dict[str, Any]:
        """Return the parameters in force."""
        return asdict(self)
