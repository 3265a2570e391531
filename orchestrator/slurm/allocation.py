"""Workers as steps of the allocation that this process is in, instead of as jobs of their own."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from orchestrator.config.environment import process_environment
from orchestrator.config.private import write_private
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.environment import WORKER_NUMBER, ThisJob
from orchestrator.slurm.errors import SlurmUnavailable
from orchestrator.slurm.script import JobScript
from orchestrator.slurm.states import JobDetails, SlurmJob, SlurmState
from orchestrator.slurm.steps import step_environment

__all__ = ["AllocationSteps"]

_END_S = 5.0
_PATIENCE_S = 5.0
# Above all job ids of Slurm, which are below 2**26: numbers of steps are never taken for some.
_FIRST = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    script: JobScript
    process: subprocess.Popen[bytes]
    cancelled: bool = False


class AllocationSteps:
    """Starts batch scripts by ``srun`` in a job that has its nodes already; as `Slurm` does by ``sbatch``.

    A step gets the cores, memory and GPUs of its script from the allocation, and waits while other
    steps have them. What the script says of partition, account and walltime is the allocation's to
    say, and is ignored. The steps end with this process's job at the latest.

    Args:
        job: The job of this process.
        slurm: Asked for what the environment does not say of the job; None for this machine's.
    """

    def __init__(self, job: ThisJob, slurm: Slurm | None = None) -> None:
        self._slurm = slurm or Slurm(patience_s=_PATIENCE_S)
        self.timeout_s = _END_S
        self._job = job
        self._numbers = itertools.count(_FIRST)
        self._steps: dict[int, _Step] = {}
        self._lock = threading.Lock()

    def submit(self, script: JobScript) -> int:
        """Start a script as a step, and return its number. Raises `SlurmUnavailable`."""
        number = next(self._numbers)
        path = script.output.with_suffix(".sh")
        write_private(path, script.text())
        if shutil.which("srun") is None:
            raise SlurmUnavailable("there is no program 'srun' on the PATH", retryable=False)
        wanted = script.resources
        environment = step_environment(process_environment()) | {WORKER_NUMBER: str(number)}
        argv = ["bash", str(path)]
        if wanted.nodes_max in (None, 1):
            argv = [*self._srun(script, number), *argv]
        else:  # the script starts its step itself, over as many nodes
            nodes = min(wanted.nodes_max or 1, len(self._job.nodes))
            environment["SLURM_JOB_NUM_NODES"] = str(nodes)
        with script.output.open("ab") as output:
            process = subprocess.Popen(
                argv,
                env=environment,
                cwd=script.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the run, which ends its workers
                umask=0o077,
            )
        with self._lock:
            self._steps[number] = _Step(script=script, process=process)
        return number

    def jobs(self, ids: Collection[int] | None = None) -> dict[int, SlurmJob]:
        """Return the steps of this object as jobs, by number."""
        with self._lock:
            known = dict(self._steps)
        return {
            number: self._view(number, step)
            for number, step in known.items()
            if ids is None or number in ids
        }

    def find(self, tag: str) -> SlurmJob | None:
        """Return the step with a tag; None for none."""
        return next((job for job in self.jobs().values() if job.comment == tag), None)

    def details(self, number: int) -> JobDetails:
        """Return how a step ended."""
        with self._lock:
            code = self._steps[number].process.poll() if number in self._steps else None
        ended = code or 0
        return JobDetails(exit_code=max(0, ended), signal=max(0, -ended))

    def cancel(self, ids: Collection[int]) -> None:
        """End steps, and return when they have ended."""
        with self._lock:
            ended = [self._steps[number] for number in ids if number in self._steps]
            for number in ids:
                if number in self._steps:
                    step = self._steps[number]
                    self._steps[number] = _Step(
                        script=step.script, process=step.process, cancelled=True
                    )
        for step in ended:
            step.process.terminate()  # srun ends its step, and a shell its srun
        for step in ended:
            try:
                step.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                step.process.kill()
                step.process.wait()

    def hurry(self, seconds: float) -> None:
        """Do nothing: no call waits for Slurm."""

    def hold(self, ids: Collection[int]) -> None:
        """Do nothing: the nodes are there already."""

    def release(self, ids: Collection[int]) -> None:
        """Do nothing: the nodes are there already."""

    def lacks(self, demand: Mapping[str, int]) -> dict[str, str]:
        """Return what the allocation has less of than asked for: ``nodes``, ``cores``, ``gpus``."""
        has = {
            "nodes": len(self._job.nodes),  # a step is in one component of a heterogeneous job
            "cores": max(self._job.cores, default=1),
            "gpus": self._gpus() if demand.get("gpus") else 0,
        }
        return {
            name: f"the allocation, job {self._job.id}, has {has[name]}"
            for name, amount in demand.items()
            if amount > has[name]
        }

    def _gpus(self) -> int:
        """Return the GPUs on each node: Slurm sets no variable of them for the shell of ``salloc``."""
        if self._job.gpus:
            return self._job.gpus
        try:
            # Not the job's TRES: a site need not count its GPUs there (AccountingStorageTRES).
            return self._slurm.details(self._job.id).gres_per_node.get("gpu", 0)
        except SlurmUnavailable:
            return 0

    def _srun(self, script: JobScript, number: int) -> list[str]:
        wanted = script.resources
        options = [
            "--exact",  # the rest of the allocation stays for other steps
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={wanted.cores or 1}",
            f"--job-name={script.name}",
            "--input=none",
            "--mpi=none",
            "--cpu-bind=none",
            "--unbuffered",
        ]
        if wanted.memory_bytes is not None:
            options.append(f"--mem={-(-wanted.memory_bytes // (1 << 20))}M")
        # Otherwise a step takes all that the job has.
        options.append(f"--gres={wanted.all_gres or 'none'}")
        if self._job.in_step:  # which has the cores already, so that others would wait for its end
            place = (number - _FIRST) % max(1, len(self._job.nodes))
            options += ["--overlap", f"--relative={place}"]
        return ["srun", *options]

    def _view(self, number: int, step: _Step) -> SlurmJob:
        code = step.process.poll()
        if code is None:
            state = SlurmState.RUNNING
        elif step.cancelled:
            state = SlurmState.CANCELLED
        else:
            state = SlurmState.FAILED if code else SlurmState.COMPLETED
        return SlurmJob(
            id=number,
            name=step.script.name,
            user="",
            state=state,
            nodes=self._job.nodes,
            comment=step.script.tag,
        )
