"""When a partition's nodes become free, and when a new job would start there (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.slurm.inventory import Partition, duration_of
from orchestrator.slurm.node_lists import nodes_of
from orchestrator.slurm.states import SlurmState, count_of, records_of, state_of, time_of

__all__ = ["ENTRY_FIELDS", "Outlook", "QueueEntry", "outlook", "parse_entries"]

# In this order `squeue -O` prints them; none of them is a text that people choose freely.
ENTRY_FIELDS = (
    "JobID",
    "State",
    "Partition",
    "NumNodes",
    "NumCPUs",
    "StartTime",
    "EndTime",
    "TimeLimit",
    "PriorityLong",
    "OverSubscribe",
    "Reason",
    "NodeList",
)
# Jobs with other reasons wait for something else, such as a time, another job, a limit or an
# operator, unless Slurm has planned when they start.
_FOR_NODES = ("", "None", "Priority", "Resources")
# More jobs ahead than that are not placed one by one; Slurm's own planning has such a limit, too.
_MOST_AHEAD = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """A job of anybody, as far as nodes are concerned.

    Attributes:
        partitions: Where it runs, or may run.
        nodes: The nodes that it has; empty while it waits.
        starts_at: When it started; of a waiting job, when Slurm expects to start it, None if it
            does not know.
        ends_at: When its walltime is over; None without a limit, or while it waits.
        walltime: None without a limit.
        exclusive: Whether no other job may use its nodes.
        reason: Why it waits, in Slurm's words.
    """

    state: SlurmState
    partitions: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    node_count: int = 1
    cpus: int = 1
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    walltime: timedelta | None = None
    priority: int = 0
    exclusive: bool = False
    reason: str = ""

    @property
    def waits_for_nodes(self) -> bool:
        """Whether it would start if there were nodes; a held job would not."""
        is_planned = self.starts_at is not None and self.reason != "BeginTime"
        return (
            self.state.is_waiting
            and self.priority > 0
            and (self.reason in _FOR_NODES or is_planned)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a new job finds in a partition.

    Attributes:
        busy: Nodes without room for it, each number with the seconds until they have it at the
            latest, by the walltimes of their jobs.
        unknown: Nodes that are in use or out of service for a time that is not known.
        ahead: Jobs that wait there for nodes.
        starts_in_s: When it starts at the latest by those walltimes, if no job that comes later
            overtakes it; infinite if that is not known.
    """

    busy: tuple[tuple[float, int], ...]
    unknown: int
    ahead: int
    starts_in_s: float


def parse_entries(text: str, *, separator: str, end: str) -> list[QueueEntry]:
    """Read what ``squeue -O`` printed: `ENTRY_FIELDS`, with times in seconds since 1970.

    Args:
        text: Its output.
        separator: Suffix of each field but the last.
        end: Suffix of the last field, which a line end follows.

    Returns:
        The jobs in the order of the queue. Raises ``ValueError`` for another form.
    """
    entries = []
    for record in records_of(text, end):
        fields = record.split(separator)
        if len(fields) != len(ENTRY_FIELDS):
            raise ValueError(f"unexpected output of squeue: {record[:200]!r}")
        entries.append(_entry(dict(zip(ENTRY_FIELDS, map(str.strip, fields), strict=True))))
    return entries


def outlook(
    partition: Partition,
    jobs: Sequence[QueueEntry],
    *,
    now: datetime,
    cores: int | None,
    walltime: timedelta | None,
    unknown_s: float,
) -> Outlook:
    """Return what a new job of one node finds in a partition.

    Waiting jobs are placed in order of priority, each at the time at which Slurm expects to start
    it, else as early as its nodes are free for all its walltime; the new job comes last, and may
    fill a gap before them, as Slurm's backfill scheduler does it.

    Args:
        partition: The partition.
        jobs: Those of all users and partitions, as far as Slurm shows them.
        now: The moment.
        cores: CPUs of the new job; None if it takes a whole node.
        walltime: Of the new job; None without a limit.
        unknown_s: For how long nodes are taken as busy whose end is not known.
    """
    on_node: dict[str, list[QueueEntry]] = {}
    for job in jobs:
        for node in job.nodes if job.state.is_running else ():
            on_node.setdefault(node, []).append(job)
    known = [node for node in partition.nodes if node in on_node]
    free_in_s = [
        _node_free_in_s(on_node[node], partition.cores_per_node, cores, now) for node in known
    ]
    endless = sum(time_s == math.inf for time_s in free_in_s)
    hidden = max(partition.node_count - partition.idle_nodes - len(known), 0)
    busy = _counted(time_s for time_s in free_in_s if 0 < time_s < math.inf)
    waiting = [job for job in jobs if job.waits_for_nodes and partition.name in job.partitions]
    waiting.sort(key=lambda job: -job.priority)
    plan = _NodePlan(partition.node_count, [*busy, (unknown_s, endless + hidden)])
    for job in waiting[:_MOST_AHEAD]:
        plan.place(
            min(_nodes_wanted(job, partition), partition.node_count),
            math.inf if job.walltime is None else job.walltime.total_seconds(),
            None if job.starts_at is None else (job.starts_at - now).total_seconds(),
        )
    share = 1.0 if cores is None else min(cores / max(partition.cores_per_node, 1), 1.0)
    starts_in_s = plan.earliest(share, math.inf if walltime is None else walltime.total_seconds())
    return Outlook(busy=busy, unknown=endless + hidden, ahead=len(waiting), starts_in_s=starts_in_s)


