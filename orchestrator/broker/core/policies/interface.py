"""What a scheduling policy is: a pure rule of how urgent each queued job is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

from orchestrator.identity import JobId, Payer

__all__ = ["Policy", "QueuedJob", "Situation", "urgency"]


_NOBODY = Payer("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """What a policy may look at.

    arrival: position in the order of submission. submitted_s: when, in seconds since the epoch.
    seconds: predicted QPU-seconds of what is left of the job. lease: of its loop, if any.
    least_s: seconds that the smallest task with a part of it takes on the clock.
    """

    job: JobId
    arrival: int
    payer: Payer = _NOBODY
    priority: int = 0
    submitted_s: float = 0.0
    seconds: float = 0.0
    least_s: float = 0.0
    kind: str = ""
    lease: str | None = None


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What all queued jobs have in common when a decision is made.

    now_s: seconds since the epoch. use: QPU-seconds of each payer, decayed with age.
    shares: what each project is entitled to, relative to the others; 1 if not named.
    """

    now_s: float
    use: Mapping[Payer, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def use_of_projects(self) -> Mapping[str, float]:
        """Sum of use by project."""
        sums: dict[str, float] = {}
        for payer, used in self.use.items():
            sums[payer.project] = sums.get(payer.project, 0.0) + used
        return sums

    @cached_property
    def users_of_projects(self) -> Mapping[str, int]:
        """How many users of each project used anything."""
        return Counter(payer.project for payer in self.use)

    @cached_property
    def all_use(self) -> float:
        """Sum of all use."""
        return sum(self.use.values())

    @cached_property
    def all_shares(self) -> float:
        """Sum of the shares of all projects that used anything."""
        return sum(self.shares.get(project, 1.0) for project in self.use_of_projects)


class Policy(Protocol):
    """An order of the queue: the most urgent job first, the earlier one where two are equal.

    Urgency is a sum of two parts, so that a queue can be kept sorted while time passes: one that
    stays as it is while a job waits, and one that all jobs of a payer share. Whoever has waited
    longer than ``longest_wait_s`` goes before all others, in order of arrival.

    A policy is a frozen dataclass whose fields are numbers, its parameters in the site file. It
    looks at no clock, file or random number. Packages register policies in the entry point group
    ``hpcqc.policies`` by their ``name``.
    """

    name: ClassVar[str]
    by_payer: ClassVar[bool]

    @property
    def longest_wait_s(self) -> float | None:
        """The starvation bound; None where the order itself is one."""
        ...

    def standing(self, job: QueuedJob) -> float:
        """Return the part of a job's urgency that does not change while it waits."""
        ...

    def merit(self, payer: Payer, situation: Situation) -> float:
        """Return the part that all jobs of a payer share now."""
        ...

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return the urgency in the words of the formula, for people; equal sums, equal order."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return the parameters in force."""
        ...


def urgency(policy: Policy, job: QueuedJob, situation: Situation) -> float:
    """Return how urgent a job is; only differences mean anything."""
    return policy.standing(job) + policy.merit(job.payer, situation)
