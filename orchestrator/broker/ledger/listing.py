"""Lists jobs: those that have ended from their rows, the others from the state they are in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from orchestrator.broker.ledger.checkpoints import read_ended, restore
from orchestrator.broker.ledger.errors import LedgerError
from orchestrator.broker.ledger.reader import Reader
from orchestrator.broker.ledger.tables import ended_jobs, events, snapshots
from orchestrator.broker.records import job_view
from orchestrator.broker.views import JobId, JobView

__all__ = ["Wanted", "find_job", "latest_jobs", "list_ended"]

_IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which jobs are asked for. since: those that ended then or later; limit: the latest N."""

    scope: str | None = None
    run: str | None = None
    project: str | None = None
    since: datetime | None = None
    limit: int | None = None


def list_ended(reader: Reader, wanted: Wanted) -> list[JobView]:
    """Return jobs that a checkpoint has moved out of the state, in order of submission."""
    query = sa.select(ended_jobs.c.id, ended_jobs.c.record)
    for column in ("scope", "run", "project"):
        value = getattr(wanted, column)
        if value is not None:
            query = query.where(ended_jobs.c[column] == value)
    if wanted.since is not None:
        query = query.where(ended_jobs.c.ended_at >= wanted.since.timestamp())
    query = query.order_by(ended_jobs.c.submitted_at.desc()).limit(wanted.limit)
    return _in_order([read_ended(reader, job, text).view for job, text in reader.rows(query)])


def latest_jobs(reader: Reader, run: str | None, limit: int | None) -> list[JobView]:
    """Return the latest jobs, of a run or of all, in order of submission."""
    if run is not None:
        return _in_order(_of_run(reader, run, limit))[-limit if limit else 0 :]
    if limit is None:
        found = {(view.run, view.id): view for view in list_ended(reader, Wanted())}
        for scope in reader.scopes():
            found |= {(view.run, view.id): view for view in _in_state(reader, scope).values()}
        return _in_order(list(found.values()))
    wanted: dict[str, list[JobId]] = {}
    for job, scope in _last_submissions(reader, limit):
        wanted.setdefault(scope, []).append(JobId(job))
    return _in_order(
        [view for scope, jobs in wanted.items() for view in _these(reader, scope, jobs)]
    )


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
        name = reader.place.name
        raise LedgerError(
            f"job {job!r} is ambiguous: {many}" if found else f"no job {job!r} in {name}"
        )
    scope, name = found.pop()
    return _these(reader, scope, [JobId(name)])[0]


def _of_run(reader: Reader, run: str, limit: int | None) -> list[JobView]:
    """A run's jobs are in its own scope, or in that of a service."""
    found = {view.id: view for view in list_ended(reader, Wanted(run=run, limit=limit))}
    services = [row[0] for row in reader.rows(sa.select(snapshots.c.scope))]
    for scope in dict.fromkeys([run, *services]):
        there = _in_state(reader, scope)
        found |= {job: view for job, view in there.items() if run in (scope, view.run)}
    return list(found.values())


def _these(reader: Reader, scope: str, jobs: list[JobId]) -> list[JobView]:
    """Return some jobs of a scope. A row of one that was taken up again is out of date."""
    there = _in_state(reader, scope)
    found = [there[job] for job in jobs if job in there]
    ended = [job for job in jobs if job not in there]
    for first in range(0, len(ended), _IDS_AT_ONCE):
        query = sa.select(ended_jobs.c.id, ended_jobs.c.record).where(
            ended_jobs.c.scope == scope, ended_jobs.c.id.in_(ended[first : first + _IDS_AT_ONCE])
        )
        found += [read_ended(reader, job, text).view for job, text in reader.rows(query)]
    return found


def _in_state(reader: Reader, scope: str) -> dict[JobId, JobView]:
    state = restore(reader, scope).state
    return {job: job_view(record, state.tasks) for job, record in state.jobs.items()}


def _last_submissions(reader: Reader, limit: int) -> list[tuple[str, str]]:
    # Written so that the index of all submissions does not tempt the planner to sort them.
    kind = events.c.kind.concat("") == "job-submitted"
    query = sa.select(events.c.job, events.c.scope).where(kind).order_by(events.c.seq.desc())
    return [(row[0], row[1]) for row in reader.rows(query.limit(limit))]


def _in_order(views: list[JobView]) -> list[JobView]:
    return sorted(views, key=lambda view: view.submitted_at)
