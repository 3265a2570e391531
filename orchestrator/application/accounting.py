"""What runs used: Slurm's accounting joined with the ledger of quantum jobs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.accounting.entries import (
    AccountBooks,
    Period,
    QpuHold,
    QuantumUse,
    RunFacts,
    RunKey,
    TaskUse,
)
from orchestrator.accounting.join import GROUPS, Accounting, Grouping, join
from orchestrator.accounting.periods import period_of
from orchestrator.application.jobs import jobs_of
from orchestrator.application.register import registered_runs
from orchestrator.application.service import service_at
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.private import login_name
from orchestrator.config.site import Site
from orchestrator.slurm.owner import owner_of

if TYPE_CHECKING:
    from orchestrator.broker.core.views import JobView
    from orchestrator.slurm import Slurm, SlurmJob

__all__ = ["accounting", "quantum_use", "slurm_holds", "uses_slurm"]

# How long to wait for entries that Slurm's accounting lacks: it may be late by a second.
_SETTLE_S = 3.0
_PAUSE_S = 0.5
_PATIENCE_S = 5.0
_MOST_JOBS = 10_000  # that a broker service returns


def accounting(
    since: date | None = None,
    until: date | None = None,
    *,
    by: Grouping = "project",
    everyone: bool = False,
    site: Path | str | None = None,
) -> Accounting:
    """Join Slurm's accounting with the ledger: what runs used, and where the two differ.

    May block for some seconds, while entries of Slurm's accounting are late.

    Args:
        since: The day or instant from which on; None for the begin of this month. Days, and
            instants without a zone, are those of this machine's time zone.
        until: The last day, or the instant before which; None for now.
        by: What a row is for: ``project``, ``user``, ``flow``, ``coupling`` or ``run``.
        everyone: The runs of all users, as far as Slurm and the broker service show them to this
            one, else this user's alone.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        Rows, total and differences. A book that does not answer is named in the notes, and the
        figures that would come from it are None.

    Raises:
        ConfigError: The site file is wrong, or ``everyone`` is not this user's to see.
        PeriodError: The period ends before it begins.
        LedgerError: The ledger cannot be read.
        BrokerUnreachable: Neither the site's service nor Slurm's accounting answers.
        BrokerRefused: The service refuses, for want of a valid token, for example.
    """
    if by not in GROUPS:
        raise ConfigError(f"invalid grouping {by!r}: expected one of {', '.join(GROUPS)}")
    found = load_site(site)
    period = period_of(since, until, datetime.now(UTC))
    reading = _Reading(site=found, period=period, everyone=everyone)
    reading.read_ledger()
    reading.read_slurm()
    if reading.away is not None and reading.books.attempts is None:
        raise reading.away
    return join(reading.books, period, datetime.now(UTC), by, notes=reading.notes)


def uses_slurm(site: Site) -> bool:
    """Whether anything of a site is Slurm's."""
    computes, qpus = site.computes.values(), site.qpus.values()
    return any(one.kind == "slurm" for one in computes) or any(one.slurm for one in qpus)


def slurm_holds(site: Site) -> list[QpuHold]:
    """Return how Slurm's accounting names the QPUs that it grants."""
    holds = []
    for qpu in site.qpus.values():
        if qpu.slurm is not None:
            access = qpu.slurm
            holds.append(QpuHold(qpu=qpu.name, tres=access.tres, partition=access.partition))
    return holds


def quantum_use(job: JobView, user: str | None = None) -> QuantumUse:
    """Return what a quantum job used. user: whose it is, in place of the ledger's word."""
    from orchestrator.broker.core.budgets import is_charged

    bound = [*(task.slurm_job for task in job.tasks), job.slurm_job]
    return QuantumUse(
        job=job.id,
        run=job.run,
        user=job.user if user is None else user,
        qpu=job.qpu,
        project=job.project,
        submitted_at=job.submitted_at,
        flow=job.flow,
        coupling=job.coupling,
        slurm_jobs=tuple(dict.fromkeys(name for name in bound if name is not None)),
        tasks=tuple(
            TaskUse(
                started_at=task.started_at,
                ended_at=task.ended_at,
                counts=is_charged(task),
                qpu=task.qpu,
                slurm_job=task.slurm_job,
                qpu_seconds=task.usage.qpu_seconds,
                charges={charge.unit: charge.amount for charge in task.usage.charges},
            )
            for task in job.tasks
        ),
    )


