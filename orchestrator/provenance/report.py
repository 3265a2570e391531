"""The report of a run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.broker.core.views import QpuTaskState
from orchestrator.provenance.charts import Picture, draw_gantt, draw_plot
from orchestrator.provenance.gantt import stage_name, timeline_of
from orchestrator.provenance.markup import cell_text, duration_text, rendered
from orchestrator.provenance.outcome import Outcome, outcome_of
from orchestrator.provenance.schema import (
    RecordedCoupling,
    RecordedJob,
    RecordedStage,
    RunRecord,
)
from orchestrator.wording import counted

__all__ = [
    "Report",
    "draw_report",
    "leftover_lines",
    "ran_on",
    "report_html",
    "stage_rows",
    "stage_total",
    "usage_rows",
]

_MAX_ROWS = 200
_ALWAYS_SHOWN = ("job", "state", "waited", "took", "charged")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report. page: HTML; outcome: what it shows of the result; pictures: PNG or SVG by name."""

    page: bytes
    outcome: Outcome
    pictures: Mapping[str, bytes]


def draw_report(record: RunRecord, result: Any, notes: Iterable[str] = ()) -> Report:
    """Draw the pictures of a run and make its page. notes: shown beside the result."""
    outcome = record.outcome or outcome_of(result)
    timeline = timeline_of(record)
    notes = [*notes, *outcome.notes]
    html: dict[str, str] = {}
    files: dict[str, bytes] = {}
    draws: dict[str, Callable[[], Picture]] = {}
    if isinstance(outcome.plot, str):
        html["plot"], files["plot.svg"] = _image(outcome.plot), _bytes(outcome.plot)
    elif outcome.plot is not None:
        draws["plot"] = partial(draw_plot, outcome.plot)
    if timeline.lanes:
        draws["gantt"] = partial(draw_gantt, timeline)
    for name, draw in draws.items():
        try:
            picture = draw()
        except Exception as error:  # noqa: BLE001 - the data is the user's, the errors Matplotlib's
            notes.append(f"{name}.png could not be drawn: {type(error).__name__}: {error}")
        else:
            html[name], files[f"{name}.png"] = picture.svg, picture.png
    outcome = outcome.model_copy(update={"notes": tuple(notes)})
    page = report_html(record, outcome, html, outcome.rest(result))
    return Report(page=_bytes(page), outcome=outcome, pictures=files)


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _image(svg: str) -> str:
    """Return a flow's own SVG document as an image: inline, its scripts would run."""
    data = base64.b64encode(_bytes(svg)).decode("ascii")
    return f'<img src="data:image/svg+xml;base64,{data}" alt="">'


def report_html(
    record: RunRecord, outcome: Outcome, pictures: Mapping[str, str], rest: Any = None
) -> str:
    """Return the page. pictures: HTML of ``plot`` and ``gantt``. rest: of the result."""
    return rendered(
        "run.html",
        record=record,
        outcome=outcome,
        rest=rest,
        pictures=pictures,
        numbers=_numbers(record),
        usage=usage_rows(record),
        stages=stage_rows(record),
        leftovers=leftover_lines(record),
        coupling=_coupling(record),
        slurm_jobs=_slurm_jobs(record),
        jobs=_jobs(record),
        origin=_origin(record),
    )


def stage_rows(record: RunRecord) -> list[list[Any]]:
    """Return the stage table: name, kind, counts, seconds at work and waiting, places."""
    groups: dict[tuple[str, str], list[RecordedStage]] = {}
    for stage in record.stages:
        groups.setdefault((stage_name(stage.name), stage.kind), []).append(stage)
    rows = []
    for (name, kind), runs in groups.items():
        states = [run.state for run in runs]
        failed = sum(state in ("failed", "cancelled") for state in states)
        worked_s = round(sum(run.worked_s or 0.0 for run in runs), 3)
        waited_s = round(sum(run.waited_s or 0.0 for run in runs), 3)
        places = list(dict.fromkeys(run.where for run in runs if run.where))
        done, cached = states.count("completed"), states.count("cached")
        rows.append([name, kind, len(runs), done, cached, failed, worked_s, waited_s, places])
    return rows


