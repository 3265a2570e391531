"""Policies side by side, as tables, as a document and as an HTML page with plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

from orchestrator.provenance.charts import Picture, draw_plot
from orchestrator.provenance.markup import duration_text, rendered
from orchestrator.provenance.outcome import Plot, Series
from orchestrator.simulation.engine import SLOWDOWN_BOUND_S, Summary
from orchestrator.simulation.study import PolicyOutcome, Study

__all__ = ["figure_rows", "study_document", "study_pictures", "write_report"]

_Labelled = Sequence[tuple[str, PolicyOutcome]]

_POINTS = 200
_LEAST_WAIT_S = 0.1

_WORDS = (
    "Wait: from submission to the start of the first task with a part of the job.",
    (
        f"Slowdown: max(1, (end - submission) / max(T, {SLOWDOWN_BOUND_S:g} s)), T the seconds the job "
        "would take alone on an empty QPU, cut only where the machine's limits ask for it."
    ),
    (
        "Utilisation: time with a task at work, as part of the time between the first submission and "
        "the last end in which the QPU was not closed. Shooting: the same without the time that each "
        "task takes before its first shot, which slices repeat and coalesced jobs share."
    ),
    "Fairness: Jain's index (Σx)² / (n Σx²) over project and user, x = 1 / mean slowdown.",
    "Jobs come when the workload says, whatever became of earlier ones; budgets are not simulated.",
)


def figure_rows(outcomes: _Labelled) -> list[list[Any]]:
    """Return a row of each figure, its name first, then its value under each policy."""
    figures = [outcome.metrics for _, outcome in outcomes]
    rows: list[list[Any]] = [["jobs", *(f"{m.jobs:,}" for m in figures)]]
    if any(m.refused for m in figures):
        rows.append(["jobs refused", *(f"{m.refused:,}" for m in figures)])
    for name, key in (("mean", "mean"), ("median", "median"), ("95 %", "p95"), ("most", "most")):
        rows.append([f"wait, {name}", *(duration_text(getattr(m.wait_s, key)) for m in figures)])
    rows += [
        ["slowdown, mean", *(_times(m.slowdown.mean) for m in figures)],
        ["slowdown, 95 %", *(_times(m.slowdown.p95) for m in figures)],
        ["slowdown of short jobs, mean", *(_mean(m.short_slowdown) for m in figures)],
        ["slowdown of long jobs, mean", *(_mean(m.long_slowdown) for m in figures)],
        ["QPU utilisation", *(f"{m.utilisation:.1%}" for m in figures)],
        ["QPU shooting", *(f"{m.shooting:.1%}" for m in figures)],
        ["fairness (Jain)", *(f"{m.fairness:.3f}" for m in figures)],
    ]
    for unit in dict.fromkeys(unit for m in figures for unit in m.charges):
        rows.append([f"cost, {unit}", *(f"{m.charges.get(unit, 0.0):,.1f}" for m in figures)])
    rows += [
        ["makespan", *(duration_text(m.makespan_s) for m in figures)],
        ["QPU tasks", *(f"{m.tasks:,}" for m in figures)],
        ["leases", *(f"{m.leases:,}" for m in figures)],
        ["most jobs queued", *(f"{m.most_queued:,}" for m in figures)],
    ]
    return rows


def study_document(study: Study, qpu: str, outcomes: _Labelled) -> dict[str, Any]:
    """Return everything as JSON types."""
    return {
        "workload": {
            "name": study.workload.name,
            "jobs": len(study.workload.arrivals),
            "start": study.workload.start,
            "span_s": study.workload.span_s,
            "notes": list(study.workload.notes),
        },
        "qpu": qpu,
        "slice_s": study.rules.slice_s,
        "short_s": study.short_s,
        "slowdown_bound_s": SLOWDOWN_BOUND_S,
        "policies": [
            {
                "label": label,
                "policy": outcome.policy.name,
                "settings": outcome.settings,
                **asdict(outcome.metrics),
            }
            for label, outcome in outcomes
        ],
    }


def study_pictures(outcomes: _Labelled) -> dict[str, Picture]:
    """Return the plots: ``waits``, ``slowdowns`` and ``queue``."""
    waits = [(label, sorted(_waits(outcome))) for label, outcome in outcomes]
    plots = {
        "waits": Plot(
            title="How long jobs waited",
            x_label="wait in seconds",
            y_label="part of the jobs that waited no longer",
            series=tuple(_spread(label, values) for label, values in waits if values),
            x_scale="log",
        ),
        "slowdowns": Plot(
            title="Mean slowdown",
            x_label="",
            y_label="mean bounded slowdown",
            series=tuple(_slowdowns(outcomes)),
            y_scale="log",
        ),
        "queue": Plot(
            title="Jobs that had come and not ended",
            x_label="hours since the first job",
            y_label="jobs",
            series=tuple(_present(label, outcome) for label, outcome in outcomes),
        ),
    }
    return {name: draw_plot(plot) for name, plot in plots.items()}


def write_report(path: Path, study: Study, qpu: str, outcomes: _Labelled) -> None:
    """Write a page that needs nothing but itself. Raises ``OSError``."""
    workload = study.workload
    facts = {
        "jobs": f"{len(workload.arrivals):,}",
        "from": f"{workload.start:%Y-%m-%d %H:%M} UTC",
        "to": f"{workload.start + timedelta(seconds=workload.span_s):%Y-%m-%d %H:%M} UTC",
        "slices": duration_text(study.rules.slice_s) if study.rules.slice_s else "none",
        "short": f"up to {duration_text(study.short_s)} on the QPU",
        "closures": len(study.rules.calendar.closures) or None,
    }
    settings = [
        [label, outcome.policy.name, outcome.settings or None] for label, outcome in outcomes
    ]
    page = rendered(
        "study.html",
        title=f"{workload.name} on {qpu}",
        workload=workload,
        labels=["", *(label for label, _ in outcomes)],
        figures=figure_rows(outcomes),
        pictures=study_pictures(outcomes),
        words=_WORDS,
        workload_facts={k: v for k, v in facts.items() if v is not None},
        policies=settings,
    )
    path.write_text(page, encoding="utf-8")


def _times(value: float) -> str:
    return f"{value:,.2f}"


def _mean(values: Summary | None) -> str:
    return "-" if values is None else _times(values.mean)


def _waits(outcome: PolicyOutcome) -> list[float]:
    return [
        (job.started_at - job.submitted_at).total_seconds()
        for job in outcome.seen.jobs.values()
        if job.started_at is not None
    ]


def _spread(label: str, ordered: Sequence[float]) -> Series:
    """Return a cumulative distribution; waits of nothing are drawn at the left edge."""
    count = len(ordered)
    places = sorted({min(count - 1, round(i * (count - 1) / _POINTS)) for i in range(_POINTS + 1)})
    return Series(
        label=label,
        x=tuple(max(_LEAST_WAIT_S, ordered[place]) for place in places),
        y=tuple((place + 1) / count for place in places),
    )


def _slowdowns(outcomes: _Labelled) -> list[Series]:
    labels = tuple(label for label, _ in outcomes)
    series = []
    for name, key in (("short jobs", "short_slowdown"), ("long jobs", "long_slowdown")):
        values = [getattr(outcome.metrics, key) for _, outcome in outcomes]
        if any(value is not None for value in values):
            means = tuple(None if value is None else value.mean for value in values)
            series.append(Series(label=name, x=labels, y=means, style="points"))
    return series


def _present(label: str, outcome: PolicyOutcome) -> Series:
    jobs = outcome.seen.jobs.values()
    changes = sorted(
        [(job.submitted_at, 1) for job in jobs]
        + [(job.ended_at, -1) for job in jobs if job.ended_at is not None]
    )
    first, counts = changes[0][0], list(accumulate(change for _, change in changes))
    step = max(1, len(changes) // (5 * _POINTS))
    return Series(
        label=label,
        x=tuple((at - first).total_seconds() / 3600 for at, _ in changes[::step]),
        y=tuple(counts[::step]),
    )
