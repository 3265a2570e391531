"""The default: age, shortness, fair share and priority, each with a weight."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from orchestrator.broker.core.policies.fair_share import fair_factor
from orchestrator.broker.core.policies.interface import QueuedJob, Situation
from orchestrator.identity import Payer

__all__ = ["Weighted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """``urgency = age·waited/3600 s + shortness·h/(h + seconds) + fair_share·F + priority·p``.

    h is ``half_size_s``: a job of so many predicted QPU-seconds gets half the weight of
    shortness. F is the fair-share factor (`fair_factor`), p the job's priority. With the default
    weights a very short job goes before a very long one that came up to four hours earlier;
    after ``longest_wait_s`` any job goes first.
    """

    age: float = 1.0
    shortness: float = 4.0
    fair_share: float = 1.0
    priority: float = 1.0
    half_size_s: float = 30.0
    longest_wait_s: float | None = 14_400.0

    name: ClassVar[str] = "weighted"
    by_payer: ClassVar[bool] = True

    def standing(self, job: QueuedJob) -> float:
        """Return all terms but fair share; age is counted from the epoch."""
        return (
            -self.age * job.submitted_s / 3600
            + self.shortness * self._shortness(job)
            + self.priority * job.priority
        )

    def merit(self, payer: Payer, situation: Situation) -> float:
        """Return the term of fair share."""
        return self.fair_share * fair_factor(payer, situation)

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return each term with its weight."""
        return {
            "age": self.age * (situation.now_s - job.submitted_s) / 3600,
            "shortness": self.shortness * self._shortness(job),
            "fair-share": self.fair_share * fair_factor(job.payer, situation),
            "priority": self.priority * job.priority,
        }

    def settings(self) -> dict[str, Any]:
        """Return the parameters in force."""
        return asdict(self)

    def _shortness(self, job: QueuedJob) -> float:
        return self.half_size_s / (self.half_size_s + job.seconds)