def leftover_lines(record: RunRecord) -> list[str]:
    """Return a sentence for each stage whose programs left processes behind."""
    left: dict[str, int] = {}
    for stage in record.stages:
        if stage.leftover:
            name = stage_name(stage.name)
            left[name] = left.get(name, 0) + stage.leftover
    return [
        f"stage {name}: its programs left {counted(number, 'process', 'processes')} behind, and "
        "hpcqc ended them"
        for name, number in left.items()
    ]


def stage_total(record: RunRecord) -> int:
    """Return how many stages there are: one that was tried again, or anew by a later attempt, is one."""
    return len({stage.key for stage in record.stages})


def usage_rows(record: RunRecord) -> list[list[Any]]:
    """Return per QPU: name, quantum jobs, qpu_tasks, circuits, shots, QPU-seconds, charges."""
    rows = []
    for qpu, usage in record.usage.per_qpu.items():
        jobs = sum(job.qpu == qpu for job in record.jobs)
        charges = ", ".join(f"{cell_text(a)} {unit}" for unit, a in usage.charges.items())
        figures = [usage.tasks, usage.circuits, usage.shots, usage.qpu_seconds]
        rows.append([qpu, jobs, *figures, charges or None])
    return rows


def _numbers(record: RunRecord) -> dict[str, str]:
    total = record.usage.total
    numbers = {
        "duration": duration_text(record.duration_s),
        "stages": f"{stage_total(record):,}",
        "quantum jobs": f"{len(record.jobs):,}",
        "shots": f"{total.shots:,}",
        "QPU time": duration_text(total.qpu_seconds),
    }
    for unit, amount in total.charges.items():
        numbers[f"charged, {unit}"] = cell_text(amount)
    return numbers


def _jobs(record: RunRecord) -> dict[str, Any]:
    """Return columns, rows and notes of the table of quantum jobs."""
    jobs = record.jobs
    columns = ["job", "QPU", "kind", "state", "PUBs", "circuits", "qubits", "shots", "seed"]
    columns += ["slices", "method", "calibration", "waited", "took", "charged"]
    rows = [
        [
            *(job.id, ran_on(job), job.kind),
            f"{job.state}, provisional" if job.provisional else str(job.state),
            *(job.pubs, job.circuits, job.num_qubits, job.shots, job.seed),
            f"reused from {job.source}" if job.source else job.slices,
            job.methods or None,
            job.calibrations or None,
            duration_text(job.waited_s),
            # Records that earlier versions wrote lack the first.
            duration_text(job.duration_s if job.worked_s is None else job.worked_s),
            ", ".join(f"{cell_text(a)} {u}" for u, a in job.usage.charges.items()) or None,
        ]
        for job in jobs[:_MAX_ROWS]
    ]
    if not rows:
        return {"columns": (), "rows": (), "notes": ()}
    same, columns, rows = _without_constants(columns, rows)
    left = len(jobs) - len(rows)
    notes = [f"Each: {same}."] if same else []
    notes += [f"{left:,} more in run.json."] if left > 0 else []
    return {"columns": columns, "rows": rows, "notes": notes}


def ran_on(job: RecordedJob) -> str:
    """Return the QPU of a job; where another one took over, with the shots that ran on each."""
    if not job.failover:
        return job.qpu
    shots: dict[str, int] = {}
    for task in job.tasks:
        if task.state is QpuTaskState.COMPLETED:
            shots[task.qpu] = shots.get(task.qpu, 0) + task.shots
    parts = ", ".join(f"{number:,} shots on {qpu}" for qpu, number in shots.items())
    return f"{job.qpu}, failed over to {job.failover}: {parts or 'nothing ran'}"


