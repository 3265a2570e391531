"""What a run takes in each coupling, and which one is best for it."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.application.coupling_classes import (
    NeededClass,
    needed_classes,
    queue_wait_s,
    too_loose,
)
from orchestrator.application.couplings import coupling_in_force
from orchestrator.application.earlier import earlier_run
from orchestrator.application.estimate import (
    dry_record,
    own_coupling_class,
    qpu_estimates,
    simulated_target,
)
from orchestrator.application.execution import Watcher
from orchestrator.application.node_wait import cluster_now, qpu_job_wait_s
from orchestrator.application.observed import job_latencies, observed_stages
from orchestrator.application.run import RunRequest, bound_request, undisturbed
from orchestrator.application.target import load_flow, stages_beside, target_of
from orchestrator.application.wait import expected_wait
from orchestrator.arguments import expect
from orchestrator.compute.api import DemandNotMet
from orchestrator.compute.kinds import check_fits_one_job, settings_in_force
from orchestrator.compute.worker_jobs import fits_worker, has_nodes
from orchestrator.config.environment import variable
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site, lookup
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.couplings.models import (
    ClusterModel,
    CouplingPrediction,
    FlowModel,
    QpuModel,
    StageModel,
    check_times,
    quantum_after_s,
)
from orchestrator.couplings.policies import COUPLINGS
from orchestrator.couplings.prediction import CouplingCannot, predict
from orchestrator.couplings.replay import (
    Preference,
    alike,
    recommend,
    score,
    stage_models,
)
from orchestrator.provenance.markup import duration_text
from orchestrator.provenance.schema import CouplingUse, RecordedCoupling
from orchestrator.slurm.options import WorkerOptions, worker_options
from orchestrator.slurm.qpu_jobs import access_resources
from orchestrator.wording import counted

if TYPE_CHECKING:
    from prefect import Flow

    from backends.coupling_class import CouplingClass
    from orchestrator.application.execution import RunPlan
    from orchestrator.provenance.schema import RunRecord

__all__ = [
    "CouplingPlan",
    "PlannedCoupling",
    "automatic",
    "classical_work_before",
    "make_plan",
    "plan",
    "predicted_uses",
    "reason_of",
    "stage_times",
]

# From submission to start of a job that holds a free QPU: about what an idle Slurm 22.05 took.
_QPU_START_S = 1.0
# What a worker takes more to leave while the run goes on: it hands on what it has, and is watched
# until it is idle.
_RETIRE_S = 2.0
_log = logging.getLogger(__name__)
_TIME = re.compile(r"(?P<name>[^=]+)=(?P<seconds>[0-9.]+)(@(?P<nodes>[1-9][0-9]*))?")
_Times = Mapping[str, float | Mapping[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCoupling:
    """What a run should take in a coupling.

    makespan_s: from the first submission of a Slurm job to the last end. node_seconds: of jobs with
    workers; qpu_node_seconds: of what Slurm allocates for the QPU alone. cost: by unit; ``node-h``
    are hours of all nodes, as `hpcqc accounting` counts them. The times are in seconds.
    """

    coupling: str
    makespan_s: float
    node_seconds: float
    qpu_node_seconds: float
    qpu_held_s: float
    qpu_used_s: float
    cost: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CouplingPlan:
    """What a run should take in each coupling.

    source: where the times of its stages come from. impossible: why the run cannot be coupled
    otherwise, by coupling. reason: why the recommended one is best. quantum_after_s: how long its
    classical stages take before its first quantum stage, None if it has none. coupling_class: of the
    QPU, None if it is not known. needed_classes: what its quantum stages need. warnings: a sentence for
    each stage that the QPU is coupled to too loosely. notes: what it rests on.
    """

    target: str
    parameters: Mapping[str, Any]
    source: str
    couplings: Sequence[PlannedCoupling]
    impossible: Mapping[str, str]
    recommended: str
    reason: str
    quantum_after_s: float | None
    coupling_class: CouplingClass | None
    needed_classes: Sequence[NeededClass]
    warnings: Sequence[str]
    notes: Sequence[str]


def plan(
    flow: Flow[..., Any] | str,
    parameters: Mapping[str, Any] | None = None,
    *,
    qpu: str | None = None,
    site: Path | str | None = None,
    settings: Sequence[str] = (),
    times: _Times | None = None,
    copies: int = 1,
    wait_s: float | None = None,
    prefer: Preference = "balanced",
) -> CouplingPlan:
    """Predict what a run takes in each coupling, and recommend one; nothing is submitted.

    The times of the stages are those of the flow's last completed run with these parameters at this
    site, on the same QPUs with the same options; without one, those of a dry run on simulators.

    Args:
        flow: A Prefect flow, ``"path/to/file.py:flow"``, or the name of a ready flow such as
            ``"flows.maxcut"``.
        parameters: Values of the flow's parameters by name.
        qpu: QPU of the quantum stages that pin none; None for ``HPCQC_QPU`` or the site's default.
        site: Path of a site file; None for the one that the usual lookup finds.
        settings: Changes to the site, such as ``"compute.cluster.options.nodes_max=4"``.
        times: Seconds by the name of a stage's function, which replace those; ``{nodes: seconds}``
            where the number of nodes matters.
        copies: How many such runs start at once.
        wait_s: How long a new job waits in Slurm's queue; None to take it from the jobs that are
            there now.
        prefer: ``"time"``, ``"nodes"``, or ``"balanced"`` for the least product of both, where the
            QPU counts as a node while it is held.

    Returns:
        Makespan, node-seconds, QPU-seconds and cost for each coupling, and the best one.

    Raises:
        ConfigError: No compute of the site can change its workers, or the site file is wrong.
        DryRunFailed: The flow fails on simulators.
        TargetError: The flow cannot be found or imported.
        ParameterError: A parameter is unknown, missing or of another type.
        SlurmUnavailable: Slurm does not answer.
    """
    expect("parameters", parameters, (Mapping, type(None)), "a mapping of names to values")
    request = RunRequest(
        flow=flow,
        parameters=dict(parameters or {}),
        qpu=qpu or variable("HPCQC_QPU"),
        site=site,
        settings=settings,
    )
    with undisturbed():
        return make_plan(request, times=times, copies=copies, wait_s=wait_s, prefer=prefer)


def make_plan(
    request: RunRequest,
    *,
    times: _Times | None = None,
    copies: int = 1,
    wait_s: float | None = None,
    prefer: Preference = "balanced",
    watcher: Watcher | None = None,
) -> CouplingPlan:
    """Predict a run in each coupling. Raises as `plan` does."""
    if copies < 1 or (wait_s is not None and wait_s < 0):
        raise ValueError(f"copies={copies}, wait_s={wait_s}; expected at least 1 and 0")
    site = load_site(request.site, request.settings)
    if not coupling_in_force(site, None):
        raise ConfigError(
            f"site {site.name!r} ({site.source}) has no compute of kind 'slurm', so there is nothing "
            "to choose: its workers stay during a run, and the broker shares the QPU"
        )
    record, is_dry = _observed_run(site, request, watcher or Watcher())
    source = "a dry run on this machine" if is_dry else f"run {record.id}"
    flow = load_flow(target_of(request.flow))
    run = _KnownRun(site=site, record=record, flow=flow, qpu=request.qpu, source=source)
    outcomes = _outcomes(run, times=times, copies=copies, wait_s=wait_s)
    found = outcomes.found
    charges, of_use = _charges(site, record, is_dry=is_dry)
    best = recommend(found, prefer)
    total = {unit: amount * copies for unit, amount in charges.items()}
    planned = [_planned(coupling, one, total) for coupling, one in found.items()]
    settings = site.qpus_for(request.qpu)[0]
    stated = own_coupling_class(settings)
    jobs = [job for job in record.jobs if job.qpu == settings.name]
    needed = needed_classes(record.stages, jobs, stages_beside(flow))
    wait_each_s = None if is_dry else queue_wait_s(jobs)
    return CouplingPlan(
        target=record.target,
        parameters=record.parameters,
        source=source,
        couplings=planned,
        impossible=outcomes.impossible,
        recommended=best,
        reason=reason_of(found, best, prefer),
        quantum_after_s=outcomes.quantum_after_s,
        coupling_class=stated,
        needed_classes=needed,
        warnings=too_loose(needed, settings.name, stated, wait_each_s),
        notes=[f"times of stages: {source}", *outcomes.notes, *of_use],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownRun:
    """A run that the times come from, and the site and QPU of one like it. source: how to call it."""

    site: Site
    record: RunRecord
    flow: Flow[..., Any]
    qpu: str | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcomes:
    """What each coupling leads to, or why a run cannot be coupled so."""

    found: Mapping[str, CouplingPrediction]
    impossible: Mapping[str, str]
    quantum_after_s: float | None
    notes: Sequence[str]


def _outcomes(
    run: _KnownRun, *, times: _Times | None = None, copies: int = 1, wait_s: float | None = None
) -> _Outcomes:
    """Predict a run like one that was, in each coupling."""
    site = run.site
    name, options = _workers(site)
    device, of_queue = _qpu(site, site.qpus_for(run.qpu)[0])
    needs = stages_beside(run.flow)
    observed, unsure = observed_stages(
        run.record,
        needs,
        options,
        run.source,
        by_simulator=device.tasks_at_once is None,
    )
    unknown = sorted(set(times or {}) - {stage.name for stage in observed})
    if unknown:
        raise ConfigError(
            f"the flow has no stage {unknown[0]!r}; it has: "
            f"{', '.join(sorted({stage.name for stage in observed}))}"
        )
    models = stage_models(observed, times)
    declared = tuple(
        fits_worker(options, one.demand)
        for one in needs.values()
        if one.kind == "classical" and (one.where or site.default_compute) == name
    )
    one_flow = replace(_flow_model(models, options), declared=declared)
    flows = [replace(one_flow, name=str(number)) for number in range(copies)]
    cluster, of_nodes = _cluster(options, site, run.record, run.source, wait_s)
    found: dict[str, CouplingPrediction] = {}
    impossible = _without_room(site, run.flow)
    for coupling in [name for name in COUPLINGS if name not in impossible]:
        try:
            found[coupling] = predict(flows, cluster, device, coupling)
        except CouplingCannot as error:
            impossible[coupling] = str(error)
    if not found:
        raise ConfigError(f"compute {name!r} cannot run it: {next(iter(impossible.values()))}")
    return _Outcomes(
        found=found,
        impossible=impossible,
        quantum_after_s=quantum_after_s(one_flow),
        notes=[*unsure, *of_nodes, *of_queue],
    )


def _without_room(site: Site, flow: Flow[..., Any]) -> dict[str, str]:
    """Return why the flow cannot run in one job, by the coupling that has one; empty if it can."""
    try:
        for name, needs in stages_beside(flow).items():
            if needs.kind == "classical":
                check_fits_one_job(name, needs.demand, settings_in_force(site, needs.where))
    except DemandNotMet as error:
        return {"exclusive": str(error)}
    return {}


def automatic(request: RunRequest) -> RecordedCoupling:
    """Choose the coupling of a run by prediction. Raises as `plan` does."""
    with undisturbed(), redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make_plan(request)
    return RecordedCoupling(
        chosen=made.recommended,
        automatic=True,
        reason=made.reason,
        quantum_after_s=made.quantum_after_s,
        predicted={one.coupling: _recorded(one) for one in made.couplings},
    )


def predicted_uses(
    plan: RunPlan, flow: Flow[..., Any], parameters: Any
) -> Mapping[str, CouplingUse]:
    """Return what a run should take in each coupling, by an earlier run like it.

    Args:
        plan: The run.
        flow: Its flow.
        parameters: Of the flow, as a record has them.

    Returns:
        By coupling; empty if no earlier run was like it, or if Slurm does not answer.
    """
    record = earlier_run(
        plan.site, plan.site_file, target=plan.target.text, parameters=parameters, qpu=plan.qpu
    )
    if record is None:
        return {}
    run = _KnownRun(
        site=plan.site, record=record, flow=flow, qpu=plan.qpu, source=f"run {record.id}"
    )
    try:
        found = _outcomes(run).found
    except (ValueError, RuntimeError) as error:  # the run itself does not need it
        _log.info("what the run should take cannot be predicted: %s", error)
        return {}
    return {name: _recorded(_planned(name, one, {})) for name, one in found.items()}


def _planned(
    coupling: str, one: CouplingPrediction, charges: Mapping[str, float]
) -> PlannedCoupling:
    return PlannedCoupling(
        coupling=coupling,
        makespan_s=round(one.accounted_s, 3),
        node_seconds=round(one.node_seconds, 3),
        qpu_node_seconds=round(one.qpu_node_s, 3),
        qpu_held_s=round(one.qpu_held_s, 3),
        qpu_used_s=round(one.qpu_used_s, 3),
        cost={"node-h": round(one.all_node_s / 3600, 6), **charges},
    )


def _recorded(one: PlannedCoupling) -> CouplingUse:
    return CouplingUse(
        makespan_s=one.makespan_s,
        node_seconds=one.node_seconds,
        qpu_node_seconds=one.qpu_node_seconds,
        qpu_held_s=one.qpu_held_s,
        qpu_used_s=one.qpu_used_s,
    )


def classical_work_before(plan: RunPlan, flow: Flow[..., Any], parameters: Any) -> float | None:
    """Return for how long a run will work before its first quantum stage, by an earlier run.

    Args:
        plan: The run.
        flow: Its flow.
        parameters: Of the flow, as a record has them.

    Returns:
        Seconds; None if no earlier run was like it, or that one had no quantum stage.
    """
    record = earlier_run(
        plan.site, plan.site_file, target=plan.target.text, parameters=parameters, qpu=plan.qpu
    )
    if record is None:
        return None
    _, options = _workers(plan.site)
    try:
        observed, _ = observed_stages(record, stages_beside(flow), options, "an earlier run")
    except ConfigError:  # none of its stages ended
        return None
    return quantum_after_s(_flow_model(stage_models(observed), options))


def _flow_model(stages: tuple[StageModel, ...], options: WorkerOptions) -> FlowModel:
    return FlowModel(
        name="run",
        stages=stages,
        nodes_min=options.nodes_min,
        nodes_max=options.nodes_max,
        stages_per_node=options.process_count,
    )


def stage_times(texts: Sequence[str]) -> dict[str, float | Mapping[int, float]]:
    """Read times as ``NAME=SECONDS`` or ``NAME=SECONDS@NODES``. Raises `ConfigError`.

    >>> stage_times(["S=54", "C=82@2", "C=78@3"])
    {'S': 54.0, 'C': {2: 82.0, 3: 78.0}}
    """
    found: dict[str, Any] = {}
    for text in texts:
        match = _TIME.fullmatch(text.strip())
        try:
            seconds = float(match["seconds"]) if match else -1.0
        except ValueError:
            seconds = -1.0
        if match is None or seconds < 0:
            raise ConfigError(f"--time {text!r}: expected NAME=SECONDS or NAME=SECONDS@NODES")
        name = match["name"].strip()
        if match["nodes"] is None:
            found[name] = seconds
        else:
            known = found.get(name)
            by_nodes = dict(known) if isinstance(known, Mapping) else {}
            found[name] = {**by_nodes, int(match["nodes"]): seconds}
    for name, known in found.items():
        if isinstance(known, Mapping):
            try:
                check_times(f"--time {name}", known)
            except ValueError as error:
                raise ConfigError(str(error)) from None
    return found


def _observed_run(site: Site, request: RunRequest, watcher: Watcher) -> tuple[RunRecord, bool]:
    """Return the record of an earlier run like this one, else of a dry run, and whether of that."""
    target, site_file = target_of(request.flow), lookup(request.site)
    record = earlier_run(
        site,
        None if site_file is None else site_file.absolute(),
        target=target.text,
        parameters=bound_request(request, load_flow(target)),
        qpu=request.qpu,
    )
    if record is not None:
        return record, False
    return dry_record(request, watcher), True


def _workers(site: Site) -> tuple[str, WorkerOptions]:
    """Return the compute whose workers a coupling changes: the default one, if it can."""
    names = sorted(site.computes, key=lambda name: name != site.default_compute)
    able = [name for name in names if settings_in_force(site, name).kind == "slurm"]
    return able[0], worker_options(settings_in_force(site, able[0]))


def _cluster(
    options: WorkerOptions, site: Site, record: RunRecord, source: str, wait_s: float | None
) -> tuple[ClusterModel, list[str]]:
    """Return the nodes as they are now, where a job takes as long to start and end as in a run."""
    cluster, notes = cluster_now(options, site.state_dir, wait_s)
    ran = job_latencies(record)
    known = [text for one, text in ((ran.boot_s, "start"), (ran.end_s, "end")) if one is not None]
    cluster = replace(
        cluster,
        retire_s=_RETIRE_S,
        boot_s=cluster.boot_s if ran.boot_s is None else ran.boot_s,
        end_s=cluster.end_s if ran.end_s is None else ran.end_s,
    )
    whence = f"as in {source}" if len(known) == 2 else "assumed"
    if len(known) == 1:
        whence = f"the {known[0]} as in {source}, the rest assumed"
    notes.append(
        f"a worker is ready {cluster.boot_s:.1f} s after its job's start, and the job ends "
        f"{cluster.end_s:.1f} s after its work ({whence})"
    )
    return cluster, notes


def _qpu(site: Site, settings: QpuSettings) -> tuple[QpuModel, list[str]]:
    target, _ = simulated_target(settings)
    wait = expected_wait(site, settings, target, 0.0, now=datetime.now(UTC))
    by_job = settings.slurm is not None
    ahead_s = wait.waiting_s or 0.0
    notes: list[str] = []
    if wait.waiting_s is None:
        why = (
            f"it is {wait.stopped}" if wait.stopped else counted(wait.jobs_ahead, "job") + " ahead"
        )
        notes.append(
            f"how long QPU {settings.name} is busy is not known ({why}); it counts as free now"
        )
    elif by_job and not ahead_s:  # the broker knows nothing of a job that has not used it yet
        ahead_s, notes = qpu_job_wait_s(settings, site.state_dir)
    start_s = _QPU_START_S if by_job else 0.0
    at_once = target.max_concurrent_tasks
    model = QpuModel(
        ahead_s=ahead_s,
        start_s=start_s,
        by_job=by_job,
        tasks_at_once=at_once,
        tells_queue=site.broker.url is not None,
        nodes=int(by_job),
        nodes_together=int(by_job and has_nodes(access_resources(settings))),
    )
    return model, notes


def _charges(
    site: Site, record: RunRecord, *, is_dry: bool
) -> tuple[Mapping[str, float], list[str]]:
    """Return what a run costs on its QPUs as far as it is known, and what that rests on."""
    if not is_dry:
        return record.usage.total.charges, []
    charges: dict[str, float] = {}
    notes: list[str] = []
    for one in qpu_estimates(site, record):
        notes += [f"QPU {one.qpu}: {note}" for note in one.notes]
        if one.charges is None:
            notes.append(
                f"QPU {one.qpu}: the times are those of the simulation, and the cost is without it"
            )
        for unit, amount in (one.charges or {}).items():
            charges[unit] = charges.get(unit, 0.0) + amount
    return charges, notes


def reason_of(found: Mapping[str, CouplingPrediction], best: str, prefer: Preference) -> str:
    """Return why a coupling is recommended, against the one that is next by what is preferred."""
    rest = [name for name in found if name != best]
    if not rest:
        return f"{best} is the only coupling in which the flow can run on these nodes"
    rival = min(rest, key=lambda name: score(found[name], prefer))
    what = {
        "time": "the shortest time",
        "nodes": "the fewest node-seconds",
        "balanced": "the least product of time and nodes, the QPU counting as one while it is held",
    }[prefer]
    is_alone = len(alike(found, prefer)) == 1
    has = f"has {what}" if is_alone else f"is within 1 % of {what}, with the fewest jobs"
    one, other = found[best], found[rival]
    took, other_took = duration_text(one.accounted_s), duration_text(other.accounted_s)
    if prefer != "balanced":
        return (
            f"{best} {has}: {took} and {one.all_node_s:.0f} node-seconds, "
            f"against {other_took} and {other.all_node_s:.0f} of {rival}"
        )
    return (
        f"{best} {has}: {took}, {one.node_seconds:.0f} node-seconds of workers and "
        f"{one.qpu_held_s:.1f} QPU-seconds held, against {other_took}, {other.node_seconds:.0f} "
        f"and {other.qpu_held_s:.1f} of {rival}"
    )
