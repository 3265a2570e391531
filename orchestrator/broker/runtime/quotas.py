"""How much work and data each user and project may have at the broker at a time."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from orchestrator.broker.core.state import BrokerState
from orchestrator.config.broker_tables import BrokerLimits
from orchestrator.identity import JobId

__all__ = ["PerUserSemaphore", "Quotas", "StorageFull", "TooManyJobs"]

_DAY_S = 86_400.0


class TooManyJobs(ValueError):
    """A user or a project has as many open jobs as the site allows."""


class StorageFull(ValueError):
    """The ledger has no room for another payload or budget of this user, or of anybody."""


@dataclass(slots=True)
class _Use:
    """What one user, or one project, has at the broker."""

    jobs: set[JobId] = field(default_factory=set)
    stored: deque[tuple[float, int]] = field(default_factory=deque)  # times, bytes of payloads
    stored_bytes: int = 0
    budgets: deque[float] = field(default_factory=deque)  # times at which a run's budget was set

    def forget(self, before_s: float) -> None:
        while self.budgets and self.budgets[0] < before_s:
            self.budgets.popleft()
        while self.stored and self.stored[0][0] < before_s:
            self.stored_bytes -= self.stored.popleft()[1]


@dataclass(eq=False)
class Quotas:
    """Counts open jobs, and bytes and budgets stored within a day since the broker started."""

    limits: BrokerLimits
    state: Callable[[], BrokerState]
    free_bytes: Callable[[], int | None]  # where the ledger is, None if it is unknown
    _users: defaultdict[str, _Use] = field(default_factory=lambda: defaultdict(_Use))
    _projects: defaultdict[str, _Use] = field(default_factory=lambda: defaultdict(_Use))
    _arriving: Counter[JobId] = field(default_factory=Counter)

    def restore(self) -> None:
        """Count the jobs that an earlier broker left open."""
        for job, record in self.state().jobs.items():
            if record.ended_at is None:
                self._users[record.submitted.user].jobs.add(job)
                self._projects[record.submitted.project].jobs.add(job)

    def admit(self, job: JobId, user: str, project: str, size: int, now_s: float) -> None:
        """Count a job that is about to be stored, until `arrived` is called for it.

        A call repeated after a failed write counts once. Raises `TooManyJobs`, `StorageFull`.
        """
        self._check_reserve(size)
        limits, of_user, of_project = self.limits, self._users[user], self._projects[project]
        for who, use, most_jobs, most_bytes in (
            (f"user {user!r}", of_user, limits.open_jobs_per_user, limits.stored_per_user),
            (
                f"project {project!r}",
                of_project,
                limits.open_jobs_per_project,
                limits.stored_per_project,
            ),
        ):
            if job in use.jobs:
                continue
            if len(use.jobs) >= most_jobs:
                use.jobs = {one for one in use.jobs if self._is_open(one)}
            if len(use.jobs) >= most_jobs:
                raise TooManyJobs(
                    f"{who} has {len(use.jobs)} open jobs, as many as this site allows; send this "
                    "one when others have ended, or cancel some"
                )
            use.forget(now_s - _DAY_S)
            if use.stored_bytes + size > most_bytes:
                raise StorageFull(
                    f"{who} sent {use.stored_bytes} bytes within a day and this payload has {size}; "
                    f"this site stores at most {most_bytes}. Send it tomorrow, send smaller payloads, "
                    "or ask an operator to raise the limit"
                )
        for use in (of_user, of_project):
            if size and job not in use.jobs:
                use.stored.append((now_s, size))
                use.stored_bytes += size
            use.jobs.add(job)
        self._arriving[job] += 1

    def arrived(self, job: JobId) -> None:
        """Note that the state machine has the job, or that it is not stored after all."""
        self._arriving[job] -= 1
        if not self._arriving[job]:
            del self._arriving[job]

    def admit_run_budget(self, user: str, now_s: float) -> None:
        """Count a budget that a user sets for a run. Raises `StorageFull`."""
        self._check_reserve(0)
        use = self._users[user]
        use.forget(now_s - _DAY_S)
        if len(use.budgets) >= self.limits.run_budgets_per_user:
            raise StorageFull(
                f"user {user!r} set budgets of runs {len(use.budgets)} times within a day, as often "
                "as this site allows; set this one tomorrow, or run without a budget"
            )
        use.budgets.append(now_s)

    def _check_reserve(self, size: int) -> None:
        free = self.free_bytes()
        if free is not None and free - size < self.limits.reserve:
            raise StorageFull(
                "the broker's disk is nearly full, and its last bytes are for running jobs; nothing "
                "more is accepted until an operator makes room. Send this again later"
            )

    def _is_open(self, job: JobId) -> bool:
        if job in self._arriving:  # the state machine does not have it yet
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
