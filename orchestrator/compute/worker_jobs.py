"""Worker jobs as Slurm gets them: their scripts, numbers and files in the folder of a run."""

from __future__ import annotations

import json
import re
import shlex
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

from orchestrator.compute.api import Demand
from orchestrator.compute.cluster_process import WORKER_ENVIRONMENT, import_path
from orchestrator.compute.worker import WorkerSpec
from orchestrator.config.private import close_to_others, write_private
from orchestrator.identity import SlurmOwner, slurm_job_name
from orchestrator.slurm.explain import impossible
from orchestrator.slurm.inventory import Partition
from orchestrator.slurm.options import WorkerOptions
from orchestrator.slurm.owner import owner_of
from orchestrator.slurm.script import JobResources, JobScript
from orchestrator.slurm.steps import worker_step
from orchestrator.text_files import tail_of
from orchestrator.wording import counted

__all__ = [
    "SHARED",
    "Allocation",
    "JobFolder",
    "allocation",
    "enough_for",
    "fits_worker",
    "has_nodes",
    "lacking",
]

# The pool of the worker jobs that stages without an allocation of their own share.
SHARED = "shared"
_RECORD = re.compile(r"(?P<purpose>worker|stage)-(?P<number>[0-9]+)\.json")
_TAIL_BYTES = 4000
# What a job needs besides its stage's function: to start its worker, and to end it in order.
_MARGIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What the worker jobs of a pool are. processes, memory_bytes: on each node, of each process.

    also: further components of the job, which have no workers.
    """

    pool: str
    resources: JobResources
    processes: int
    memory_bytes: int | None
    also: tuple[JobResources, ...] = ()

    def together(self, nodes: int, also: tuple[JobResources, ...]) -> Allocation:
        """Return one job with the nodes of several, and with further components."""
        held = [one.licenses for one in also if one.licenses is not None]
        resources = replace(
            self.resources,
            nodes=nodes,
            nodes_max=nodes,
            licenses=",".join(held) or None,  # Slurm counts those of the first component only
            plugin_options=tuple(
                option for one in also if not has_nodes(one) for option in one.plugin_options
            ),
        )
        components = (
            replace(one, licenses=None, walltime=self.resources.walltime)
            for one in also
            if has_nodes(one)
        )
        return replace(self, resources=resources, also=tuple(components))

    def may_take_nodes_of(self, other: Allocation) -> bool:
        """Whether a job of this allocation can run on nodes of the other's, by their partitions."""
        mine, theirs = self.resources.partition, other.resources.partition
        if mine is None or theirs is None:  # the default one, whose name is not known here
            return True
        return not set(mine.split(",")).isdisjoint(theirs.split(","))

    @property
    def purpose(self) -> str:
        """What the job is for, as its tag says."""
        return "worker" if self.pool == SHARED else "stage"


def has_nodes(resources: JobResources) -> bool:
    """Whether a QPU comes with nodes, so that a job needs a component for it."""
    return bool(resources.gres or resources.partition or resources.reservation)


def fits_worker(options: WorkerOptions, demand: Demand) -> bool:
    """Whether a worker that others use, too, gives what a stage asks for."""
    memory = options.memory_per_process
    return (
        demand.nodes == 1
        and demand.cores_per_node <= options.cores // options.process_count
        and demand.gpus <= options.gpus // options.process_count
        and (demand.memory is None or (memory is not None and demand.memory <= memory))
        and (
            demand.walltime is None
            or (options.walltime is not None and demand.walltime <= options.walltime)
        )
    )