def _entry(known: Mapping[str, str]) -> QueueEntry:
    state = state_of(known["State"])
    try:
        nodes = nodes_of(known["NodeList"]) if state.is_running else ()
    except ValueError:
        nodes = ()  # one strange list must not hide all other jobs
    return QueueEntry(
        state=state,
        partitions=tuple(known["Partition"].split(",")),
        nodes=nodes,
        node_count=count_of(known["NumNodes"]),
        cpus=count_of(known["NumCPUs"]),
        starts_at=time_of(known["StartTime"]),
        ends_at=time_of(known["EndTime"]) if state.is_running else None,
        walltime=duration_of(known["TimeLimit"]),
        priority=count_of(known["PriorityLong"]),
        exclusive=known["OverSubscribe"].upper() == "NO",
        reason=known["Reason"],
    )


def _node_free_in_s(
    jobs: Sequence[QueueEntry], has: int, cores: int | None, now: datetime
) -> float:
    """Return when a node has room for a new job, 0 if it has it now, infinite if not known."""
    ends = sorted((_ends_in_s(job, now), *_taken(job, has)) for job in jobs)
    for number, (before_s, _, _) in enumerate([(0.0, 0, False), *ends]):
        left = ends[number:]
        if not left:
            return before_s
        is_shared = not any(whole for _, _, whole in left)
        if cores is not None and is_shared and sum(taken for _, taken, _ in left) + cores <= has:
            return before_s
    return 0.0


def _ends_in_s(job: QueueEntry, now: datetime) -> float:
    if job.ends_at is None:
        return math.inf
    return max((job.ends_at - now).total_seconds(), 1.0)  # it should have ended, and has not


def _taken(job: QueueEntry, has: int) -> tuple[int, bool]:
    """Return how many CPUs of each node a job has, and whether the node is its alone."""
    per_node = math.ceil(job.cpus / max(job.node_count, 1))
    return per_node, job.exclusive or per_node >= has


def _nodes_wanted(job: QueueEntry, partition: Partition) -> float:
    """Return how many nodes a waiting job takes; a part of one where it shares it."""
    if job.exclusive or not partition.cores_per_node:
        return float(job.node_count)
    return min(job.cpus / partition.cores_per_node, float(job.node_count))


def _counted(times_s: Iterable[float]) -> tuple[tuple[float, int], ...]:
    found: dict[float, int] = {}
    for time_s in sorted(times_s):
        found[time_s] = found.get(time_s, 0) + 1
    return tuple(found.items())


class _NodePlan:
    """How many nodes are taken at which time. changes: by time, from 0 on."""

    def __init__(self, nodes: int, busy: Iterable[tuple[float, int]]) -> None:
        self._nodes = nodes
        self._changes: dict[float, float] = {0.0: 0.0}
        for until_s, count in busy:
            self._take(0.0, until_s, count)

    def place(self, nodes: float, seconds: float, start_s: float | None) -> None:
        """Take nodes as early as they are free, or from a time that is known."""
        begin_s = self.earliest(nodes, seconds) if start_s is None else max(start_s, 0.0)
        if begin_s < math.inf:
            self._take(begin_s, begin_s + seconds, nodes)

    def earliest(self, nodes: float, seconds: float) -> float:
        """Return the first time from which so many nodes are free for so long."""
        begin_s, taken = 0.0, 0.0
        times = sorted(self._changes)
        for number, time_s in enumerate(times):
            taken += self._changes[time_s]
            next_s = times[number + 1] if number + 1 < len(times) else math.inf
            if taken + nodes > self._nodes + 1e-9:
                begin_s = next_s
            elif begin_s + seconds <= next_s:
                return begin_s
        return math.inf

    def _take(self, begin_s: float, end_s: float, nodes: float) -> None:
        self._changes[begin_s] = self._changes.get(begin_s, 0.0) + nodes
        if end_s < math.inf:
            self._changes[end_s] = self._changes.get(end_s, 0.0) - nodes
