"""Jobs as Slurm's queue and accounting report them, and what their states mean (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from orchestrator.identity import IdentityError, SlurmTag
from orchestrator.slurm.inventory import gres_of
from orchestrator.slurm.node_lists import nodes_of

__all__ = [
    "ACCOUNTING_FIELDS",
    "QUEUE_FIELDS",
    "AccountedJob",
    "JobDetails",
    "SlurmJob",
    "SlurmState",
    "count_of",
    "parse_accounting",
    "parse_details",
    "parse_queue",
    "records_of",
    "state_of",
    "time_of",
    "tres_of",
]

# In this order `squeue -O` prints them. Slurm can neither quote nor escape: the texts that people
# choose come last, and the separators between the fields hold a random number.
QUEUE_FIELDS = (
    "JobID",
    "State",
    "UserName",
    "Account",
    "Partition",
    "NumNodes",
    "NumCPUs",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "RestartCnt",
    "PriorityLong",
    "HetJobID",
    "HetJobOffset",
    "NodeList",
    "tres-alloc",
    "Licenses",
    "Reason",
    "Comment",
    "Name",
)
# The first and the last one hold no line ends: by them records are told apart.
ACCOUNTING_FIELDS = (
    "JobIDRaw",
    "State",
    "User",
    "Account",
    "Partition",
    "Submit",
    "Start",
    "End",
    "NNodes",
    "AllocCPUS",
    "AllocTRES",
    "ExitCode",
    "Comment",
    "JobName",
    "ElapsedRaw",
)
_NOTHING = ("", "(null)", "N/A", "n/a", "None", "Unknown", "NONE")
_EXIT_CODE = re.compile(r" ExitCode=([0-9]+):([0-9]+)")
_NODE_GRES = re.compile(r" GRES=(\S*)")
_SCALES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


class SlurmState(StrEnum):
    """State of a Slurm job. A state that no known version of Slurm has is `UNKNOWN`."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    POWER_UP_NODE = "POWER_UP_NODE"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    STAGE_OUT = "STAGE_OUT"
    SIGNALING = "SIGNALING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    RESIZING = "RESIZING"
    UPDATE_DB = "UPDATE_DB"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BOOT_FAIL = "BOOT_FAIL"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    DEADLINE = "DEADLINE"
    REVOKED = "REVOKED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_over(self) -> bool:
        """Whether the job never runs again under this id, unless somebody requeues it."""
        return self in _OVER

    @property
    def is_waiting(self) -> bool:
        """Whether the job has no nodes and Slurm may give it some; held jobs are among them."""
        return self in _WAITING

    @property
    def is_running(self) -> bool:
        """Whether the job has nodes, even if its script has not begun, is stopped or ends."""
        return self in _RUNNING