def enough_for(options: WorkerOptions, demand: Demand) -> dict[str, Any]:
    """Return what to change in the options so that a stage fits into one job of ``nodes_max`` nodes.

    Nothing if it fits as it is: then a worker on each node has what the stage asks for there.
    """
    is_wide = (
        demand.cores_per_node > options.cores // options.process_count
        or demand.gpus > options.gpus // options.process_count
    )
    processes = 1 if is_wide else options.process_count
    wanted = {
        "nodes_max": max(options.nodes_max, demand.nodes),
        "cores": max(options.cores, demand.cores_per_node),
        "processes": processes,
        "gpus": max(options.gpus, demand.gpus),
        "memory": max(options.memory or 0, (demand.memory or 0) * processes) or None,
        "walltime": options.walltime,
    }
    if demand.walltime is not None:
        wanted["walltime"] = max(options.walltime or demand.walltime, demand.walltime)
    has = {name: getattr(options, name) for name in wanted}
    if wanted["cores"] == options.cores:  # else a number that is not given follows the cores
        has["processes"] = options.process_count
    return {name: value for name, value in wanted.items() if value != has[name]}


def allocation(
    options: WorkerOptions,
    demand: Demand | None = None,
    *,
    pool: str = SHARED,
    partitions: Mapping[str, Partition] | None = None,
) -> Allocation:
    """Return the shared worker jobs' allocation, or what a stage that needs its own gets.

    partitions: of the cluster, to find one with GPUs where the options name none.
    """
    asked = demand or Demand()
    memory = options.memory
    if asked.memory is not None:
        memory = max(asked.memory, memory or 0)
    cores, gpus = max(options.cores, asked.cores_per_node), max(options.gpus, asked.gpus)
    known = partitions or {}
    partition = _partition(options, gpus, known)
    resources = JobResources(
        partition=partition,
        account=options.account,
        qos=options.qos,
        reservation=options.reservation,
        walltime=_walltime(asked.walltime, known.get(partition or "")) or options.walltime,
        nodes=asked.nodes,
        nodes_max=asked.nodes_max,
        tasks_per_node=1,
        cores=cores,
        memory_bytes=memory,
        gpus=gpus,
        exclusive=options.exclusive,
        constraint=options.constraint,
    )
    return Allocation(
        pool=pool,
        resources=resources,
        processes=options.process_count,
        memory_bytes=options.memory_per_process if demand is None else memory,
    )


def lacking(
    options: WorkerOptions, demand: Demand, partitions: Mapping[str, Partition]
) -> dict[str, str]:
    """Return the fields of a demand that no job on the cluster can be given, with the reasons."""
    lacks = {}
    # The partition is that of the whole demand: one with GPUs, say, has other nodes and limits.
    place = allocation(options, demand, partitions=partitions).resources.partition
    there = options.model_copy(update={"partition": place, "gpu_partition": place})
    for name in ("nodes", "cores", "memory", "gpus", "walltime"):
        tasks = {"tasks_per_node": demand.tasks_per_node} if name == "cores" else {}
        alone = Demand(**{name: getattr(demand, name), **tasks})
        if alone == Demand():
            continue
        asked = allocation(there, alone, partitions=partitions)
        reasons = impossible(asked.resources, partitions)
        if not reasons:
            continue
        if name == "cores" and demand.tasks_per_node > 1:
            each = counted(demand.cores, "core")
            lacks["tasks_per_node"] = f"{'; '.join(reasons)} (each task has {each})"
        else:
            lacks[name] = "; ".join(reasons)
    return lacks


def _walltime(asked: timedelta | None, partition: Partition | None) -> timedelta | None:
    """Return the walltime of a stage's job: a little more than its function may take."""
    if asked is None:
        return None
    limit = None if partition is None else partition.max_walltime
    return asked + _MARGIN if limit is None else max(asked, min(asked + _MARGIN, limit))


def _partition(
    options: WorkerOptions, gpus: int, partitions: Mapping[str, Partition]
) -> str | None:
    default = next((one.name for one in partitions.values() if one.is_default), None)
    usual = options.partition or default
    if not gpus:
        return usual
    if options.gpu_partition is not None:
        return options.gpu_partition
    able = {name: one for name, one in partitions.items() if one.gres.get("gpu", 0) >= gpus}
    named = (usual or "").split(",")  # of several, Slurm takes one that can
    if not able.keys().isdisjoint(named):
        return usual
    offered = next((name for name, one in able.items() if one.is_offered), None)
    if offered is not None:
        return offered
    # None has so many: the one with the most is where a shortage is to be explained.
    most = max(
        (one for one in partitions.values() if one.is_offered),
        key=lambda one: one.gres.get("gpu", 0),
        default=None,
    )
    return most.name if most is not None and most.gres.get("gpu") else usual


