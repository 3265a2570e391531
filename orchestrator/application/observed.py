"""The stages of a run with their times, as a prediction takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from orchestrator.compute.worker_jobs import fits_worker
from orchestrator.config.errors import ConfigError
from orchestrator.couplings.replay import ObservedStage
from orchestrator.provenance.gantt import stage_name
from orchestrator.provenance.record import jobs_by_stage
from orchestrator.slurm.options import WorkerOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.provenance.schema import (
        RecordedJob,
        RecordedSlurmJob,
        RecordedStage,
        RunRecord,
    )
    from orchestrator.stages import StageNeeds

__all__ = ["JobLatencies", "job_latencies", "observed_stages"]

# A moment from which on a stage works, 1, or no longer, -1, with its key.
_Border = tuple[datetime, Literal[1, -1], str]
# A quantum stage of more tasks counts as one of so many longer ones.
_MOST_TASKS = 20
# A stage that began so soon had not waited for its worker.
_AT_ONCE_S = 0.5
# Slurm's accounting leaves out parts of seconds.
_LEFT_OUT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLatencies:
    """What worker jobs took beside their work, on average; None where a run does not show it.

    boot_s: from a job's start until a stage that waited for it ran. end_s: from the end of the last
    stage in it until its own.
    """

    boot_s: float | None = None
    end_s: float | None = None


def job_latencies(record: RunRecord) -> JobLatencies:
    """Return what the worker jobs of a run took beside their work."""
    last_end = max((s.ended_at for s in record.stages if s.ended_at is not None), default=None)
    boots_s, ends_s = [], []
    for job in () if record.slurm is None else record.slurm.jobs:
        ran = [s for s in record.stages if s.slurm_job == job.id and s.kind == "classical"]
        begins = [s.ran_from for s in ran if s.ran_from is not None]
        ends = [s.ran_until for s in ran if s.ran_until is not None]
        if job.purpose not in ("worker", "stage") or not begins or not ends:
            continue
        first = min(ran, key=lambda stage: stage.ran_from or stage.started_at)
        begun_at = first.ran_from or first.started_at
        waited_s = (begun_at - first.started_at).total_seconds()
        if job.started_at is not None and waited_s > _AT_ONCE_S:  # for this worker
            boots_s.append((min(begins) - job.started_at).total_seconds() - _LEFT_OUT_S)
        # One that stages share goes on until the run has ended, or its coupling retires it.
        over = max(ends) if job.purpose == "stage" else last_end
        if job.ended_at is None or over is None:
            continue
        after_s = (job.ended_at - over).total_seconds() + _LEFT_OUT_S
        if after_s >= -_LEFT_OUT_S:  # not one that was retired before
            ends_s.append(after_s)
    return JobLatencies(
        boot_s=max(fmean(boots_s), 0.0) if boots_s else None,
        end_s=max(fmean(ends_s), 0.0) if ends_s else None,
    )


def _first_on_workers(record: RunRecord) -> list[RecordedStage]:
    """Return the first classical stage on each worker."""
    ran = (s for s in record.stages if s.kind == "classical" and s.worker and s.ran_from)
    firsts: dict[str | None, RecordedStage] = {}
    for stage in sorted(ran, key=lambda stage: stage.ran_from or stage.started_at):
        firsts.setdefault(stage.worker, stage)
    return list(firsts.values())


def _cold_s(record: RunRecord) -> dict[str, float]:
    """Return by function what first stages took more than the longest later one.

    A function that came only first, or never, is left out: imports are its own, so that others do
    not tell what it needs.
    """
    firsts = _first_on_workers(record)
    later: dict[str, float] = {}
    for stage in record.stages:
        if stage.kind == "classical" and stage.ran_from and stage not in firsts:
            name = stage_name(stage.name)
            later[name] = max(later.get(name, 0.0), stage.worked_s or 0.0)
    more_s: dict[str, list[float]] = {}
    for stage in firsts:
        name = stage_name(stage.name)
        if name in later:
            more_s.setdefault(name, []).append((stage.worked_s or 0.0) - later[name])
    return {name: max(fmean(values), 0.0) for name, values in more_s.items()}


def observed_stages(
    record: RunRecord,
    needs: Mapping[str, StageNeeds],
    options: WorkerOptions,
    source: str,
    *,
    by_simulator: bool = False,
) -> tuple[list[ObservedStage], list[str]]:
    """Return the stages of a run with their times, and what is not known of these.

    Args:
        record: The run.
        needs: What stages ask for, by name of the function.
        options: Of the compute on which they are to run.
        source: How to call the run.
        by_simulator: Whether QPU tasks are work of the flow's machine.

    Raises:
        ConfigError: No stage of the run has ended.
    """
    of_stage, at_work_s = jobs_by_stage(record.jobs), _clock(record)
    shares_s = _shares_s(_quantum_borders(record, of_stage, by_simulator=by_simulator))
    received_s = _shares_s(_result_borders(record))
    cold_s, firsts = _cold_s(record), {stage.key for stage in _first_on_workers(record)}
    observed, notes = [], []
    for stage in record.stages:
        if stage.ended_at is None or stage.state not in ("completed", "cached"):
            continue
        name = stage_name(stage.name)
        ready_s = at_work_s(stage.started_at)
        known = needs.get(name)
        demand = None if known is None else known.demand
        most = 1 if demand is None else max(demand.nodes, demand.nodes_max)
        worked_s = max(stage.worked_s or 0.0, 0.0)
        jobs = of_stage.get(stage.key, ())
        on_qpu_s = sum(job.usage.qpu_seconds for job in jobs)
        quantum = stage.kind == "quantum"
        if quantum:
            seconds: float | dict[int, float] | None = shares_s[stage.key] + on_qpu_s
            if by_simulator:
                seconds = max(shares_s[stage.key], on_qpu_s)
        else:
            more_s = cold_s.get(name, 0.0)
            worked_s = max(worked_s - more_s, 0.0) if stage.key in firsts else worked_s
            seconds = _by_nodes(record, stage, worked_s, most, options)
        if seconds is None:
            seconds = worked_s
            notes.append(
                f"stage {name}: {source} does not say on how many nodes it ran, so its time counts "
                "as the same on any number"
            )
        observed.append(
            ObservedStage(
                name=name,
                kind=stage.kind,
                key=stage.key,
                ready_s=ready_s,
                ended_s=at_work_s(stage.ended_at),
                result_s=received_s.get(stage.key, 0.0),
                asked_s=None if stage.asked_at is None else at_work_s(stage.asked_at),
                after=stage.after,
                seconds=seconds,
                cold_s=0.0 if quantum else cold_s.get(name, 0.0),
                qpu_seconds=on_qpu_s if quantum else None,
                tasks=min(max(len(jobs), 1), _MOST_TASKS),
                nodes=1 if demand is None else demand.nodes,
                nodes_max=most,
                # One of several nodes may have them in an exclusive job.
                alone=demand is not None and not fits_worker(options, replace(demand, nodes=1)),
            )
        )
    if not observed:
        raise ConfigError(f"{source} of {record.target} has no stages, so nothing can be coupled")
    return observed, list(dict.fromkeys(notes))


def _quantum_borders(
    record: RunRecord,
    of_stage: Mapping[str, Sequence[RecordedJob]],
    *,
    by_simulator: bool,
) -> list[_Border]:
    """Return when quantum stages went on and paused, as they waited for their tasks.

    by_simulator: a task is work of the flow's process, and only its queue a pause.
    """
    borders: list[_Border] = []
    for stage in record.stages:
        begun, ended = stage.ran_from or stage.started_at, stage.ran_until or stage.ended_at
        if stage.kind != "quantum" or ended is None:
            continue
        borders += [(begun, 1, stage.key), (max(ended, begun), -1, stage.key)]
        for job in of_stage.get(stage.key, ()):
            resumed = job.started_at if by_simulator else job.ended_at
            paused = min(max(job.submitted_at, begun), ended)
            until = min(max(resumed or ended, paused), ended)
            borders += [(paused, -1, stage.key), (until, 1, stage.key)]
    return borders


def _result_borders(record: RunRecord) -> list[_Border]:
    """Return when the flow's process began and ended to receive results of classical stages."""
    borders: list[_Border] = []
    for stage in record.stages:
        if stage.kind == "classical" and stage.ran_until and stage.ended_at:
            begun = min(stage.ran_until, stage.ended_at)
            borders += [(begun, 1, stage.key), (stage.ended_at, -1, stage.key)]
    return borders


