"""What a process inside a Slurm job knows of its job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.config.environment import process_environment
from orchestrator.slurm.node_lists import counts_of, nodes_of

__all__ = ["WORKER_NUMBER", "ThisJob", "this_job"]

# The variable with the number of a worker that is a step: Slurm does not number those of one run.
WORKER_NUMBER = "HPCQC_WORKER_NUMBER"
# Steps from this number on are Slurm's own, such as that of a batch script.
_SPECIAL_STEPS = 0xFFFFFFF0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThisJob:
    """The job that this process is in, by its environment, which the user can change.

    Attributes:
        id: Of the job; of a heterogeneous one, its leader's.
        nodes: Of this job, or of the component that this process is in.
        cores: CPUs on each of the nodes.
        gpus: GPUs on this node.
        ends_by: End of its walltime; None where Slurm does not tell (before 22.05, without limit).
        restarts: How often it was requeued.
        node: Number of this node among those of the job, from 0.
        node_name: Of this node; empty where it is not known, as outside of steps.
        step_nodes: Of the step that this process is in; empty outside one.
        in_step: Whether this process is in a step that has cores of the job, as that of ``srun --pty
            bash`` does; the shell of ``salloc`` and a batch script are not.
        worker: Number of a worker that is a step of a user's job; None for any other process.
        licenses: As asked for; empty where Slurm does not tell (before 23.02).
    """

    id: int
    nodes: tuple[str, ...]
    cores: tuple[int, ...]
    gpus: int = 0
    ends_by: datetime | None = None
    restarts: int = 0
    node: int = 0
    node_name: str = ""
    step_nodes: tuple[str, ...] = ()
    in_step: bool = False
    worker: int | None = None
    name: str = ""
    partition: str = ""
    account: str = ""
    licenses: str = ""


def this_job(environ: Mapping[str, str] | None = None) -> ThisJob | None:
    """Return the job of this process, None outside of one; variables that are not clear are left out.

    Args:
        environ: The environment; None for this process's own.
    """
    known = process_environment(environ)
    id_ = known.get("SLURM_JOB_ID") or known.get("SLURM_JOBID") or ""
    if not id_.isdecimal():
        return None
    ends = known.get("SLURM_JOB_END_TIME", "")
    nodes = known.get("SLURM_JOB_NODELIST") or known.get("SLURM_JOB_NODELIST_HET_GROUP_0", "")
    cores = known.get("SLURM_JOB_CPUS_PER_NODE") or known.get(
        "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_0", ""
    )
    step = known.get("SLURM_STEP_ID") or known.get("SLURM_STEPID") or ""
    return ThisJob(
        id=int(id_),
        nodes=_nodes(nodes),
        cores=_counts(cores),
        gpus=_gpus(known),
        ends_by=datetime.fromtimestamp(int(ends), UTC) if ends.isdecimal() else None,
        restarts=_count(known.get("SLURM_RESTART_COUNT", "")),
        node=_count(known.get("SLURM_NODEID", "")),
        node_name=known.get("SLURMD_NODENAME", ""),
        step_nodes=_nodes(known.get("SLURM_STEP_NODELIST", "")),
        in_step=step.isdecimal() and int(step) < _SPECIAL_STEPS,
        worker=_count(known.get(WORKER_NUMBER, "")) or None,
        name=known.get("SLURM_JOB_NAME", ""),
        partition=known.get("SLURM_JOB_PARTITION", ""),
        account=known.get("SLURM_JOB_ACCOUNT", ""),
        licenses=known.get("SLURM_JOB_LICENSES", ""),
    )


def _nodes(text: str) -> tuple[str, ...]:
    try:
        return nodes_of(text)
    except ValueError:
        return ()


def _counts(text: str) -> tuple[int, ...]:
    try:
        return counts_of(text)
    except ValueError:
        return ()


def _count(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _gpus(known: Mapping[str, str]) -> int:
    if (count := known.get("SLURM_GPUS_ON_NODE", "")).isdecimal():
        return int(count)
    devices = known.get("SLURM_JOB_GPUS") or known.get("SLURM_STEP_GPUS") or ""
    return len([one for one in devices.split(",") if one])