@dataclass(eq=False)
class JobFolder:
    """The folder of a run's worker jobs: scripts, outputs, the connection file.

    path: ``STATE_DIR/slurm/RUN``.
    """

    run: str
    path: Path
    options: WorkerOptions
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def owner(self) -> SlurmOwner:
        """Whose the jobs are."""
        return owner_of(self.path.parent.parent, self.run)

    def prepare(self) -> None:
        """Make the folder; its owner alone can enter it."""
        close_to_others(self.path)

    def script(self, wanted: Allocation, number: int, *, held: bool = False) -> JobScript:
        """Return the script of a worker job."""
        tag = self.owner.tag(wanted.purpose, number)
        spec = WorkerSpec(
            folder=self.path,
            pool=wanted.pool,
            processes=wanted.processes,
            memory_bytes=wanted.memory_bytes,
            interface=self.options.interface,
            ports=self.options.ports,
            scratch=self.options.scratch,
            linger_s=self.options.linger.total_seconds(),
        )
        python = self.options.python or sys.executable
        command = shlex.join([python, "-P", "-m", "orchestrator.compute.worker", *spec.arguments()])
        if wanted.resources.nodes_max not in (None, 1):
            command = worker_step(command, wanted.resources)
        return JobScript(
            name=slurm_job_name(self.run, f"{wanted.purpose}-{number}"),
            tag=str(tag),
            resources=wanted.resources,
            also=wanted.also,
            # exec: Slurm's signals reach the worker, and no shell waits beside it.
            body=(f"exec {command}",),
            directory=self.path,
            output=self.path / f"{wanted.purpose}-{number}.out",
            held=held,
            requeue=False,  # the run replaces its jobs itself, so that none runs beside its orphan
            prologue=tuple(self.options.prologue),
            modules=tuple(self.options.modules),
            environment={**WORKER_ENVIRONMENT, "PYTHONPATH": import_path()},
            extra=tuple(self.options.extra),
        )

    def next_number(self, purpose: str) -> int:
        """Return a number that no job of the run had, and keep it from others."""
        with self._lock:
            numbers = (
                int(found["number"])
                for file in self.path.iterdir()
                if (found := _RECORD.fullmatch(file.name)) and found["purpose"] == purpose
            )
            number = max(numbers, default=-1) + 1
            write_private(self.path / f"{purpose}-{number}.json", "{}")
            return number

    def remember(self, wanted: Allocation, number: int, job: int | None = None) -> None:
        """Store what a job is, for a later attempt of the run, and its id once it is known."""
        record = {"pool": wanted.pool, "digest": self._digest(wanted), "slurm_job": job}
        write_private(self.path / f"{wanted.purpose}-{number}.json", json.dumps(record))

    def is_of(self, wanted: Allocation, number: int) -> bool:
        """Whether a job of an earlier attempt is what one of this allocation would be."""
        try:
            text = (self.path / f"{wanted.purpose}-{number}.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        record = json.loads(text)
        known = record.get("pool"), record.get("digest")
        return known == (wanted.pool, self._digest(wanted))

    def tail(self, purpose: str, number: int) -> str:
        """Return the end of a job's output, empty if there is none."""
        try:
            return tail_of(self.path / f"{purpose}-{number}.out", _TAIL_BYTES)
        except OSError:
            return ""

    def _digest(self, wanted: Allocation) -> str:
        """Return a digest of what jobs of this allocation have in common."""
        script = replace(self.script(wanted, 0), held=False)
        return blake2b(script.text().encode(), digest_size=16).hexdigest()
