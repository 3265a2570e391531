"""What a run will use, from running it dry on simulators."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.application.coupling_classes import needed_classes, too_loose
from orchestrator.application.execution import Watcher
from orchestrator.application.qpus import coupling_class_of, dry_qpu, target_from_settings
from orchestrator.application.run import RunRequest, execute, undisturbed
from orchestrator.application.wait import ExpectedWait, expected_wait
from orchestrator.arguments import expect
from orchestrator.config.environment import variable
from orchestrator.config.loading import load_site
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.provenance.report import stage_rows
from orchestrator.wording import counted

if TYPE_CHECKING:
    from prefect import Flow

    from backends.api import Target
    from backends.coupling_class import CouplingClass
    from orchestrator.provenance.schema import RecordedJob, RecordedStage, RecordedUsage, RunRecord

__all__ = [
    "DryRunFailed",
    "Estimate",
    "QpuEstimate",
    "StageEstimate",
    "core_seconds",
    "dry_record",
    "dry_run",
    "estimate",
    "own_coupling_class",
    "qpu_estimates",
    "simulated_target",
    "stated_error",
]

_HELD_OUT = re.compile(r"(\d+(?:\.\d+)?) % mean error on rows held out")


class DryRunFailed(ValueError):
    """The flow failed on simulators already, so it would have failed on the QPU, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuEstimate:
    """What a run will use of one QPU.

    circuits: as the jobs count them. qpu_seconds, charges (by unit): None where the QPU has no
    timing model. error_percent: mean error of that model, None if it states none. wait: what
    keeps the first task. unseeded_jobs: sampler jobs without a seed. notes: what it rests on.
    """

    qpu: str
    backend: str
    profile: str | None
    jobs: int
    tasks: int
    circuits: int
    shots: int
    qpu_seconds: float | None
    charges: Mapping[str, float] | None
    error_percent: float | None
    wait: ExpectedWait
    unseeded_jobs: int
    notes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEstimate:
    """Stages of one name. dry_s: seconds that they took in the dry run, all together."""

    name: str
    kind: Literal["classical", "quantum"]
    runs: int
    dry_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will use. target: of the flow; core_hours, dry_run_s: as measured here."""

    target: str
    parameters: Mapping[str, Any]
    qpus: Sequence[QpuEstimate]
    stages: Sequence[StageEstimate]
    core_hours: float
    dry_run_s: float | None


def estimate(
    flow: Flow[..., Any] | str,
    parameters: Mapping[str, Any] | None = None,
    *,
    qpu: str | None = None,
    site: Path | str | None = None,
    settings: Sequence[str] = (),
    noise: bool = False,
    verbose: bool = False,
) -> Estimate:
    """Run a flow dry, on simulators, and return what a real run will use and cost.

    The dry run happens in a folder of its own, which is gone on return. No backend but the
    simulator is opened, and no job is submitted to a broker service.

    Args:
        flow: A Prefect flow, ``"path/to/file.py:flow"``, or the name of a ready flow such as
            ``"flows.maxcut"``.
        parameters: Values of the flow's parameters by name.
        qpu: QPU of the quantum stages that pin none; None for ``HPCQC_QPU`` or the site's default.
        site: Path of a site file; None for the one that the usual lookup finds.
        settings: Changes to the site, such as ``"qpu.vlq.profile=helmi"``.
        noise: Simulate the QPU's errors, too. It takes longer, and a flow whose course depends on
            its results takes the course that it takes on such a simulator.
        verbose: Leave Prefect's log of the dry run where it goes.

    Returns:
        Jobs, tasks, shots, QPU-seconds, cost and wait for each QPU; core-hours; stages.

    Raises:
        DryRunFailed: The flow fails on simulators, so it would fail on the QPU, too.
        TargetError: The flow cannot be found or imported.
        ParameterError: A parameter is unknown, missing or of another type.
        ConfigError: The site file is wrong.
        BrokerUnreachable: The site's broker service, asked for its queue, does not answer.
        KeyboardInterrupt: The dry run was interrupted.
    """
    expect("parameters", parameters, (Mapping, type(None)), "a mapping of names to values")
    request = RunRequest(
        flow=flow,
        parameters=dict(parameters or {}),
        qpu=qpu or variable("HPCQC_QPU"),
        site=site,
        settings=settings,
        noisy=noise,
        verbose=verbose,
    )
    with undisturbed():
        return dry_run(request, Watcher())


def dry_run(request: RunRequest, watcher: Watcher) -> Estimate:
    """Run a flow dry and return what a real run will use. Raises as `estimate` does."""
    site = load_site(request.site, request.settings)
    return _estimate(site, dry_record(request, watcher), noisy=request.noisy)


def dry_record(request: RunRequest, watcher: Watcher) -> RunRecord:
    """Run a flow dry and return the record of that. Raises as `estimate` does."""
    scratch = Path(tempfile.mkdtemp(prefix="hpcqc-estimate-"))
    try:
        dry = replace(
            request, coupling=None, out=scratch / "run", run_id=f"dry-{scratch.name[-8:]}"
        )
        result = execute(replace(dry, scratch=scratch), watcher)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    record = result.record
    if result.error is not None:
        place = f" ({result.place})" if result.place else ""
        raise DryRunFailed(f"the dry run of {record.target} failed: {record.error}{place}")
    return record


def core_seconds(stages: Sequence[RecordedStage], workers: int) -> float:
    """Return the core-seconds of classical stages; a fan-out counts a worker for each unit."""
    total = 0.0
    for stage in stages:
        if stage.kind != "classical" or not stage.ran_until or not stage.ran_from:
            continue
        wide = min(stage.units[1], workers) if stage.units else 1
        total += (stage.ran_until - stage.ran_from).total_seconds() * max(stage.cores, wide)
    return total


def stated_error(sources: Mapping[str, str]) -> float | None:
    """Return the mean error in percent that a profile states of its timing, None if it has none.

    >>> stated_error({"timing": "refit: 2.8 % mean error on rows held out, the formula 3.3 %"})
    2.8
    """
    found = _HELD_OUT.search(
        " ".join(text for key, text in sources.items() if key.startswith("timing"))
    )
    return None if found is None else float(found[1])


def _estimate(site: Site, record: RunRecord, *, noisy: bool) -> Estimate:
    workers = site.compute().workers or len(os.sched_getaffinity(0))
    return Estimate(
        target=record.target,
        parameters=record.parameters,
        qpus=qpu_estimates(site, record, noisy=noisy),
        stages=[
            StageEstimate(name=row[0], kind=row[1], runs=row[2], dry_s=row[6])
            for row in stage_rows(record)
        ],
        core_hours=core_seconds(record.stages, workers) / 3600,
        dry_run_s=record.duration_s,
    )


def qpu_estimates(site: Site, record: RunRecord, *, noisy: bool = False) -> list[QpuEstimate]:
    """Return what a run will use of each QPU, from the record of its dry run, noisy or not."""
    found = []
    for name, usage in record.usage.per_qpu.items():
        settings, jobs = site.qpu(name), [job for job in record.jobs if job.qpu == name]
        one = _of_qpu(site, settings, usage, jobs)
        needed = needed_classes(record.stages, jobs, {})
        loose = too_loose(needed, name, own_coupling_class(settings), None)
        found.append(replace(one, notes=[*one.notes, *loose]))
    return found if noisy else [_without_noise(one) for one in found]


def _without_noise(one: QpuEstimate) -> QpuEstimate:
    if one.profile is None:
        return one
    words = (
        f"the errors of {one.profile} were not simulated; where jobs and shots depend on results, "
        "a run takes more or fewer of them: --noise simulates the errors, and takes longer"
    )
    return replace(one, notes=[*one.notes, words])


def simulated_target(settings: QpuSettings) -> tuple[Target, bool]:
    """Return a QPU's target without asking the device, and whether a simulator stands in for it."""
    from backends import registry

    dry = dry_qpu(settings)
    own = registry.simulated_options(settings.backend, settings.options)
    replaced = dry.backend != settings.backend or (own is not None and own != settings.options)
    target = target_from_settings(dry if replaced else settings)
    # As the device itself, whose clock runs.
    return (replace(target, clock_scale=1.0) if replaced else target), replaced


