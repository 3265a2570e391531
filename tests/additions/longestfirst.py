"""A policy that starts the longest job first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class LongestFirst:
    hour_s: float = 60.0
    longest_wait_s: float | None = 14_400.0
    name: ClassVar[str] = "longest-first"
    by_payer: ClassVar[bool] = False

    def job_score(self, job):
        return job.seconds - self.hour_s * job.submitted_s / 3600

    def account_score(self, payer, situation):
        return 0.0

    def terms(self, job, situation):
        return {"seconds": job.seconds}


not_a_policy = len
