"""``hpcqc estimate``: what a run will use, told by running it dry on simulators."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.application.dry_site import dry_qpu
from orchestrator.application.wait import expected_wait
from orchestrator.cli.output import facts, print_json, say, tabulate
from orchestrator.cli.run.run import Finished, RunRequest, run_flow
from orchestrator.config import QpuSettings, Site, load_site, resolve_secrets
from orchestrator.config.environment import hand_down
from orchestrator.provenance.markup import cell_text, duration_text
from orchestrator.provenance.report import stage_rows
from orchestrator.wording import counted

if TYPE_CHECKING:
    from backends.api import Target
    from orchestrator.provenance.schema import RecordedJob, RecordedStage, RecordedUsage

__all__ = [
    "DryRunFailed",
    "core_seconds",
    "estimate_flow",
    "stated_error",
    "tell_estimate",
    "wait_text",
]

_HELD_OUT = re.compile(r"(\d+(?:\.\d+)?) % mean error on rows held out")


class DryRunFailed(ValueError):
    """The flow failed on simulators already, so it would have failed on the QPU, too."""


def estimate_flow(request: RunRequest) -> dict[str, Any]:
    """Run a flow dry and return what a real run will use, as JSON types.

    The run happens in a folder of its own, which is gone on return, by way of an error too. No
    backend but the simulator is opened, and no broker service is handed anything.
    Raises `DryRunFailed`, and ``ValueError`` subclasses for what cannot even start.
    """
    site = load_site(request.site_file, request.overrides)
    scratch = Path(tempfile.mkdtemp(prefix="hpcqc-estimate-"))
    # What stages return would else be kept where the user keeps it.
    hand_down({"PREFECT_LOCAL_STORAGE_PATH": str(scratch / "results")})
    try:
        dry = replace(request, out=scratch / "run", run_id=f"dry-{scratch.name[-8:]}")
        finished = run_flow(replace(dry, scratch=scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if finished.code:
        place = f" ({finished.place})" if finished.place else ""
        error = finished.record.error
        raise DryRunFailed(f"the dry run of {request.target} failed: {error}{place}")
    return _document(request, site, finished)


def core_seconds(stages: Sequence[RecordedStage], workers: int) -> float:
    """Return the core-seconds of classical stages.

    A stage that fans out is taken to have kept as many workers busy as it has units for.
    """
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


def _document(request: RunRequest, site: Site, finished: Finished) -> dict[str, Any]:
    record = finished.record
    workers = site.compute().workers or len(os.sched_getaffinity(0))
    return {
        "target": request.target,
        "parameters": record.parameters,
        "qpus": [
            _of_qpu(site, site.qpu(name), usage, [j for j in record.jobs if j.qpu == name])
            for name, usage in record.usage.per_qpu.items()
        ],
        "stages": [
            {"name": row[0], "kind": row[1], "runs": row[2], "dry_s": row[6]}
            for row in stage_rows(record)
        ],
        "core_hours": core_seconds(record.stages, workers) / 3600,
        "dry_run_s": record.duration_s,
    }


def _of_qpu(
    site: Site, settings: QpuSettings, usage: RecordedUsage, jobs: Sequence[RecordedJob]
) -> dict[str, Any]:
    dry = dry_qpu(settings)
    replaced = dry.backend != settings.backend
    target = _target(dry if replaced else settings, on_device=replaced)
    modelled = target.timing is not None
    longest_s = max((t.usage.qpu_seconds for j in jobs for t in j.tasks), default=0.0)
    unseeded = sum(job.seed is None and job.shots > 0 for job in jobs)
    return {
        "qpu": settings.name,
        "backend": settings.backend,
        "profile": target.name if modelled else None,
        "jobs": len(jobs),
        "tasks": usage.tasks,
        # As the jobs count them: a circuit whose shots are cut into tasks is in each of these.
        "circuits": sum(job.circuits for job in jobs if not job.source),
        "shots": usage.shots,
        "qpu_seconds": None if replaced and not modelled else usage.qpu_seconds,
        "charges": None if replaced and not modelled else usage.charges,
        "error_percent": stated_error(target.sources),
        **expected_wait(site, settings, target, longest_s, now=datetime.now(UTC)),
        "unseeded_jobs": unseeded,
        "notes": _notes(settings, target, unseeded, replaced=replaced),
    }


def _target(settings: QpuSettings, *, on_device: bool) -> Target:
    """Describe a simulator; on_device: as the device that it replaces, whose clock runs."""
    from backends import registry

    target = registry.describe(settings.backend, resolve_secrets(settings.options))
    return replace(target, clock_scale=1.0) if on_device else target


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


def tell_estimate(estimate: Mapping[str, Any], *, as_json: bool) -> None:
    """Write an estimate: a table with a row per QPU, what it rests on, and a closing sentence."""
    if as_json:
        print_json(estimate)
        return
    columns = ("QPU", "jobs", "tasks", "circuits", "shots", "QPU-seconds", "cost", "waits")
    tabulate(columns, [_row(qpu) for qpu in estimate["qpus"]])
    runs = {
        kind: sum(s["runs"] for s in estimate["stages"] if s["kind"] == kind)
        for kind in ("classical", "quantum")
    }
    facts(
        {
            "stages": f"{runs['classical']} classical, {runs['quantum']} quantum",
            "classical": f"{_core_time(estimate['core_hours'])}, as measured on this machine",
        }
    )
    for qpu in estimate["qpus"]:
        for note in qpu["notes"]:
            say(f"{qpu['qpu']}: {note}", style="dim")
    say(_closing(estimate))


def _row(qpu: Mapping[str, Any]) -> list[Any]:
    seconds = qpu["qpu_seconds"]
    return [
        *(qpu[key] for key in ("qpu", "jobs", "tasks", "circuits", "shots")),
        None if seconds is None else round(seconds, 3),
        _cost(qpu),
        wait_text(qpu),
    ]


def _cost(qpu: Mapping[str, Any]) -> str:
    if qpu["charges"] is None:
        return "not known"
    return ", ".join(f"{cell_text(a)} {unit}" for unit, a in qpu["charges"].items()) or "nothing"


def _core_time(core_hours: float) -> str:
    if core_hours < 0.1:
        return f"{core_hours * 3600:.3g} core-seconds"
    return f"{core_hours:.3g} core-hours"


def _closing(estimate: Mapping[str, Any]) -> str:
    if not estimate["qpus"]:
        return "A run will use no QPU. Nothing was spent."
    told = []
    for qpu in estimate["qpus"]:
        seconds = qpu["qpu_seconds"]
        on = "for a time not known" if seconds is None else f"for about {duration_text(seconds)}"
        told.append(
            f"{counted(qpu['jobs'], 'quantum job')} with {counted(qpu['shots'], 'shot')} on "
            f"{qpu['qpu']} {on}, "
            f"at a cost of {_cost(qpu)}"
        )
    return f"A run will take {'; '.join(told)}. Nothing was spent."


def wait_text(qpu: Mapping[str, Any]) -> str:
    """Return the expected wait of a QPU's row in one cell of a table."""
    from orchestrator.broker.core.closures import in_utc

    told = ["not known" if qpu["waiting_s"] is None else duration_text(qpu["waiting_s"])]
    if qpu["waiting_s"] == 0:
        told = ["no"]
    if qpu["stopped"]:
        told.append(f"the QPU is {qpu['stopped']}")
    if qpu["closed_until"]:
        until = in_utc(datetime.fromisoformat(qpu["closed_until"]))
        told.append(f"closed until {until}: {qpu['closure']}")
    if qpu["jobs_ahead"]:
        told.append(f"{counted(qpu['jobs_ahead'], 'job')} ahead")
    return ", ".join(told)
