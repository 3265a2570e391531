"""Slurm's refusals and reasons for waiting in words, with what the user can do (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from orchestrator.slurm.inventory import Licence, Partition, gres_of
from orchestrator.wording import size_text

if TYPE_CHECKING:
    from orchestrator.slurm.script import JobResources

__all__ = [
    "REASONS",
    "WaitReason",
    "explain_reason",
    "explain_refusal",
    "impossible",
    "waits_for_other_jobs",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitReason:
    """Why a job waits. can_resolve: whether it may start without anybody changing something."""

    text: str
    can_resolve: bool


def _waits(text: str) -> WaitReason:
    return WaitReason(text=text, can_resolve=True)


def _stuck(text: str) -> WaitReason:
    return WaitReason(text=text, can_resolve=False)


_LIMITS = (
    "a limit on {what} is reached; the job starts when earlier jobs end (`sacctmgr show "
    "association`, `sacctmgr show qos`)"
)
REASONS: Mapping[str, WaitReason] = {
    "None": _waits("Slurm has not looked at the job yet"),
    "Resources": _waits("the nodes that it needs are in use"),
    "Priority": _waits("jobs of higher priority wait in its partition"),
    "Licenses": _waits("the licences that it needs are in use"),
    "Reservation": _waits("its reservation has not begun"),
    "BeginTime": _waits("its begin time has not come, or it was requeued a moment ago"),
    "Cleaning": _waits("its last attempt is being cleaned up"),
    "Prolog": _waits("the prolog of its nodes is running"),
    "Dependency": _waits("a job that it depends on has not ended"),
    "JobArrayTaskLimit": _waits("as many tasks of its array as are allowed at once are running"),
    "NodeDown": _waits("a node that it needs is down"),
    "Nodes_required_for_job_are_DOWN": _waits("its nodes are down, drained or reserved"),
    "ReqNodeNotAvail": _waits(
        "a node that it needs is down, drained or set aside, perhaps for a maintenance that begins "
        "before its walltime would be over (`scontrol show reservation`); a shorter walltime may "
        "let it start"
    ),
    "PartitionDown": _waits("its partition is down; ask the site, or use another partition"),
    "PartitionInactive": _waits("its partition starts no jobs; ask the site, or use another"),
    "FrontEndDown": _waits("no front-end node is available"),
    "SystemFailure": _waits("Slurm, its file system or its network has failed; ask the site"),
    "ReservationDeleted": _stuck("its reservation was deleted; cancel it, or name another one"),
    "JobHeldUser": _stuck("it is held by its owner; release it with `scontrol release JOB`"),
    "JobHeldAdmin": _stuck("it is held by an administrator; ask the site"),
    "JobHoldMaxRequeue": _stuck("it was requeued too often, and is held; look at its output"),
    "job_requeued_in_held_state": _stuck(
        "it was requeued and held after a failed start; see its nodes with `sinfo -R`, then "
        "`scontrol release JOB`"
    ),
    "launch_failed_requeued_held": _stuck(
        "its start failed, and it was requeued and held; see its nodes with `sinfo -R`, then "
        "`scontrol release JOB`"
    ),
    "DependencyNeverSatisfied": _stuck("a job that it depends on failed; cancel it"),
    "BadConstraints": _stuck("no node meets its constraints; cancel it and ask for less"),
    "InvalidAccount": _stuck(
        "its account does not exist; choose one of `sacctmgr show associations user=$USER`"
    ),
    "InvalidQOS": _stuck(
        "its QOS does not exist, or its account may not use it; choose one of `sacctmgr show "
        "associations user=$USER format=account,qos`"
    ),
    "AccountNotAllowed": _stuck("its partition does not accept its account; change one of them"),
    "QOSNotAllowed": _stuck("its partition or account does not accept its QOS; change one of them"),
    "AccountingPolicy": _waits(_LIMITS.format(what="its account")),
    "PartitionTimeLimit": _stuck(
        "its walltime is above the limit of its partition (`sinfo -o '%P %l'`); ask for less"
    ),
    "PartitionNodeLimit": _stuck(
        "it asks for more nodes than its partition has or allows (`sinfo -o '%P %D'`); ask for "
        "fewer, or use another partition"
    ),
    "PartitionConfig": _stuck(
        "its partition cannot run it as it is; ask for less, or use another partition"
    ),
    "NodeConfig": _stuck("no node of its partition has what it asks for; ask for less"),
    "FailedLaunch": _stuck("its start failed; see its nodes with `sinfo -R`"),
    "NonZeroExitCode": _stuck("it ended with an error; see its output"),
    "TimeLimit": _stuck("its walltime was over; ask for more"),
    "OutOfMemory": _stuck("it used more memory than it asked for; ask for more"),
    "NodeFail": _stuck("one of its nodes failed"),
}
# Per-job maxima never become free; the others do when earlier jobs end.
_PER_JOB = re.compile(
    r"^(Assoc|QOS)Max\w*(PerJob|PerNode)\w*(Limit)?$|MaxWallDurationPerJob|MaxWall"
)
_TOO_LITTLE = re.compile(r"^QOSMin\w+$")
_SPENT = re.compile(r"^(Assoc|QOS)Grp\w*(Minutes|RunMinutes)\w*$")
_POLICY = re.compile(r"^(Assoc|QOS|Max)\w*$")


def explain_reason(reason: str) -> WaitReason:
    """Return what a reason of Slurm's means, and whether the job may start by itself.

    Args:
        reason: As ``squeue`` prints it, with or without details: ``ReqNodeNotAvail,
            UnavailableNodes:c1``.

    Returns:
        A text without a full stop. A reason that is not known here is taken to pass.

    >>> explain_reason("PartitionTimeLimit").can_resolve
    False
    """
    word = _word(reason)
    known = REASONS.get(word) or REASONS.get(word.removesuffix("_"))
    if known is None and word.startswith("Nodes_required_for_job"):
        known = REASONS["Nodes_required_for_job_are_DOWN"]
    if known is not None:
        return known
    if _PER_JOB.search(word):
        return _stuck(
            f"it asks for more than one job may have ({word}); ask for less, or use another QOS "
            "(`sacctmgr show qos`)"
        )
    if _TOO_LITTLE.search(word):
        return _stuck(
            f"it asks for less than its QOS demands ({word}); ask for more, or use another QOS "
            "(`sacctmgr show qos`)"
        )
    if _SPENT.search(word):
        return _waits(f"the budget of its account or QOS is used up ({word}); ask the site")
    if _POLICY.search(word):
        return _waits(_LIMITS.format(what=f"its user, account or QOS ({word})"))
    return _waits(f"Slurm gives the reason {reason!r}" if word else "Slurm gives no reason")


def waits_for_other_jobs(reason: str) -> bool:
    """Return whether a job waits until other jobs leave nodes, or room in a limit.

    Args:
        reason: As for `explain_reason`.

    >>> [waits_for_other_jobs(r) for r in ("Resources", "QOSMaxCpuPerUserLimit", "BeginTime")]
    [True, True, False]
    """
    word = _word(reason)
    if _POLICY.search(word) and not _SPENT.search(word):
        return explain_reason(reason).can_resolve
    return word in ("Resources", "Priority")


def _word(reason: str) -> str:
    return re.split(r"[,(:]", reason.strip(" ()"), maxsplit=1)[0].strip().replace(" ", "_")


def explain_refusal(
    words: str,
    resources: JobResources,
    partitions: Mapping[str, Partition],
    licenses: Mapping[str, Licence] | None = None,
) -> str:
    """Return why Slurm refused a job, in its own words and in ours, and what to do.

    Args:
        words: What ``sbatch`` printed.
        resources: What the job asks for.
        partitions: What the cluster has; empty if that is not known.
        licenses: The licences of the cluster.
    """
    said = " ".join(
        re.sub(
            r"^((sbatch|srun|salloc|scontrol): (error: )?|allocation failure: )", "", line
        ).strip()
        for line in words.splitlines()
    ).strip()
    text = said.lower()
    known = _Cluster(partitions=partitions, licenses=licenses or {})
    cause = next((explain(resources, known) for word, explain in _REFUSALS if word in text), None)
    return f"Slurm refuses the job: {said or 'it gives no reason'}" + (
        f". {cause}" if cause else ""
    )


def impossible(resources: JobResources, partitions: Mapping[str, Partition]) -> list[str]:
    """Return why no node, or no walltime, of the cluster can ever meet a request; empty if one can.

    Args:
        resources: What a job asks for; a partition of None is the default one. Of several, as
            ``short,long``, one that can meet it is enough.
        partitions: What the cluster has; empty if that is not known.
    """
    names = [] if resources.partition is None else resources.partition.split(",")
    if partitions and not partitions.keys() >= {*names}:
        return [_unknown_partition(resources, _Cluster(partitions, {}))]
    lacks = [_lacks(resources, one, partitions) for one in _partitions_of(resources, partitions)]
    return lacks[0] if lacks and all(lacks) else []


def _lacks(
    resources: JobResources, partition: Partition, partitions: Mapping[str, Partition]
) -> list[str]:
    """Return what a partition lacks of a request."""
    found = []
    where = f"partition {partition.name!r}"
    # A QOS may lift the limits of a partition (its flags PartitionMaxNodes and PartitionTimeLimit).
    is_limited = resources.qos is None
    most_nodes = partition.node_count
    if is_limited and partition.max_nodes is not None:
        most_nodes = min(most_nodes, partition.max_nodes)
    if resources.nodes > most_nodes:
        found.append(f"{where} has {most_nodes} nodes for a job, {resources.nodes} asked for")
    cores = (resources.cores or 1) * (resources.tasks_per_node or 1)
    if partition.cores_per_node and cores > partition.cores_per_node:
        found.append(
            f"a node of {where} has at most {partition.cores_per_node} CPUs, {cores} asked for"
        )
    memory = resources.memory_bytes or 0
    if partition.memory_per_node_bytes and memory > partition.memory_per_node_bytes:
        found.append(
            f"a node of {where} has at most {size_text(partition.memory_per_node_bytes)} of memory, "
            f"{size_text(memory)} asked for"
        )
    for name, count in gres_of(resources.all_gres).items():
        has = partition.gres.get(name, 0)
        if count > has:
            found.append(
                f"a node of {where} has {has or 'no'} {name!r}, {count} asked for"
                + _elsewhere(name, count, has, partitions)
            )
    if (
        is_limited
        and resources.walltime
        and partition.max_walltime
        and resources.walltime > partition.max_walltime
    ):
        found.append(
            f"{where} allows a walltime of {partition.max_walltime}, {resources.walltime} asked for"
        )
    return found


def _elsewhere(name: str, count: int, has: int, partitions: Mapping[str, Partition]) -> str:
    """Return which partitions have a resource that one lacks, as the rest of a sentence."""
    counts = {one.name: one.gres.get(name, 0) for one in partitions.values() if one.is_offered}
    able = [partition for partition, number in counts.items() if number >= count]
    if able:
        return f"; {' and '.join(able)} has them"
    most = max(counts.values(), default=0)
    if most <= has:
        return ""
    best = [partition for partition, number in counts.items() if number == most]
    return f"; {' and '.join(best)} has {most}"


@dataclass(frozen=True, slots=True)
class _Cluster:
    partitions: Mapping[str, Partition]
    licenses: Mapping[str, Licence]


def _partitions_of(resources: JobResources, partitions: Mapping[str, Partition]) -> list[Partition]:
    """Return the partitions that a job may run in, as far as the cluster has them."""
    if resources.partition is None:
        return [one for one in partitions.values() if one.is_default]
    return [partitions[name] for name in resources.partition.split(",") if name in partitions]


def _unknown_partition(resources: JobResources, known: _Cluster) -> str:
    if not known.partitions:
        return "See the partitions with `sinfo -s`"
    asked = (resources.partition or "").split(",")
    unknown = next((name for name in asked if name not in known.partitions), asked[0])
    near = get_close_matches(unknown, known.partitions, 1)
    names = ", ".join(one.name for one in known.partitions.values() if one.is_offered)
    if near:
        return (
            f"There is no partition {unknown!r}; did you mean {near[0]!r}? This cluster has {names}"
        )
    return f"There is no partition {unknown!r}: this cluster has {names}"


def _unknown_option(resources: JobResources, _known: _Cluster) -> str:
    options = ", ".join(f"--{name}" for name, _ in resources.plugin_options)
    if not options:
        return "This Slurm has no such option; correct `extra`"
    return (
        f"No plugin of this Slurm knows {options}; leave the table `qfw` out where the site does not "
        "have qfw-slurm"
    )


def _too_much(resources: JobResources, known: _Cluster) -> str:
    reasons = impossible(resources, known.partitions)
    if reasons:
        return "; ".join(_capitalised(reason) for reason in reasons) + ". Ask for less"
    return "No node of the partition has what the job asks for; see `sinfo -o '%P %D %c %m %G %l'`"


def _gres(resources: JobResources, known: _Cluster) -> str:
    has = {name for one in known.partitions.values() for name in one.gres}
    listed = ", ".join(sorted(has)) or "none"
    return (
        f"The job asks for {resources.all_gres!r}: the generic resources of this cluster are {listed}"
        "; correct `gres`, or leave it out"
    )


def _licence(resources: JobResources, known: _Cluster) -> str:
    has = ", ".join(f"{one.name} ({one.total})" for one in known.licenses.values()) or "none"
    return (
        f"The job asks for {resources.licenses!r}: the licences of this cluster, and how many there "
        f"are, are {has}; correct `license`"
    )


def _account(resources: JobResources, known: _Cluster) -> str:
    hint = "".join(
        f"; partition {one.name!r} accepts {', '.join(one.accounts)}"
        for one in _partitions_of(resources, known.partitions)
        if one.accounts
    )
    return (
        f"You may not use account {resources.account or '(the default)'!r} there{hint}; choose one "
        "that `sacctmgr show associations user=$USER format=account,partition,qos` prints"
    )


def _qos(resources: JobResources, known: _Cluster) -> str:
    hint = "".join(
        f"; partition {one.name!r} accepts {', '.join(one.qos)}"
        for one in _partitions_of(resources, known.partitions)
        if one.qos
    )
    return (
        f"You may not use QOS {resources.qos or '(the default)'!r} there{hint}; choose one that "
        "`sacctmgr show associations user=$USER format=account,qos` prints"
    )


def _features(resources: JobResources, known: _Cluster) -> str:
    has = {name for one in known.partitions.values() for name in one.features}
    return (
        f"No node has the constraint {resources.constraint!r}: features of this cluster are "
        f"{', '.join(sorted(has)) or 'none'}"
    )


def _saying(text: str) -> Callable[[JobResources, _Cluster], str]:
    return lambda _resources, _known: text


# In this order: a message may hold several of them, the telling one first.
_REFUSALS: tuple[tuple[str, Callable[[JobResources, _Cluster], str]], ...] = (
    ("unrecognized option", _unknown_option),
    ("invalid partition", _unknown_partition),
    ("invalid account", _account),
    ("account not permitted", _account),
    ("invalid qos", _qos),
    ("qos specification", _qos),
    ("invalid license", _licence),
    ("invalid generic resource", _gres),
    ("invalid feature", _features),
    (
        "reservation",
        lambda resources, _known: (
            f"Reservation {resources.reservation!r} does not exist, is over, or is not for you; see "
            "`scontrol show reservation`"
        ),
    ),
    ("node configuration is not available", _too_much),
    ("memory specification", _too_much),
    ("node count specification", _too_much),
    ("cpu count", _too_much),
    ("more processors requested", _too_much),
    ("requested partition configuration not available", _too_much),
    ("time limit", _too_much),
    (
        "required partition not available",
        _saying("The partition is down or drained; use another one, or ask the site"),
    ),
    (
        "user's group not permitted",
        _saying("Your group may not use the partition; use another one, or ask the site"),
    ),
    (
        "accounting/qos policy",
        _saying(
            "A limit of your account or QOS forbids it (`sacctmgr show associations user=$USER`, "
            "`sacctmgr show qos`); ask for less, or wait for earlier jobs to end"
        ),
    ),
    ("dependency", _saying("The job that it depends on is not known to Slurm any more")),
    ("permission denied", _saying("Slurm does not let you do that; ask the site")),
)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