def _without_constants(
    columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> tuple[str, list[str], list[list[Any]]]:
    """Take out the columns with one value in all rows, and say them in one line."""
    varied = [len({*map(str, column)}) > 1 for column in zip(*rows, strict=True)]
    kept = [i for i, name in enumerate(columns) if varied[i] or name in _ALWAYS_SHOWN]
    same = [
        f"{columns[i]} {cell_text(rows[0][i])}"
        for i in range(len(columns))
        if i not in kept and rows[0][i] is not None
    ]
    return ", ".join(same), [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _coupling(record: RunRecord) -> dict[str, Any] | None:
    """Return words, figures and predictions of the run's coupling; None where nothing is Slurm's."""
    coupling, slurm = record.coupling, record.slurm
    if coupling is None and slurm is None:
        return None
    chosen = coupling.predicted.get(coupling.chosen) if coupling is not None else None
    columns = ["figure", *(["predicted"] if chosen else []), "measured"]
    pairs = [
        ("makespan, s", chosen and chosen.makespan_s, slurm and slurm.makespan_s),
        ("node-seconds of workers", chosen and chosen.node_seconds, slurm and slurm.worker_node_s),
        ("QPU-seconds held", chosen and chosen.qpu_held_s, slurm and slurm.qpu_held_s),
        ("QPU-seconds used", chosen and chosen.qpu_used_s, record.usage.total.qpu_seconds),
    ]
    if slurm is not None:
        pairs += [
            ("node-seconds in all", chosen and chosen.all_node_s, slurm.node_s),
            ("core-seconds", None, slurm.core_s),
            ("GPU-seconds", None, slurm.gpu_s),
        ]
    rows = [[name, *([before] if chosen else []), after] for name, before, after in pairs]
    predicted = [
        [name, use.makespan_s, use.all_node_s, use.node_seconds, use.qpu_held_s, use.qpu_used_s]
        for name, use in (coupling.predicted.items() if coupling is not None else ())
    ]
    return {
        "words": _coupling_words(coupling),
        "columns": columns,
        "figures": rows,
        "predicted": predicted,
    }


def _coupling_words(coupling: RecordedCoupling | None) -> list[str]:
    if coupling is None:
        return []
    how = "chosen by auto" if coupling.automatic else "as stated"
    return [f"Coupling {coupling.chosen}, {how}.", *([coupling.reason] if coupling.reason else [])]


def _slurm_jobs(record: RunRecord) -> dict[str, Any]:
    """Return rows and notes of the table of Slurm jobs."""
    slurm = record.slurm
    if slurm is None:
        return {"rows": (), "notes": ()}
    stages: dict[int, list[str]] = {}
    for stage in record.stages:
        if stage.slurm_job is not None:
            stages.setdefault(stage.slurm_job, []).append(stage_name(stage.name))
    rows = [
        [
            *(job.id, job.purpose, job.state, job.partition),
            *(job.nodes, job.cpus, job.gpus or None, ", ".join(filter(None, job.qpus)) or None),
            duration_text(job.elapsed_s),
            list(dict.fromkeys(stages.get(job.id, ()))) or None,
        ]
        for job in slurm.jobs[:_MAX_ROWS]
    ]
    notes = []
    if len(slurm.jobs) > _MAX_ROWS:
        notes.append(f"the first {_MAX_ROWS} of {len(slurm.jobs):,} jobs")
    if not slurm.is_complete:
        notes.append(
            "Slurm's accounting did not have the end of each job yet when this was written; "
            "`hpcqc accounting --by run` has it"
        )
    return {"rows": rows, "notes": notes}


def _origin(record: RunRecord) -> dict[str, Any]:
    return {
        "site": f"{record.site.name} ({record.site.source})",
        **record.machine,
        "ledger in": record.site.state_dir,
        "attempts": len(record.attempts) or None,
    }
