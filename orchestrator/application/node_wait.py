"""For how long nodes and QPU are busy with jobs of others, as Slurm knows it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.compute.worker_jobs import JobFolder, allocation
from orchestrator.config.errors import ConfigError
from orchestrator.couplings.models import ClusterModel
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.errors import JobScriptError, SlurmRefused, SlurmUnavailable
from orchestrator.slurm.outlook import Outlook, outlook
from orchestrator.slurm.qpu_jobs import access_resources
from orchestrator.slurm.script import JobScript
from orchestrator.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.config.qpu_tables import QpuSettings
    from orchestrator.slurm.inventory import Partition
    from orchestrator.slurm.options import WorkerOptions

__all__ = ["cluster_model", "cluster_now", "qpu_job_wait_s"]

# From submission to start of a job on a free node, from there to a worker that has joined, and from
# the end of its work to the end of the job. The first is about what an idle Slurm 22.05 took; the
# others are estimates, not measurements: a site's nodes may need much longer.
_START_S, _BOOT_S, _END_S = 1.0, 3.0, 2.0
# For how long nodes stay in use where Slurm does not know it: those of jobs without a walltime or
# hidden from this user, and those out of service. It is assumed, and the plan says so.
_UNKNOWN_S = 600.0
_AT_ONCE_S = 5.0
# A plan is made beside the user: a controller that is slow to answer must not hold it up.
_PATIENCE_S = 10.0
_RUN = "plan"  # stands for the id of a run in names and paths of scripts that are not submitted
_ASKED = "sbatch --test-only"


def cluster_now(
    options: WorkerOptions, state: Path, wait_s: float | None
) -> tuple[ClusterModel, list[str]]:
    """Return the nodes that worker jobs may get, as they are now, and where each figure comes from.

    Args:
        options: Of the worker jobs.
        state: The site's state folder, which their scripts name.
        wait_s: What a new job waits; None to ask Slurm.

    Raises:
        ConfigError: Slurm has no such partition.
        SlurmUnavailable: Slurm does not answer.
    """
    slurm = _slurm()
    partitions = slurm.partitions()
    partition = _partition(options, partitions)
    now = datetime.now(UTC)
    notes: list[str] = []
    look: Outlook | None = None
    try:
        look = outlook(
            partition,
            slurm.queue(),
            now=now,
            cores=None if options.exclusive else options.cores,
            walltime=options.walltime or partition.max_walltime,
            unknown_s=_UNKNOWN_S,
        )
    except SlurmUnavailable as error:
        notes.append(f"jobs of others are not known: {error}")
    starts_in_s: float | None = None
    if wait_s is None:
        folder = JobFolder(run=_RUN, path=state / "slurm" / _RUN, options=options)
        script = folder.script(allocation(options, partitions=partitions), 0)
        starts_in_s, words = _starts_in_s(slurm, script, "a worker job", now)
        notes += words
    model, of_nodes = cluster_model(partition, look, starts_in_s=starts_in_s, wait_s=wait_s)
    return model, [*of_nodes, *notes]


def qpu_job_wait_s(settings: QpuSettings, state: Path) -> tuple[float, list[str]]:
    """Return in how many seconds Slurm expects to grant a QPU, and where that comes from.

    Args:
        settings: Of a QPU that Slurm grants.
        state: The site's state folder.
    """
    script = JobScript(
        name=_RUN,
        tag=_RUN,
        resources=access_resources(settings),
        body=("true",),
        directory=state,
        output=state / f"{_RUN}.out",
    )
    what = f"a job that holds QPU {settings.name}"
    starts_in_s, words = _starts_in_s(_slurm(), script, what, datetime.now(UTC))
    if starts_in_s is None or starts_in_s <= _AT_ONCE_S:
        return 0.0, [*words]
    return starts_in_s, [f"Slurm expects to start {what} in {starts_in_s:.0f} s ({_ASKED})"]


def cluster_model(
    partition: Partition,
    look: Outlook | None,
    *,
    starts_in_s: float | None = None,
    wait_s: float | None = None,
) -> tuple[ClusterModel, list[str]]:
    """Return a partition's nodes and what new jobs wait there, with where the figures come from.

    Jobs that wait for nodes go before those of the run. While there are some, each new job of the
    run waits as long as one that is submitted now: more of them are taken to come meanwhile.

    Args:
        partition: The partition as it is now.
        look: Its jobs; None if they are not known.
        starts_in_s: When Slurm expects to start a worker job; None if it does not say.
        wait_s: What a new job waits, if somebody says so.
    """
    in_use = partition.node_count - partition.idle_nodes
    found = look or Outlook(busy=(), unknown=in_use, ahead=0, starts_in_s=math.inf)
    words = [_of_nodes(partition, found)]
    times_s = [time_s for time_s, count in found.busy for _ in range(count)]
    times_s += [_UNKNOWN_S] * found.unknown
    times_s = sorted([*times_s, *[0.0] * (partition.node_count - len(times_s))])
    waits_s = 0.0
    expects_s = starts_in_s if starts_in_s is None or starts_in_s > _AT_ONCE_S else 0.0
    if wait_s is not None:
        waits_s = wait_s
        words.append(f"each new job waits {wait_s:.0f} s, as you say")
    elif found.ahead:
        # Slurm's estimate adds up the walltimes of waiting jobs and fills no gap before them, while
        # its scheduler does: on an idle node it named 20 minutes for a job that started at once.
        known = found.starts_in_s < math.inf
        waits_s = found.starts_in_s if known else (expects_s or _UNKNOWN_S)
        words.append(_of_queue(partition, found, waits_s, "by their walltimes" if known else ""))
    elif expects_s is not None:
        when = f"in {expects_s:.0f} s" if expects_s else "at once"
        words.append(f"Slurm expects to start a worker job {when} ({_ASKED})")
        # No node has room before, and one has it then.
        times_s = [expects_s, *(max(time_s, expects_s) for time_s in times_s[1:])]
    busy = [(time_s, times_s.count(time_s)) for time_s in sorted(set(times_s)) if time_s]
    model = ClusterModel(
        nodes=partition.node_count,
        start_s=_START_S,
        boot_s=_BOOT_S,
        end_s=_END_S,
        wait_s=waits_s,
        busy=tuple(busy),
    )
    return model, words


def _slurm() -> Slurm:
    return Slurm(timeout_s=_PATIENCE_S, patience_s=_PATIENCE_S)


def _partition(options: WorkerOptions, partitions: Mapping[str, Partition]) -> Partition:
    """Return the partition of the worker jobs."""
    default = next((one.name for one in partitions.values() if one.is_default), "")
    found = partitions.get(options.partition or default)
    if found is None:
        raise ConfigError(
            f"Slurm has no partition {options.partition!r}; it has: {', '.join(partitions)}"
        )
    return found


def _starts_in_s(
    slurm: Slurm, script: JobScript, what: str, now: datetime
) -> tuple[float | None, Sequence[str]]:
    """Return when Slurm expects to start a job, None with the reason if that is not known."""
    try:
        at = slurm.expected_start(script)
    except SlurmRefused as error:
        return None, [f"Slurm refuses {what}: {error}"]
    except (SlurmUnavailable, JobScriptError) as error:
        return None, [f"when Slurm would start {what} is not known: {error}"]
    return max((at - now).total_seconds(), 0.0), []


def _of_nodes(partition: Partition, found: Outlook) -> str:
    words = f"{counted(partition.idle_nodes, 'node')} of {partition.node_count} in {partition.name} idle"
    if found.busy:
        count = sum(nodes for _, nodes in found.busy)
        words += (
            f"; {count} without room for {found.busy[0][0]:.0f}"
            + f" to {found.busy[-1][0]:.0f}" * (len(found.busy) > 1)
            + " s at most, by the walltimes of their jobs (squeue)"
        )
    if found.unknown:
        words += f"; {found.unknown} for a time that is not known: {_UNKNOWN_S:.0f} s are assumed"
    return words


def _of_queue(partition: Partition, found: Outlook, waits_s: float, how: str) -> str:
    return (
        f"{counted(found.ahead, 'job')} in {partition.name} before those of the run (squeue): each "
        f"new one is taken to wait {waits_s:.0f} s, {how or 'since no end of theirs is known'}"
    )
