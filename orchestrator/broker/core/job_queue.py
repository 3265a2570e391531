"""The queue of one QPU, sorted by its policy while time passes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from sortedcontainers import SortedList

from orchestrator.broker.core.policies import Policy, QueuedJob, Situation
from orchestrator.identity import JobId, Payer

__all__ = ["JobQueue"]

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