def _shares_s(borders: list[_Border]) -> dict[str, float]:
    """Return for how long each stage worked, by key.

    Those that overlapped had to share the flow's process, so each counts its part of that time.
    """
    borders.sort(key=lambda border: border[0])
    shares_s: dict[str, float] = {key: 0.0 for _, _, key in borders}
    depths: dict[str, int] = {}
    for (at, change, key), (until, _, _) in pairwise(borders):
        depths[key] = depths.get(key, 0) + change
        working = [one for one, depth in depths.items() if depth > 0]
        for one in working:
            shares_s[one] += (until - at).total_seconds() / len(working)
        depths = {one: depth for one, depth in depths.items() if depth}
    return shares_s


def _clock(record: RunRecord) -> Callable[[datetime], float]:
    """Return what tells the time from a run's first worker job, without that between its attempts.

    Workers are asked for as a run starts. Where none were, the time counts from that start.
    """
    begins = [one.started_at for one in record.attempts] or [record.started_at]
    ends = [one.ended_at for one in record.attempts] or [None]
    jobs = [] if record.slurm is None else record.slurm.jobs
    asked = [job.submitted_at for job in jobs if job.submitted_at and job.purpose == "worker"]
    first = min((stage.started_at for stage in record.stages), default=begins[0])
    begins[0] = max(begins[0], min([first, *asked]) if asked else begins[0])

    def at_work_s(at: datetime) -> float:
        return sum(
            max((min(at, end or at) - begin).total_seconds(), 0.0)
            for begin, end in zip(begins, ends, strict=True)
            if begin <= at
        )

    return at_work_s


