"""The broker's state cut short: open work alone, and each job that has ended by itself."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import islice

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.codec import from_json, to_json
from orchestrator.broker.core.records import JobRecord, TaskRecord, job_view
from orchestrator.broker.core.state import BrokerState, Recorded
from orchestrator.broker.core.views import JobView
from orchestrator.identity import IdentityError, JobId, Tag

__all__ = ["EndedJob", "ended_job", "forgettable", "freeze", "missing_jobs", "thaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """A job that is over, with its tasks: all that is needed to show it or to take it up again."""

    job: JobRecord
    tasks: tuple[TaskRecord, ...]

    @property
    def view(self) -> JobView:
        """The job as the whole state would show it."""
        return job_view(self.job, {task.planned.tag: task for task in self.tasks})


def forgettable(state: BrokerState, *, before: datetime | None = None, most: int) -> list[JobId]:
    """Return ended jobs, oldest first; those that ended after ``before`` may be waited for."""
    over = (
        job
        for job, record in state.jobs.items()
        if record.ended_at is not None
        and record.state.is_final
        and (before is None or record.ended_at < before)
    )
    return list(islice(over, most))


def ended_job(state: BrokerState, job: JobId) -> EndedJob:
    """Return a job that is over as it stands by itself."""
    record = state.jobs[job]
    tags = dict.fromkeys(record.tasks)
    return EndedJob(job=record, tasks=tuple(state.tasks[tag] for tag in tags))


def freeze(state: BrokerState, without: list[JobId]) -> str:
    """Return the state as JSON, as it is once some jobs are forgotten."""
    rest = replace(state, jobs=dict(state.jobs), tasks=dict(state.tasks), past=dict(state.past))
    rest.forget(without)
    return to_json(rest, Recorded)


def thaw(text: str) -> BrokerState:
    """Return the state that `freeze` was given, less what it left out. Raises ``ValueError``."""
    recorded = from_json(Recorded, text)
    state = BrokerState(**{one.name: getattr(recorded, one.name) for one in fields(Recorded)})
    if not state.books.accounts:  # written before there were budgets
        state.books.take_over(state.past, state.jobs.values(), state.tasks)
    return state


def missing_jobs(state: BrokerState, event: ev.Event) -> list[JobId]:
    """Return the forgotten jobs that must be recalled before the event can be applied.

    A notice about a task may come long after the end of its jobs. Call it again when these
    are recalled: only they may know who else had a part in the task.
    """
    if isinstance(event, ev.JobResumed | ev.JobRefused | ev.JobFailedOver | ev.JobCancelRequested):
        return [] if event.job in state.jobs else [event.job]
    tag = getattr(event, "tag", None)
    if tag is None or isinstance(event, ev.TaskPlanned):
        return []
    task = state.tasks.get(tag)
    if task is not None:
        return [job for job in task.jobs if job not in state.jobs] if task.ended_at else []
    try:
        lead = Tag.parse(tag).job
    except IdentityError:
        return []  # there never was such a task
    return [] if lead in state.jobs else [lead]
