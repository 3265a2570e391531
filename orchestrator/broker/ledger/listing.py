"""Lists jobs: those that have ended from their rows, the others from the state they are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from orchestrator.broker.core.records import JobRecord, job_view
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger.place import LedgerError
from orchestrator.broker.ledger.reader import Reader
from orchestrator.broker.ledger.tables import ended_jobs, events, snapshots
from orchestrator.identity import JobId, is_scope_of

__all__ = ["JobFilter", "find_job", "latest_jobs", "list_ended"]

_IDS_AT_ONCE = 500
_Views = dict[tuple[str, JobId], JobView]  # by scope and id


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are asked for. limit: the latest N.

    since: those that ended then or later, or not yet; until: those submitted before.

    projects: jobs of these alone; None for those of all.
    """

    scope: str | None = None
    run: str | None = None
    projects: tuple[str, ...] | None = None
    qpu: str | None = None
    state: JobState | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None

    def includes(self, record: JobRecord) -> bool:
        """Whether a job that is in a state is asked for, whatever the limit."""
        submitted = record.submitted
        return (
            self.run in (None, submitted.run)
            and (self.projects is None or submitted.project in self.projects)
            and self.qpu in (None, submitted.qpu)
            and self.state in (None, record.state)
            and (self.since is None or record.ended_at is None or record.ended_at >= self.since)
            and (self.until is None or record.submitted_at < self.until)
        )


def list_ended(reader: Reader, wanted: JobFilter) -> list[JobView]:
    """Return jobs that a checkpoint has moved out of the state, in order of submission."""
    return _in_order(_ended(reader, wanted))


def latest_jobs(
    reader: Reader, run: str | None, limit: int | None, services: Sequence[str]
) -> list[JobView]:
    """Return the latest jobs, of a run or of all, in order of submission."""
    if run is not None:
        return _in_order(_of_run(reader, run, limit, services))[-limit if limit else 0 :]
    found: _Views = {}
    if limit is None:
        found |= _ended(reader, JobFilter())
        for scope in reader.runs():
            found |= _in_state(reader, scope)
        return _in_order(found)
    wanted: dict[str, list[JobId]] = {}
    for job, scope in _last_submissions(reader, limit):
        wanted.setdefault(scope, []).append(JobId(job))
    for scope, jobs in wanted.items():
        found |= _these(reader, scope, jobs)
    return _in_order(found)


def find_job(reader: Reader, job: str) -> JobView:
    """Return one job by its id or by the unambiguous start of it. Raises `LedgerError`."""
    query = sa.select(events.c.scope, events.c.job).where(
        events.c.kind == "job-submitted", reader.starts_with(events.c.job, job)
    )
    found = {(row[0], row[1]) for row in reader.rows(query.limit(_IDS_AT_ONCE))}
    exact = {pair for pair in found if pair[1] == job}
    found = exact or found
    if len(found) != 1:
        many = ", ".join(sorted(name for _, name in found)[:5])
        name = reader.name
        raise LedgerError(
            f"job {job!r} is ambiguous: {many}" if found else f"no job {job!r} in {name}"
        )
    scope, name = found.pop()
    (view,) = _these(reader, scope, [JobId(name)]).values()
    return view


def _ended(reader: Reader, wanted: JobFilter) -> _Views:
    query = sa.select(ended_jobs.c.scope, ended_jobs.c.id, ended_jobs.c.record)
    for column in ("scope", "run", "qpu"):
        value = getattr(wanted, column)
        if value is not None:
            query = query.where(ended_jobs.c[column] == value)
    if wanted.state is not None:
        query = query.where(ended_jobs.c.state == wanted.state.value)
    if wanted.projects is not None:
        query = query.where(ended_jobs.c.project.in_(wanted.projects))
    if wanted.since is not None:
        query = query.where(ended_jobs.c.ended_at >= wanted.since.timestamp())
    if wanted.until is not None:
        query = query.where(ended_jobs.c.submitted_at < wanted.until.timestamp())
    query = query.order_by(ended_jobs.c.submitted_at.desc()).limit(wanted.limit)
    return _views(reader, query)


def _of_run(reader: Reader, run: str, limit: int | None, services: Sequence[str]) -> _Views:
    """A run's jobs are in its own scope, in those of its workers, or in that of a service."""
    found = _ended(reader, JobFilter(run=run, limit=limit))
    shared = {row[0] for row in reader.rows(sa.select(snapshots.c.scope))}
    own = [scope for scope in reader.runs() if is_scope_of(scope, run)]
    for scope in own:
        if scope in shared:
            found |= _ended(reader, JobFilter(scope=scope, limit=limit))
        found |= _in_state(reader, scope)
    for scope in shared.union(services).difference(own):
        found |= _in_state(reader, scope, run)  # one taken up again counts as it is now
    return found


def _these(reader: Reader, scope: str, jobs: list[JobId]) -> _Views:
    """Return some jobs of a scope. A row of one that was taken up again is out of date."""
    there = _in_state(reader, scope)
    found = {(scope, job): there[scope, job] for job in jobs if (scope, job) in there}
    ended = [job for job in jobs if (scope, job) not in there]
    for first in range(0, len(ended), _IDS_AT_ONCE):
        found |= _views(
            reader,
            sa.select(ended_jobs.c.scope, ended_jobs.c.id, ended_jobs.c.record).where(
                ended_jobs.c.scope == scope,
                ended_jobs.c.id.in_(ended[first : first + _IDS_AT_ONCE]),
            ),
        )
    return found


def _views(reader: Reader, query: sa.Select[tuple[str, str, str]]) -> _Views:
    found = [(scope, reader.read_ended(job, text)) for scope, job, text in reader.rows(query)]
    # Jobs of one commit have one time; sorting by time leaves them in this order.
    found.sort(key=lambda pair: pair[1].job.arrival)
    return {(scope, ended.job.submitted.job): ended.view for scope, ended in found}


def _in_state(reader: Reader, scope: str, run: str | None = None) -> _Views:
    state = reader.restore(scope)
    return {
        (scope, job): job_view(record, state.tasks)
        for job, record in state.jobs.items()
        if run is None or record.submitted.run == run
    }


def _last_submissions(reader: Reader, limit: int) -> list[tuple[str, str]]:
    # Written so that the index of all submissions does not tempt the planner to sort them.
    kind = events.c.kind.concat("") == "job-submitted"
    query = sa.select(events.c.job, events.c.scope).where(kind).order_by(events.c.seq.desc())
    return [(row[0], row[1]) for row in reader.rows(query.limit(limit))]


def _in_order(views: _Views) -> list[JobView]:
    return sorted(views.values(), key=lambda view: view.submitted_at)