@dataclass(slots=True)
class _Reading:
    """Reads both books, each as far as it answers."""

    site: Site
    period: Period
    everyone: bool
    user: str = field(default_factory=login_name)
    books: AccountBooks = field(init=False)
    notes: list[str] = field(default_factory=list)
    away: Exception | None = None  # why the ledger could not be read

    def __post_init__(self) -> None:
        registered = registered_runs(self.site.state_dir)
        allocations = {
            run.slurm_job: RunKey(self.user, run.id)  # the first of several runs in one
            for run in registered
            if run.slurm_job is not None and not run.is_driver_job
        }
        self.books = AccountBooks(
            user=self.user,
            attempts=None,
            quantum=None,
            runs=[
                RunFacts(
                    run=run.id,
                    user=self.user,
                    flow=run.flow,
                    coupling=run.coupling,
                    project=run.project,
                )
                for run in registered
            ],
            registered={self.user},
            told={self.user},
            allocations=allocations,
            holds=slurm_holds(self.site),
            state=owner_of(self.site.state_dir, "").state,
            is_shared=self.site.broker.url is not None,
        )

    def read_ledger(self) -> None:
        """Read the quantum jobs of the service, or of the ledger on this machine."""
        from orchestrator.broker.client.http import BrokerUnreachable

        try:
            quantum = self._quantum()
        except BrokerUnreachable as error:
            self.away = error
            self.notes.append(f"the ledger could not be read, what QPUs ran is missing: {error}")
            return
        bound = {
            slurm_job: RunKey(use.user or self.user, use.run)
            for use in reversed(quantum)
            for slurm_job in use.slurm_jobs
        }
        self.books = replace(
            self.books, quantum=quantum, allocations=bound | {**self.books.allocations}
        )

    def read_slurm(self) -> None:
        """Read Slurm's accounting, waiting a little for entries that must come."""
        from orchestrator.slurm import Slurm, SlurmRefused, SlurmUnavailable

        needed = uses_slurm(self.site)
        slurm = Slurm(patience_s=_PATIENCE_S if needed else 0.0)
        try:
            attempts = slurm.accounting(
                everyone=self.everyone, since=self.period.since, until=self.period.until
            )
            self.books = replace(self.books, attempts=attempts)
            self._settle(slurm)
        except (SlurmRefused, SlurmUnavailable) as error:
            self.books = replace(self.books, attempts=None)
            if needed:
                self.notes.append(
                    f"Slurm's accounting could not be read, what its jobs used is missing: {error}"
                )

    def _quantum(self) -> list[QuantumUse]:
        if self.site.broker.url is None:
            if self.everyone:
                self.notes.append(
                    "there is no broker service: quantum jobs of other users' runs are in their own "
                    "ledgers and are missing"
                )
            return [quantum_use(job) for job in jobs_of(self.site)]
        with closing(service_at(self.site, self.site.broker.url)) as service:
            asker = service.whoami()
            if self.everyone and asker.role != "operator":
                raise ConfigError(
                    f"the broker service knows {asker.user!r} as a user, not as an operator: the "
                    "runs of all users are for operators; leave out --all-users to see your own"
                )
            jobs = service.jobs()
        if len(jobs) >= _MOST_JOBS and jobs[0].submitted_at > self.period.since:
            self.notes.append(
                f"the broker service returned its latest {_MOST_JOBS:,} jobs: those submitted before "
                f"{jobs[0].submitted_at.isoformat(timespec='seconds')} are missing"
            )
        if self.everyone:
            self.books = replace(self.books, told=None)
            return [quantum_use(job) for job in jobs]
        # Whatever the service calls this user, the jobs are theirs.
        return [quantum_use(job, self.user) for job in jobs if job.user == asker.user]

    def _settle(self, slurm: Slurm) -> None:
        """Ask again for jobs that Slurm's accounting must have, until it does or for `_SETTLE_S`."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            listed = self._listed(slurm)
            queued = self._queued((listed or {}).values())
            missing = {*queued, *self._bound()} - {job.id for job in self.books.attempts or ()}
            if missing:
                late = slurm.accounting(ids=missing)
                self.books = replace(self.books, attempts=[*(self.books.attempts or ()), *late])
                missing -= {job.id for job in late}
            if not missing or time.monotonic() >= deadline:
                self.books = replace(
                    self.books,
                    queued=frozenset(missing & {*queued}),
                    listed=None if listed is None else frozenset(listed),
                )
                return
            time.sleep(_PAUSE_S)

    def _bound(self) -> Iterator[int]:
        """Yield the Slurm jobs in which quantum jobs of the period ran."""
        for use in self.books.quantum or ():
            times = [use.submitted_at, *(task.ended_at for task in use.tasks)]
            if any(at is not None and at in self.period for at in times):
                yield from use.slurm_jobs

    def _listed(self, slurm: Slurm) -> Mapping[int, SlurmJob] | None:
        """Return this user's jobs in the queue; None if the controller does not answer."""
        from orchestrator.slurm import SlurmRefused, SlurmUnavailable

        with suppress(SlurmRefused, SlurmUnavailable):  # it is away, not its accounting
            return slurm.jobs()
        return None

    def _queued(self, listed: Iterable[SlurmJob]) -> Sequence[int]:
        """Return the jobs of ours in the queue that have had nodes in the period."""
        return [
            job.id
            for job in listed
            if job.tag is not None
            and job.nodes
            and job.started_at is not None
            and job.started_at < self.period.until
            and (job.ended_at or self.period.until) > self.period.since
        ]