def _by_nodes(
    record: RunRecord, stage: RecordedStage, worked_s: float, most: int, options: WorkerOptions
) -> float | dict[int, float] | None:
    """Return a classical stage's time, by nodes if its fan-out spreads over them.

    Units are taken to be alike, so that workers go through them in rounds; None where it is not
    known how many workers there were.
    """
    if stage.units is None or most == 1:
        return worked_s
    units, workers = max(stage.units[1], 1), _workers_of(record, stage)
    if workers is None:
        return None
    unit_s = worked_s / math.ceil(units / workers)
    return {n: unit_s * math.ceil(units / (n * options.process_count)) for n in range(1, most + 1)}


def _workers_of(record: RunRecord, stage: RecordedStage) -> int | None:
    """Return on how many worker processes the fan-out of a stage ran, None if not known."""
    compute = record.site.compute.get(stage.where or "", {})
    if compute.get("kind") != "slurm":
        known = compute.get("workers") or record.machine.get("cores")
        return known if isinstance(known, int) and compute else None
    stated = compute.get("options")
    try:
        processes = WorkerOptions.model_validate(stated).process_count
    except ValidationError:
        return None
    nodes = 0 if record.slurm is None else _nodes_of(record.slurm.jobs, stage)
    return max(round(nodes * processes), 1) if nodes else None


def _nodes_of(jobs: Sequence[RecordedSlurmJob], stage: RecordedStage) -> float:
    """Return on how many nodes a stage ran, on average; 0 if not known."""
    own = [job for job in jobs if job.id == stage.slurm_job and job.purpose == "stage"]
    if own:
        return own[-1].nodes
    begun, ended = stage.ran_from or stage.started_at, stage.ran_until or stage.ended_at
    if ended is None or ended <= begun:
        return 0
    held = 0.0
    for job in jobs:
        if job.purpose == "worker" and job.started_at is not None:
            until = min(job.ended_at or ended, ended)
            held += job.nodes * max((until - max(job.started_at, begun)).total_seconds(), 0.0)
    return held / (ended - begun).total_seconds()
