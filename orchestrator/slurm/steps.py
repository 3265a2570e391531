"""Job steps: how `srun` is called inside an allocation, and with which environment (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.slurm.script import JobResources

__all__ = ["ProgramStep", "step_environment", "worker_step"]

# What describes the step that a process is in; a step that it starts must not inherit that.
_OF_A_STEP = (
    "SLURM_CPU_BIND",
    "SLURM_CPUS_PER_TASK",
    "SLURM_DISTRIBUTION",
    "SLURM_GPUS_PER_",
    "SLURM_GTIDS",
    "SLURM_LAUNCH_NODE",
    "SLURM_LOCALID",
    "SLURM_MEM_",
    "SLURM_MPI_TYPE_STEP",
    "SLURM_NNODES",
    "SLURM_NODEID",
    "SLURM_NPROCS",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_SRUN_",
    "SLURM_STEP",
    "SLURM_TASK_PID",
    "SLURM_TASKS_PER_NODE",
    "SLURM_TRES_PER_TASK",
    "SLURM_UMASK",
    "SRUN_",
    "PMI_",
    "PMI2_",
    "PMIX_",
    "OMPI_MCA_orte",
    "OMPI_COMM",
    "OMPI_UNIVERSE",
)
# What the job was submitted with, and what `srun` would take for a request of the step.
_OF_THE_JOB = frozenset(["SLURM_CPUS_PER_GPU", "SLURM_GPUS"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramStep:
    """A program as a step of the allocation that this process is in.

    nodes: their names. tasks, tasks_per_node: processes; None for Slurm's distribution. cores: of each
    process. gpus: on each node. mpi: as ``srun --mpi`` takes it, None for the site's default.
    """

    nodes: tuple[str, ...]
    tasks: int
    tasks_per_node: int | None = None
    cores: int = 1
    gpus: int = 0
    mpi: str | None = None

    def command(self) -> tuple[str, ...]:
        """Return what comes before the program."""
        options = [
            "--overlap",  # the workers' own step has all cores of the allocation
            "--kill-on-bad-exit=1",
            "--input=none",
            f"--nodes={len(self.nodes)}",
            f"--nodelist={','.join(self.nodes)}",
            f"--ntasks={self.tasks}",
            f"--cpus-per-task={self.cores}",
        ]
        if self.tasks_per_node is not None:
            options.append(f"--ntasks-per-node={self.tasks_per_node}")
        if self.gpus:
            options.append(f"--gres=gpu:{self.gpus}")
        if self.mpi is not None:
            options.append(f"--mpi={self.mpi}")
        return ("srun", *options)


def worker_step(command: str, resources: JobResources) -> str:
    """Return a line of a batch script that runs a command once on each node of its job."""
    options = [
        "--overlap",
        "--kill-on-bad-exit=1",
        "--input=none",
        "--mpi=none",
        "--cpu-bind=none",
        f"--cpus-per-task={resources.cores or 1}",
        '--nodes="$SLURM_JOB_NUM_NODES"',
        '--ntasks="$SLURM_JOB_NUM_NODES"',
    ]
    return f"srun {' '.join(options)} {command}"


def step_environment(known: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what describes the step that it belongs to, or asks for its own."""
    return {
        name: value
        for name, value in known.items()
        if not name.startswith(_OF_A_STEP) and name not in _OF_THE_JOB
    }