_WAITING = {
    SlurmState.PENDING,
    SlurmState.REQUEUED,
    SlurmState.REQUEUE_FED,
    SlurmState.REQUEUE_HOLD,
    SlurmState.RESV_DEL_HOLD,
    SlurmState.SPECIAL_EXIT,
}
_RUNNING = {
    SlurmState.CONFIGURING,
    SlurmState.POWER_UP_NODE,
    SlurmState.RUNNING,
    SlurmState.COMPLETING,
    SlurmState.STAGE_OUT,
    SlurmState.SIGNALING,
    SlurmState.SUSPENDED,
    SlurmState.STOPPED,
    SlurmState.RESIZING,
    SlurmState.UPDATE_DB,
}
_OVER = {
    SlurmState.COMPLETED,
    SlurmState.FAILED,
    SlurmState.CANCELLED,
    SlurmState.TIMEOUT,
    SlurmState.NODE_FAIL,
    SlurmState.PREEMPTED,
    SlurmState.OUT_OF_MEMORY,
    SlurmState.BOOT_FAIL,
    SlurmState.LAUNCH_FAILED,
    SlurmState.RECONFIG_FAIL,
    SlurmState.DEADLINE,
    SlurmState.REVOKED,
}
_HOLDS = {SlurmState.REQUEUE_HOLD, SlurmState.RESV_DEL_HOLD, SlurmState.SPECIAL_EXIT}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """A job, or a component of a heterogeneous one, as the queue has it now.

    Attributes:
        user: Login name of the owner.
        reason: Why it waits or how it ended, in Slurm's words; see `explain_reason`.
        nodes: The nodes it has; empty while it waits.
        started_at: When its last attempt started; of a waiting job, when Slurm expects to start it.
        ended_at: When it ended; None before.
        ends_by: When its walltime is over; None while it waits or without a limit.
        restarts: How often it was requeued.
        held: Whether it waits until somebody releases it.
        tres: What it has, or asks for, as ``cpu=4,node=1,gres/qpu=1``.
        licenses: What it holds or asks for, as ``qpu_lab:1``.
        leader: Id of the heterogeneous job it is a component of; None for an ordinary job.
        component: Its number in that job.
    """

    id: int
    name: str
    user: str
    state: SlurmState
    account: str = ""
    reason: str = ""
    partition: str = ""
    nodes: tuple[str, ...] = ()
    node_count: int = 0
    cpus: int = 0
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ends_by: datetime | None = None
    restarts: int = 0
    comment: str = ""
    held: bool = False
    licenses: str = ""
    tres: str = ""
    leader: int | None = None
    component: int = 0

    @property
    def was_refused(self) -> bool:
        """Whether Slurm refused it at submission: it keeps such jobs in the queue for a while."""
        return self.state is SlurmState.FAILED and not self.nodes

    @property
    def tag(self) -> SlurmTag | None:
        """The identity in its comment; None for a job that is not ours."""
        return _tag(self.comment)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountedJob:
    """One attempt of a job, as Slurm's accounting has it; a requeued job has several.

    Attributes:
        elapsed_s: Seconds that this attempt had its nodes, without the time it was suspended.
        tres: Allocated resources by name, as ``{"cpu": 4, "node": 1, "gres/qpu": 1}``; memory and
            other sizes in bytes.
        comment: Empty unless the site stores comments (``AccountingStoreFlags=job_comment``).
        exit_code: As the job's script returned it; 0 if a signal ended it.
        signal: Number of the signal that ended it, 0 for none.
    """

    id: int
    name: str
    user: str
    account: str
    partition: str
    state: SlurmState
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    elapsed_s: float
    node_count: int
    cpus: int
    tres: Mapping[str, float] = field(default_factory=dict)
    comment: str = ""
    exit_code: int = 0
    signal: int = 0

    @property
    def node_seconds(self) -> float:
        """Seconds times nodes."""
        return self.elapsed_s * self.node_count if self.started_at else 0.0

    @property
    def core_seconds(self) -> float:
        """Seconds times cores, as Slurm counts CPUs."""
        return self.elapsed_s * self.cpus if self.started_at else 0.0

    @property
    def tag(self) -> SlurmTag | None:
        """The identity in its comment; None where there is none."""
        return _tag(self.comment)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetails:
    """What Slurm says of one job alone.

    Attributes:
        exit_code: As the job's script returned it; 0 before its end, and if a signal ended it.
        signal: Number of the signal that ended it, 0 for none.
        gres_per_node: Generic resources that it has on each of its nodes, the least of each one, as
            ``{"gpu": 2}``.
    """

    exit_code: int = 0
    signal: int = 0
    gres_per_node: Mapping[str, int] = field(default_factory=dict)

    @property
    def ending(self) -> str:
        """How the script ended, as ``exit code 3``; empty if Slurm does not say."""
        if self.exit_code:
            return f"exit code {self.exit_code}"
        return f"signal {self.signal}" if self.signal else ""


def state_of(text: str) -> SlurmState:
    """Return the state that a text of Slurm's begins with, as ``CANCELLED by 1000``.

    >>> state_of("CANCELLED by 1000"), state_of("DREAMING")
    (<SlurmState.CANCELLED: 'CANCELLED'>, <SlurmState.UNKNOWN: 'UNKNOWN'>)
    """
    words = text.replace("+", " ").split()
    try:
        return SlurmState(words[0].upper()) if words else SlurmState.UNKNOWN
    except ValueError:
        return SlurmState.UNKNOWN


def tres_of(text: str) -> dict[str, float]:
    """Read a list of trackable resources; sizes such as ``mem=20000M`` become bytes.

    >>> tres_of("cpu=4,mem=2G,gres/qpu=1,license/qpu_lab@site=2")
    {'cpu': 4.0, 'mem': 2147483648.0, 'gres/qpu': 1.0, 'license/qpu_lab@site': 2.0}
    """
    found: dict[str, float] = {}
    for piece in "" if text in _NOTHING else text.split(","):
        name, _, value = piece.partition("=")
        scale = _SCALES.get(value[-1:], 1)
        try:
            found[name] = float(value.rstrip("KMGTP")) * scale
        except ValueError:
            continue  # such as gres/gpu:a100=?; nothing that could be counted
    return found


def parse_queue(text: str, *, separator: str, end: str) -> list[SlurmJob]:
    r"""Read what ``squeue -O`` printed: `QUEUE_FIELDS`, each with a suffix and of any width.

    Args:
        text: Its output, with times in seconds since 1970 (``SLURM_TIME_FORMAT=%s``).
        separator: Suffix of each field but the last.
        end: Suffix of the last field, which a line end follows.

    Returns:
        The jobs in the order of the queue. Raises ``ValueError`` for another form.
    """
    jobs = []
    for record in records_of(text, end):
        fields = record.split(separator, len(QUEUE_FIELDS) - 1)
        if len(fields) != len(QUEUE_FIELDS):
            raise ValueError(f"unexpected output of squeue: {record[:200]!r}")
        known = dict(zip(QUEUE_FIELDS, fields, strict=True))
        if known["JobID"].isdecimal():  # a job array that waits as a whole has no id of this kind
            jobs.append(_queued(known))
    return jobs


