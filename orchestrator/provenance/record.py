"""The record of a run, from what happened in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from backends.api import Usage
from backends.secret_text import without_credentials
from orchestrator.broker.core.views import JobView, QpuTaskView
from orchestrator.config.site import Site
from orchestrator.identity import CallStage, IdentityError, UnitKey
from orchestrator.provenance.schema import (
    RecordedJob,
    RecordedStage,
    RecordedTask,
    RecordedUsage,
    RunRecord,
    RunUsage,
)
from orchestrator.provenance.values import json_value
from orchestrator.runs import StageSpan

__all__ = [
    "jobs_by_stage",
    "merged_stages",
    "recorded_job",
    "recorded_stage",
    "run_record",
    "site_document",
    "usage_of",
]

_SECRET_WORDS = ("token", "secret", "password", "credential", "apikey", "api_key")


def run_record(
    head: RunRecord, stages: Iterable[RecordedStage], jobs: Iterable[JobView]
) -> RunRecord:
    """Return ``head`` with its stages, from `merged_stages`, its jobs, and what they took."""
    jobs = list(jobs)
    recorded = [recorded_job(job) for job in jobs]
    of_stages = jobs_by_stage(recorded)
    usage = usage_of(jobs)
    return head.model_copy(
        update={
            "duration_s": _time_at_work(head),
            "usage": usage,
            "stages": tuple(_with_jobs(stage, of_stages.get(stage.key, ())) for stage in stages),
            "jobs": tuple(recorded),
        }
    )


def usage_of(jobs: Iterable[JobView]) -> RunUsage:
    """Return what jobs used in all, and on each QPU on which they ran."""
    per_qpu: dict[str, Usage] = {}
    for job in jobs:
        per_qpu.setdefault(job.qpu, Usage())
        for task in job.tasks:
            name = task.qpu or job.qpu
            per_qpu[name] = per_qpu.get(name, Usage()) + task.usage
    return RunUsage(
        total=_usage(sum(per_qpu.values(), start=Usage())),
        per_qpu={name: _usage(usage) for name, usage in per_qpu.items()},
    )


def recorded_stage(span: StageSpan) -> RecordedStage:
    """Return one stage run."""
    return RecordedStage(**_fields(span), duration_s=_seconds(span.started_at, span.ended_at))


def merged_stages(
    earlier: Iterable[RecordedStage], spans: Iterable[StageSpan]
) -> list[RecordedStage]:
    """Join the stages of all attempts by start; a cached stage shows as it once ran."""
    known = {(stage.key, stage.started_at): stage for stage in earlier}
    finished = {stage.key for stage in known.values() if stage.state == "completed"}
    for span in spans:
        if span.state != "cached" or span.key not in finished:
            known[span.key, span.started_at] = recorded_stage(span)
    return sorted(known.values(), key=lambda stage: stage.started_at)


def recorded_job(job: JobView) -> RecordedJob:
    """Return one quantum job, with its slices and how each was run."""
    facts = [task.metadata for task in job.tasks]
    tasks = tuple(_recorded_task(task) for task in job.tasks)
    values = _fields(job) | {"usage": _usage(job.usage), "tasks": tasks}
    return RecordedJob(
        **values,
        slices=len(job.tasks),
        methods=tuple(_distinct(facts, "method")),
        calibrations=tuple(_distinct(facts, "calibration_id")),
        waited_s=_seconds(job.submitted_at, job.started_at),
        duration_s=_seconds(job.started_at, job.ended_at),
        worked_s=None if job.ended_at is None else _worked_on_tasks_s(tasks),
    )


def _worked_on_tasks_s(tasks: Iterable[RecordedTask]) -> float | None:
    spans = [
        (task.ended_at - timedelta(seconds=task.worked_s), task.ended_at)
        for task in tasks
        if task.ended_at is not None and task.worked_s is not None
    ]
    return round(_covered_s(spans), 6) if spans else None


def _usage(usage: Usage) -> RecordedUsage:
    return RecordedUsage(
        qpu_seconds=usage.qpu_seconds,
        shots=usage.shots,
        circuits=usage.circuits,
        tasks=usage.tasks,
        charges={charge.unit: charge.amount for charge in (Usage() + usage).charges},
    )


def _fields(value: StageSpan | JobView | QpuTaskView) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def site_document(site: Site) -> dict[str, Any]:
    """Return a site as JSON; secrets show as where they are kept, never as what they are."""
    return {
        "name": site.name,
        "source": site.source,
        "state_dir": str(site.state_dir),
        "default_qpu": site.default_qpu,
        "default_compute": site.default_compute,
        "coupling": site.coupling,
        "labels": list(site.project_labels(None)),
        "keep_days": site.keep_days,
        "keep_gib": site.keep_gib,
        "batch": site.batch.model_dump(mode="json", exclude_defaults=True),
        "broker": json_value(site.broker) | {"ledger": _without_password(site.broker.ledger)},
        "choice": site.choice.model_dump(mode="json", exclude_defaults=True),
        "project": {name: json_value(project) for name, project in site.projects.items()},
        "link": {
            name: link.model_dump(mode="json", exclude_none=True)
            for name, link in site.links.items()
        },
        "compute": {
            name: _without_secrets(json_value(compute)) for name, compute in site.computes.items()
        },
        "qpu": {
            name: {
                "backend": qpu.backend,
                "uncertain": qpu.uncertain,
                "longest_task_s": qpu.longest_task_s,
                "schedule": json_value(qpu.schedule),
                "slurm": json_value(qpu.slurm),
                "environment": json_value(qpu.environment),
                "accepts": qpu.accepts,
                "jurisdictions": qpu.jurisdictions,
                "options": json_value(_without_secrets(qpu.options)),
            }
            for name, qpu in site.qpus.items()
        },
    }


def _without_password(ledger: Any) -> Any:
    if isinstance(ledger, str):
        shown, query, _ = ledger.partition("?")  # options of a driver may hold one, too
        return re.sub(r"(://[^/@]*?:).*@", r"\1(hidden)@", shown) + (query and "?(hidden)")
    return json_value(ledger)


def _without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Hide what looks like a secret, should somebody have written one into the file."""
    shown: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            shown[key] = _without_secrets(value)
        elif isinstance(value, str) and any(word in key.lower() for word in _SECRET_WORDS):
            shown[key] = "(hidden)"
        else:
            shown[key] = _without_urls_credentials(value)
    return shown


