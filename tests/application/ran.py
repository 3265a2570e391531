"""Records of runs that never were, for what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from orchestrator.application.register import RegisteredRun, register
from orchestrator.config.site import Site
from orchestrator.provenance.record import site_document
from orchestrator.provenance.schema import (
    RecordedJob,
    RecordedSite,
    RecordedSlurm,
    RecordedSlurmJob,
    RecordedStage,
    RecordedTask,
    RecordedUsage,
    RunRecord,
    RunUsage,
)

__all__ = ["START", "at_s", "job", "leave", "record", "slurm_job", "slurm_use", "stage"]

START = datetime(2026, 11, 29, 8, tzinfo=UTC)


def at_s(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def stage(name: str, kind: str, begun_s: float, ended_s: float, **more: Any) -> RecordedStage:
    values: dict[str, Any] = {
        "key": f"{name}-0",
        "name": f"{name}-1a2",
        "kind": kind,
        "state": "completed",
        "started_at": at_s(begun_s),
        "ended_at": at_s(ended_s),
        "worked_s": ended_s - begun_s,
        "waited_s": 0.0,
    }
    return RecordedStage(**(values | more))


def job(key: str, seconds: float, **more: Any) -> RecordedJob:
    usage = RecordedUsage(qpu_seconds=seconds, tasks=1)
    task = RecordedTask(
        tag="t",
        state="completed",
        shots=1,
        planned_at=START,
        usage=usage,
        worked_s=seconds,
    )
    values: dict[str, Any] = {
        "id": f"j-{key}",
        "qpu": "aer",
        "backend": "aer",
        "kind": "sampler",
        "state": "completed",
        "run": "r1",
        "stage": key,
        "call": 0,
        "digest": "d",
        "pubs": 1,
        "circuits": 1,
        "shots": 1,
        "num_qubits": 1,
        "seed": 1,
        "submitted_at": START,
        "usage": usage,
        "tasks": (task,),
    }
    return RecordedJob(**(values | more))


def record(site: Site, stages: Sequence[RecordedStage], **more: Any) -> RunRecord:
    usage = RecordedUsage(charges={"EUR": 3.0})
    values: dict[str, Any] = {
        "id": "r1",
        "target": "flows.maxcut",
        "flow": "maxcut",
        "parameters": {},
        "qpu": site.default_qpu,
        "site": RecordedSite.model_validate(site_document(site)),
        "status": "completed",
        "started_at": START,
        "usage": RunUsage(total=usage, per_qpu={}),
        "stages": tuple(stages),
        "jobs": (),
        "attempts": (),
        "versions": {},
        "machine": {},
    }
    return RunRecord(**(values | more))


def leave(site: Site, site_file: Path | None, made: RunRecord, folder: Path) -> None:
    """Leave a record where a run of this site would."""
    folder.mkdir()
    (folder / "run.json").write_text(made.model_dump_json())
    run = RegisteredRun(
        id=made.id,
        target=made.target,
        flow=made.flow,
        folder=folder,
        site=site_file,
        registered_at=made.started_at,
    )
    register(site.state_dir, run)


def slurm_job(
    number: int, purpose: str, nodes: int, begun_s: float, ended_s: float
) -> RecordedSlurmJob:
    return RecordedSlurmJob(
        id=number,
        purpose=purpose,
        state="COMPLETED",
        nodes=nodes,
        started_at=at_s(begun_s),
        ended_at=at_s(ended_s),
    )


def slurm_use(jobs: Sequence[RecordedSlurmJob]) -> RecordedSlurm:
    return RecordedSlurm(
        makespan_s=0, node_s=0, worker_node_s=0, core_s=0, gpu_s=0, qpu_held_s=0, jobs=tuple(jobs)
    )
