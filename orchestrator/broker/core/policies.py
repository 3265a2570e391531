"""Scheduling policies: pure rules of how urgent each queued job is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol

from backends.suggestions import did_you_mean
from orchestrator.identity import JobId, Payer

__all__ = [
    "POLICIES",
    "FairShare",
    "Fifo",
    "Policy",
    "Priority",
    "QueuedJob",
    "Shortest",
    "Situation",
    "Weighted",
    "fair_factor",
    "make_policy",
]

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

    The urgency of a job is ``job_score + account_score``: one part that stays as it is while the
    job waits, and one that all jobs of a payer share, so that a queue stays sorted while time
    passes. Jobs that have waited longer than ``longest_wait_s`` go before all others, in order of
    arrival; None means that the order itself bounds the wait.

    A policy is a frozen dataclass whose fields are numbers, its parameters in the site file. It
    looks at no clock, file or random number. Packages register policies in the entry point group
    ``hpcqc.policies`` by their ``name``; ``by_payer = False`` says that account scores are all 0.
    """

    name: ClassVar[str]
    by_payer: ClassVar[bool] = False

    @property
    def longest_wait_s(self) -> float | None:
        """The starvation bound."""
        return None

    def job_score(self, job: QueuedJob) -> float:
        """Return the part of a job's urgency that does not change while it waits."""
        return 0.0

    def account_score(self, payer: Payer, situation: Situation) -> float:
        """Return the part that all jobs of a payer share now."""
        return 0.0

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return the urgency in the words of the formula, for people; equal sums, equal order."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Fifo(Policy):
    """``urgency = 0``: nothing but the order of arrival counts."""

    name: ClassVar[str] = "fifo"


@dataclass(frozen=True, kw_only=True)
class Priority(Policy):
    """``urgency = priority + waited / ageing_s``: the priorities that users or projects give, and age.

    A job that has waited ``ageing_s`` seconds longer makes up for one step of priority, so it
    is overtaken for at most ``ageing_s · (highest - its own priority)`` seconds.
    """

    ageing_s: float = 600.0

    name: ClassVar[str] = "priority"

    def job_score(self, job: QueuedJob) -> float:
        """Return the urgency, with age counted from the epoch."""
        return job.priority - job.submitted_s / self.ageing_s

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return priority and age."""
        waited_s = situation.now_s - job.submitted_s
        return {"priority": float(job.priority), "age": waited_s / self.ageing_s}


def fair_factor(payer: Payer, situation: Situation) -> float:
    """Return an account's fair-share factor, between 0 and 1; 1 for one that used nothing.

    ``F = 2^-((Up/Sp + Uu/Su) / 2)``: Up is the project's part of all use, Sp its part of all
    shares; Uu is the user's part of the project's use, Su one over its users. It is the factor of
    Slurm's multifactor plugin, ``2^(-U/S)``, taken at both levels with equal weight. Use decays
    with a half-life.
    """
    if situation.all_use <= 0:
        return 1.0
    share = situation.shares.get(payer.project, 1.0)
    if share <= 0:
        return 0.0
    of_project = situation.use_of_projects.get(payer.project)
    everything = situation.all_shares + (share if of_project is None else 0.0)
    used = (of_project or 0.0) / situation.all_use / (share / everything)
    of_user = 0.0
    if of_project:
        users = situation.users_of_projects[payer.project] + (payer not in situation.use)
        of_user = situation.use.get(payer, 0.0) / of_project * users
    factor: float = 2.0 ** (-(used + of_user) / 2)
    return factor


@dataclass(frozen=True, kw_only=True)
class FairShare(Policy):
    """``urgency = F(project, user)``; jobs of one account go in order of arrival.

    Accounts with little recent use go first. Use counts at once, so accounts that keep the queue
    full take turns in proportion to their shares.
    """

    longest_wait_s: float | None = 86_400.0

    name: ClassVar[str] = "fair-share"
    by_payer: ClassVar[bool] = True

    def account_score(self, payer: Payer, situation: Situation) -> float:
        """Return the fair-share factor."""
        return fair_factor(payer, situation)

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return the fair-share factor."""
        return {"fair-share": fair_factor(job.payer, situation)}


@dataclass(frozen=True, kw_only=True)
class Shortest(Policy):
    """``urgency = -predicted QPU-seconds left``; after ``longest_wait_s`` a job goes first.

    Of all orders this one has the least mean wait, as far as predictions are right.
    """

    longest_wait_s: float | None = 14_400.0

    name: ClassVar[str] = "shortest"

    def job_score(self, job: QueuedJob) -> float:
        """Return the urgency."""
        return -job.seconds

    def terms(self, job: QueuedJob, situation: Situation) -> dict[str, float]:
        """Return the seconds, as they count."""
        return {"shortness": -job.seconds}


@dataclass(frozen=True, kw_only=True)
class Weighted(Policy):
    """The default: ``urgency = age·waited/3600 s + shortness·h/(h + seconds) + fair_share·F + priority·p``.

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

    def job_score(self, job: QueuedJob) -> float:
        """Return all terms but fair share; age is counted from the epoch."""
        return (
            -self.age * job.submitted_s / 3600
            + self.shortness * self._shortness(job)
            + self.priority * job.priority
        )

    def account_score(self, payer: Payer, situation: Situation) -> float:
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

    def _shortness(self, job: QueuedJob) -> float:
        return self.half_size_s / (self.half_size_s + job.seconds)


POLICIES: Mapping[str, type[Any]] = {
    policy.name: policy for policy in (Fifo, Priority, FairShare, Shortest, Weighted)
}


def make_policy(
    name: str,
    settings: Mapping[str, Any] | None = None,
    policies: Mapping[str, type[Any]] = POLICIES,
) -> Policy:
    """Return one of the policies by name, its parameters as given.

    Raises ``ValueError`` that names the nearest policy or parameter.
    """
    if name not in policies:
        raise ValueError(f"unknown policy {name!r}{_nearest(name, list(policies))}")
    known = [field.name for field in fields(policies[name])]
    for key, value in (settings or {}).items():
        if key not in known:
            raise ValueError(f"policy {name} has no parameter {key!r}{_nearest(key, known)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        positive = key.endswith("_s")
        if not number or not math.isfinite(value) or value < 0:
            raise ValueError(f"policy {name}: {key} = {value!r}; give a number of at least 0")
        if positive and value == 0:
            raise ValueError(f"policy {name}: {key} = 0; give a number of seconds above 0")
    policy: Policy = policies[name](**(settings or {}))
    return policy


def _nearest(word: str, known: list[str]) -> str:
    listed = f"; there are: {', '.join(known)}" if known else "; it takes none"
    return did_you_mean(word, known) or listed
