"""Scheduling policies, pure rules of how urgent each queued job is, and the queue that they sort."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol

from sortedcontainers import SortedList

from backends.suggestions import did_you_mean
from orchestrator.identity import JobId, Payer

__all__ = [
    "POLICIES",
    "FairShare",
    "Fifo",
    "JobQueue",
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

    now_s: since the epoch. use: decayed QPU-seconds by payer. shares: by project, 1 if not named.
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
    of_project = situation.use_of_projects.get(payer.project)
    everything = situation.all_shares + (share if of_project is None else 0.0)
    part = share / everything if share > 0 else 0.0
    if part == 0:  # none, or too small beside the others for a float
        return 0.0
    used = (of_project or 0.0) / situation.all_use / part
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


_EVERYBODY = Payer("", "")


class JobQueue:
    """Adds and removes in O(log n); gives the first k in order in O(k log accounts + accounts).

    Each payer's jobs are sorted by the part of their urgency that stays; the part that changes
    is the payer's own, so time never asks for sorting anew.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._jobs: dict[JobId, QueuedJob] = {}
        self._keys: dict[JobId, tuple[float, int, JobId]] = {}
        self._payers: dict[Payer, Any] = {}
        self._arrivals: Any = SortedList()
        self._sizes: Any = SortedList()
        self._leases: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: JobId) -> bool:
        return job in self._jobs

    def __getitem__(self, job: JobId) -> QueuedJob:
        return self._jobs[job]

    def put(self, queued: QueuedJob) -> None:
        """Add a job, or replace its entry."""
        self.discard(queued.job)
        key = (-self.policy.job_score(queued), queued.arrival, queued.job)
        self._jobs[queued.job] = queued
        self._keys[queued.job] = key
        payer = self._payer(queued)
        if payer not in self._payers:
            self._payers[payer] = SortedList()
        self._payers[payer].add(key)
        self._arrivals.add((queued.arrival, queued.job))
        self._sizes.add((queued.least_s, queued.arrival, queued.job))
        if queued.lease is not None:
            mine = self._leases.setdefault(queued.lease, SortedList())
            mine.add((queued.arrival, queued.job))

    def discard(self, job: JobId) -> None:
        """Take a job out, if it is in."""
        queued = self._jobs.pop(job, None)
        if queued is None:
            return
        payer = self._payer(queued)
        mine = self._payers[payer]
        mine.remove(self._keys.pop(job))
        if not mine:
            del self._payers[payer]
        self._arrivals.remove((queued.arrival, job))
        self._sizes.remove((queued.least_s, queued.arrival, job))
        if queued.lease is not None:
            of_lease = self._leases[queued.lease]
            of_lease.remove((queued.arrival, job))
            if not of_lease:
                del self._leases[queued.lease]

    def holds_lease(self, lease: str) -> bool:
        """Whether a job of this lease waits."""
        return lease in self._leases

    def of_lease(self, lease: str) -> list[QueuedJob]:
        """Return the jobs of a lease that wait, in order of arrival."""
        return [self._jobs[job] for _, job in self._leases.get(lease, ())]

    def shortest_s(self) -> float:
        """Return the seconds of the smallest task that waiting jobs could make."""
        least: float = self._sizes[0][0] if self._sizes else 0.0
        return least

    def ordered(self, situation: Situation) -> Iterator[QueuedJob]:
        """Yield the jobs in the order they should go; nothing may be added or removed meanwhile."""
        overdue: set[JobId] = set()
        bound_s = self.policy.longest_wait_s
        if bound_s is not None:
            for _, job in self._arrivals:
                # Jobs come in order of time, so behind the first in time all are.
                if situation.now_s - self._jobs[job].submitted_s <= bound_s:
                    break
                overdue.add(job)
                yield self._jobs[job]
        # An account's score is added to keys that are sorted already: the sum stays sorted.
        lines = [
            _shifted(keys, self.policy.account_score(payer, situation))
            for payer, keys in self._payers.items()
        ]
        for _, _, job in lines[0] if len(lines) == 1 else heapq.merge(*lines):
            if job not in overdue:
                yield self._jobs[job]

    def _payer(self, queued: QueuedJob) -> Payer:
        return queued.payer if self.policy.by_payer else _EVERYBODY


def _shifted(keys: Any, score: float) -> Iterator[tuple[float, int, JobId]]:
    return ((key - score, arrival, job) for key, arrival, job in keys)