def parse_accounting(text: str, *, separator: str) -> list[AccountedJob]:
    """Read what ``sacct --parsable2`` printed of `ACCOUNTING_FIELDS`, whatever names hold.

    Args:
        text: Its output without a header, with times in seconds since 1970.
        separator: What it was told to put between two fields.

    Returns:
        The attempts of jobs in the order of the output. Raises ``ValueError`` for another form.
    """
    between = len(ACCOUNTING_FIELDS) - 1
    pieces = text.removesuffix("\n").split(separator) if text.strip() else []
    if pieces and (len(pieces) - 1) % between:
        raise ValueError(f"unexpected output of sacct: {text[:200]!r}")
    jobs = []
    first = pieces[0] if pieces else ""
    for start in range(0, len(pieces) - 1, between):
        # The last field of a record and the first of the next are one piece, a line end between.
        last, _, following = pieces[start + between].partition("\n")
        fields = (first, *pieces[start + 1 : start + between], last)
        jobs.append(_accounted(dict(zip(ACCOUNTING_FIELDS, fields, strict=True))))
        first = following
    return jobs


def parse_details(text: str) -> JobDetails:
    """Read one job as ``scontrol show job --details --oneliner`` prints it."""
    ended = _EXIT_CODE.search(text)
    # What the job has on its nodes stands there, whether Slurm counts that resource or not.
    nodes = [gres_of(found[1]) for found in _NODE_GRES.finditer(text.partition(" NumNodes=")[2])]
    names = set[str]().union(*nodes)
    return JobDetails(
        exit_code=0 if ended is None else int(ended[1]),
        signal=0 if ended is None else int(ended[2]),
        gres_per_node={name: min(one.get(name, 0) for one in nodes) for name in sorted(names)},
    )


def records_of(text: str, end: str) -> Iterator[str]:
    """Yield the records of an output whose last field has a suffix. end: the suffix."""
    for record in text.split(end):
        # Only the line end that squeue itself prints after each job is not a part of a name.
        stripped = record.removeprefix("\n")
        if stripped.strip():
            yield stripped


def _queued(known: Mapping[str, str]) -> SlurmJob:
    state = state_of(known["State"])
    end = time_of(known["EndTime"])
    waits = state.is_waiting
    leader = known["HetJobID"]
    return SlurmJob(
        id=int(known["JobID"]),
        name=known["Name"],
        user=known["UserName"],
        account=_text(known["Account"]),
        state=state,
        reason=_text(known["Reason"]),
        partition=known["Partition"],
        nodes=() if waits else _nodes(known["NodeList"]),
        node_count=count_of(known["NumNodes"]),
        cpus=count_of(known["NumCPUs"]),
        submitted_at=time_of(known["SubmitTime"]),
        started_at=time_of(known["StartTime"]),
        ended_at=end if state.is_over else None,
        ends_by=end if state.is_running else None,
        restarts=count_of(known["RestartCnt"]),
        comment=_text(known["Comment"]),
        held=state in _HOLDS or (waits and known["PriorityLong"].strip() == "0"),
        licenses=_text(known["Licenses"]),
        tres=_text(known["tres-alloc"]),
        leader=int(leader) if leader.isdecimal() and leader != "0" else None,
        component=count_of(known["HetJobOffset"]),
    )


def _accounted(known: Mapping[str, str]) -> AccountedJob:
    code, _, signal = known["ExitCode"].partition(":")
    tres = tres_of(known["AllocTRES"])
    started, ended = time_of(known["Start"]), time_of(known["End"])
    if started is None and tres and not count_of(known["ElapsedRaw"]):
        started = ended  # Slurm forgets the start of an attempt requeued within its first second
    return AccountedJob(
        id=int(known["JobIDRaw"]),
        name=known["JobName"],
        user=known["User"],
        account=known["Account"],
        partition=known["Partition"],
        state=state_of(known["State"]),
        submitted_at=time_of(known["Submit"]),
        started_at=started,
        ended_at=ended,
        elapsed_s=float(count_of(known["ElapsedRaw"])),
        node_count=count_of(known["NNodes"]),
        cpus=count_of(known["AllocCPUS"]),
        tres=tres,
        comment=_text(known["Comment"]),
        exit_code=count_of(code),
        signal=count_of(signal),
    )


def _nodes(text: str) -> tuple[str, ...]:
    try:
        return nodes_of(text)
    except ValueError:
        return (text,)  # one strange list must not hide all other jobs


def _text(value: str) -> str:
    return "" if value in _NOTHING else value


def count_of(value: str) -> int:
    """Return a number as Slurm prints it, the least one of a range, 0 for none."""
    digits = value.split("-", maxsplit=1)[0].strip()  # a waiting job may ask for 1-3 nodes
    return int(digits) if digits.isdecimal() else 0


def time_of(value: str) -> datetime | None:
    """Return a time that Slurm printed in seconds since 1970, None for another text."""
    seconds = value.strip()
    return datetime.fromtimestamp(int(seconds), UTC) if seconds.isdecimal() else None


def _tag(comment: str) -> SlurmTag | None:
    try:
        return SlurmTag.parse(comment)
    except IdentityError:
        return None