def _without_urls_credentials(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_urls_credentials(item) for item in value]
    return without_credentials(value) if isinstance(value, str) else value


def jobs_by_stage(jobs: Iterable[RecordedJob]) -> dict[str, list[RecordedJob]]:
    """Return jobs by where they were called: under their own key, and each one that has it inside.

    That of a unit of a fan-out counts for the unit and for its stage, whichever QPU it opened.
    """
    found: dict[str, list[RecordedJob]] = {}
    for job in jobs:
        stage = job.stage or ""
        for key in {stage, *_keys_of(CallStage.parse(stage).stage or stage)}:
            found.setdefault(key, []).append(job)
    return found


def _keys_of(key: str) -> Iterator[str]:
    """Yield a key, and for one of a unit those of the units and of the stage that spread it out."""
    while True:
        yield key
        try:
            key = UnitKey.parse(key).stage
        except IdentityError:
            return


def _with_jobs(stage: RecordedStage, own: Sequence[RecordedJob]) -> RecordedStage:
    """Add the Slurm job of a stage, how long it worked, and how long it waited."""
    slurm_job = stage.slurm_job
    if slurm_job is None:
        slurm_job = next((job.slurm_job for job in own if job.slurm_job is not None), None)
    return _with_waits(stage.model_copy(update={"slurm_job": slurm_job}), own)


def _with_waits(stage: RecordedStage, own: Sequence[RecordedJob]) -> RecordedStage:
    """Add how long a stage worked, and waited for a worker and for the tasks of its jobs."""
    start, end = stage.started_at, stage.ended_at
    if end is None:
        return stage
    ran_s = _seconds(stage.ran_from, stage.ran_until)
    waited_s = 0.0 if ran_s is None else (end - start).total_seconds() - ran_s
    spans = [(max(job.submitted_at, start), min(job.ended_at or end, end)) for job in own]
    worked_s = sum(task.worked_s or 0.0 for job in own for task in job.tasks)
    waited_s += max(0.0, _covered_s(spans) - worked_s)
    total_s = (end - start).total_seconds()
    waited_s = min(max(waited_s, 0.0), total_s)
    seconds = {"worked_s": round(total_s - waited_s, 6), "waited_s": round(waited_s, 6)}
    return stage.model_copy(update=seconds)


def _covered_s(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """Return the seconds that are in at least one of the spans."""
    total, reached = 0.0, None
    for start, end in sorted(spans):
        begin = start if reached is None else max(start, reached)
        if end > begin:
            total += (end - begin).total_seconds()
            reached = end
    return total


def _recorded_task(task: QpuTaskView) -> RecordedTask:
    took_s = _seconds(task.started_at, task.ended_at)
    values = _fields(task) | {"usage": _usage(task.usage), "metadata": json_value(task.metadata)}
    return RecordedTask(**values, duration_s=took_s, worked_s=_worked_s(task, took_s))


def _worked_s(task: QpuTaskView, took_s: float | None) -> float | None:
    """Return how long a task kept the QPU busy, without its time in the QPU's own queue.

    Nor does the time count in which nobody looked: the end of a task is when it was noticed, which
    may be long after its broker was killed.
    """
    if took_s is None:
        return None
    return min(took_s, max(task.usage.qpu_seconds, task.metadata.get("simulation_s") or 0.0))


def _time_at_work(head: RunRecord) -> float | None:
    """Sum the attempts without the time between them; a killed one counts as 0."""
    if head.ended_at is None:
        return None
    if not head.attempts:
        return _seconds(head.started_at, head.ended_at)
    known = [_seconds(attempt.started_at, attempt.ended_at) for attempt in head.attempts]
    return round(sum(seconds for seconds in known if seconds is not None), 6)


def _distinct(facts: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    """Collect a fact over tasks, lists flattened, each value once, in order."""
    distinct: dict[str, Any] = {}
    for metadata in facts:
        value = metadata.get(key)
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if item is not None:
                distinct.setdefault(str(item), json_value(item))
    return list(distinct.values())


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None:
        return None
    return round((end - start).total_seconds(), 6)
