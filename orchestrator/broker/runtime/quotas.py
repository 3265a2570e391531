"""How much work and data each user and project may have at the broker at a time."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from orchestrator.broker.core.state import BrokerState
from orchestrator.config.site import BrokerLimits
from orchestrator.identity import JobId

__all__ = ["PerUserSemaphore", "Quotas", "StorageFull", "TooManyJobs"]

_DAY_S = 86_400.0


class TooManyJobs(ValueError):
    """A user or a project has as many open jobs as the site allows."""


class StorageFull(ValueError):
    """The ledger has no room for another payload or budget of this user, or of anybody."""


@dataclass(slots=True)
class _Holder:
    """What one user, or one project, has at the broker.

    stored: when and how many bytes; budgets: when one was set for a run.
    """

    jobs: set[JobId] = field(default_factory=set)
    stored: deque[tuple[float, int]] = field(default_factory=deque)
    stored_bytes: int = 0
    budgets: deque[float] = field(default_factory=deque)

    def forget(self, before_s: float) -> None:
        while self.budgets and self.budgets[0] < before_s:
            self.budgets.popleft()
        while self.stored and self.stored[0][0] < before_s:
            self.stored_bytes -= self.stored.popleft()[1]


@dataclass(eq=False)
class Quotas:
    """Counts open jobs, and bytes and budgets stored within a day since the broker started.

    state: returns the state machine as it is now; free_bytes: room where the ledger is, None where
    nobody knows.
    """

    limits: BrokerLimits
    state: Callable[[], BrokerState]
    free_bytes: Callable[[], int | None]
    _holders: dict[tuple[str, str], _Holder] = field(default_factory=dict)
    _arriving: Counter[JobId] = field(default_factory=Counter)

    def restore(self) -> None:
        """Count the jobs that an earlier broker left open."""
        for job, record in self.state().jobs.items():
            if record.ended_at is None:
                for _, holder in self._of(record.submitted.user, record.submitted.project):
                    holder.jobs.add(job)

    def admit(self, job: JobId, user: str, project: str, size: int, now_s: float) -> None:
        """Count a job that is about to be stored, until `arrived` is called for it.

        A call that is made again, since the ledger could not be written, is counted once. Raises
        `TooManyJobs`, `StorageFull`.
        """
        self._check_reserve(size)
        limits = self.limits
        for (kind, name), holder in self._of(user, project):
            whose, is_user = f"{kind} {name!r}", kind == "user"
            most = limits.open_jobs_per_user if is_user else limits.open_jobs_per_project
            if job in holder.jobs:
                continue
            if len(holder.jobs) >= most:
                holder.jobs = {one for one in holder.jobs if self._is_open(one)}
            if len(holder.jobs) >= most:
                raise TooManyJobs(
                    f"{whose} has {len(holder.jobs)} open jobs, as many as this site allows; hand this "
                    "one in when others have ended, or cancel some"
                )
            holder.forget(now_s - _DAY_S)
            most = limits.stored_per_user if is_user else limits.stored_per_project
            if holder.stored_bytes + size > most:
                raise StorageFull(
                    f"{whose} handed in {holder.stored_bytes} bytes within a day and this payload has "
                    f"{size}; this site stores at most {most}. Hand it in tomorrow, send smaller "
                    "payloads, or ask an operator to raise the limit"
                )
        for _, holder in self._of(user, project):
            if size and job not in holder.jobs:
                holder.stored.append((now_s, size))
                holder.stored_bytes += size
            holder.jobs.add(job)
        self._arriving[job] += 1

    def arrived(self, job: JobId) -> None:
        """Note that the job is known to the state machine, or is not stored after all."""
        self._arriving[job] -= 1
        if not self._arriving[job]:
            del self._arriving[job]

    def admit_run_budget(self, user: str, now_s: float) -> None:
        """Count a budget in that a user sets for a run, or raise `StorageFull`."""
        self._check_reserve(0)
        holder = self._of_user(user)[1]
        holder.forget(now_s - _DAY_S)
        if len(holder.budgets) >= self.limits.run_budgets_per_user:
            raise StorageFull(
                f"user {user!r} set budgets of runs {len(holder.budgets)} times within a day, as often as "
                "this site allows; set this one tomorrow, or run without a budget"
            )
        holder.budgets.append(now_s)

    def _check_reserve(self, size: int) -> None:
        free = self.free_bytes()
        if free is not None and free - size < self.limits.reserve:
            raise StorageFull(
                "the broker's disk is nearly full, and what is left is kept for jobs that run; nothing "
                "further is accepted until an operator makes room. Hand this in again later"
            )

    def _of(self, user: str, project: str) -> list[tuple[tuple[str, str], _Holder]]:
        whose = ("project", project)
        return [self._of_user(user), (whose, self._holders.setdefault(whose, _Holder()))]

    def _of_user(self, user: str) -> tuple[tuple[str, str], _Holder]:
        whose = ("user", user)
        return whose, self._holders.setdefault(whose, _Holder())

    def _is_open(self, job: JobId) -> bool:
        if job in self._arriving:  # the state machine does not know of it yet
            return True
        record = self.state().jobs.get(job)
        return record is not None and record.ended_at is None


@dataclass(eq=False)
class PerUserSemaphore:
    """A semaphore of ``most`` places for each user; further calls wait in order."""

    most: int = 1
    _users: dict[str, tuple[asyncio.Semaphore, int]] = field(default_factory=dict)

    @asynccontextmanager
    async def place(self, user: str) -> AsyncIterator[None]:
        """Wait for a place of a user's, and keep it."""
        places, calls = self._users.get(user) or (asyncio.Semaphore(self.most), 0)
        self._users[user] = places, calls + 1
        try:
            async with places:
                yield
        finally:
            calls = self._users[user][1] - 1
            self._users[user] = places, calls
            if not calls:
                del self._users[user]