def own_coupling_class(settings: QpuSettings) -> CouplingClass | None:
    """Return a QPU's own coupling class, not that of a simulator which stands in for it."""
    target, replaced = simulated_target(settings)
    return coupling_class_of(settings) if replaced else target.coupling_class


def _of_qpu(
    site: Site, settings: QpuSettings, usage: RecordedUsage, jobs: Sequence[RecordedJob]
) -> QpuEstimate:
    target, replaced = simulated_target(settings)
    modelled = target.timing is not None
    longest_s = max((t.usage.qpu_seconds for j in jobs for t in j.tasks), default=0.0)
    unseeded = sum(job.seed is None and job.shots > 0 for job in jobs)
    return QpuEstimate(
        qpu=settings.name,
        backend=settings.backend,
        profile=target.name if modelled else None,
        jobs=len(jobs),
        tasks=usage.tasks,
        # As the jobs count them: a circuit whose shots are cut into tasks is in each of these.
        circuits=sum(job.circuits for job in jobs if not job.source),
        shots=usage.shots,
        qpu_seconds=None if replaced and not modelled else usage.qpu_seconds,
        charges=None if replaced and not modelled else usage.charges,
        error_percent=stated_error(target.sources),
        wait=expected_wait(site, settings, target, longest_s, now=datetime.now(UTC)),
        unseeded_jobs=unseeded,
        notes=_notes(settings, target, unseeded, replaced=replaced),
    )


def _notes(settings: QpuSettings, target: Target, unseeded: int, *, replaced: bool) -> list[str]:
    notes = []
    modelled = target.timing is not None
    if replaced:
        wearing = f"the simulator wearing profile {target.name}" if modelled else "an ideal one"
        notes.append(
            f"backend {settings.backend!r} was not asked; {wearing} stood in for it"
            + ("" if modelled else ", so limits, time and cost of the QPU are not known")
        )
    elif not modelled:
        notes.append("an ideal simulator: its time, and so its cost, is what this machine took")
    if modelled:
        error = stated_error(target.sources)
        notes.append(
            f"QPU-seconds by the timing model of {target.name}, "
            + (
                f"whose mean error on measured jobs is {error:g} %"
                if error is not None
                else "which is assumed: no measured jobs are known"
            )
        )
        if target.coalesces:
            notes.append("jobs that wait together may share tasks and then cost less")
    if unseeded:
        notes.append(
            f"{counted(unseeded, 'job')} without a seed; where the flow's course depends on their results, "
            "jobs and shots are those of one course of several"
        )
    return notes
