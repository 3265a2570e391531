"""Identities: how each one is made, its text, and how the text is read back (pure).

Ledgers, snapshots and stored results hold these texts, and a run that is continued finds its
earlier work by them. A change of any text loses that work. Two different identities never share a
text, whatever signs the names of users hold.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, NewType

from orchestrator.names import EXPECTED, RUN, is_name

__all__ = [
    "SERVICE_SCOPE",
    "SLURM_PURPOSES",
    "CallKey",
    "CallStage",
    "IdentityError",
    "JobId",
    "Occurrence",
    "Occurrences",
    "OwnedName",
    "Payer",
    "ProjectAccount",
    "ResultKey",
    "RunAccount",
    "RunId",
    "Scope",
    "SlurmOwner",
    "SlurmTag",
    "Tag",
    "UnitKey",
    "WorkerName",
    "account_from_text",
    "checked_run_id",
    "dated_run_id",
    "escaped",
    "is_job_id",
    "is_scope_of",
    "lock_file_name",
    "program_output",
    "qpu_identity",
    "results_audience",
    "reuse_tag",
    "sample_run_id",
    "slurm_job_name",
    "unescaped",
    "units_file_name",
]

RunId = NewType("RunId", str)
JobId = NewType("JobId", str)

# The part of the ledger that a broker service owns.
SERVICE_SCOPE = "service"

_INSIDE = "~"  # a scope inside a run, a unit inside a stage
_FIELD = "\x1f"
_PROJECT, _RUN = "project:", "run:"
_SLURM_TAG = "hpcqc:v2:"
_SLURM_TAG_OF_VERSION_1 = "hpcqc:v1:"  # without a state folder
_STATE = re.compile(r"[0-9a-f]{8}")
_JOB_ID = re.compile(r"j[0-9a-f]{20}")
_WORKER_NAME = re.compile(r"slurm-([0-9]+)-([0-9]+)-([0-9]+)-([0-9]+)")
_RESULT_KEY = re.compile(r"hpcqc-(?P<run>.+)-(?P<content>[0-9a-f]{16})-(?P<number>[0-9]+)")


class IdentityError(ValueError):
    """A text is not an identity of the expected kind."""


def escaped(part: str, separator: str) -> str:
    """Return a part of a joined name without the separator; one without it and ``%`` is itself."""
    return part.replace("%", "%25").replace(separator, f"%{ord(separator):02X}")


def unescaped(part: str, separator: str) -> str:
    """Return what `escaped` was given."""
    return part.replace(f"%{ord(separator):02X}", separator).replace("%25", "%")


def dated_run_id(at: datetime, token: str) -> RunId:
    """Return the id of a new run. token: a few random letters and digits.

    >>> dated_run_id(datetime(2026, 5, 4, 12, 30, 1), "0f3a9c")
    '20260504-123001-0f3a9c'
    """
    return RunId(f"{at:%Y%m%d-%H%M%S}-{token}")


def sample_run_id(token: str) -> RunId:
    """Return the id of the run of one ``hpcqc sample``. token: random letters and digits."""
    return RunId(f"sample-{token}")


def checked_run_id(text: str) -> RunId:
    """Return a run id whose scope no other run and no broker service has. Raises `IdentityError`."""
    if not is_name(text, RUN):
        raise IdentityError(f"invalid run id {text!r}: {EXPECTED[RUN]}")
    if text == SERVICE_SCOPE:
        raise IdentityError(
            f"invalid run id {text!r}: the ledger keeps the jobs of a broker service under this "
            "name; use another id"
        )
    return RunId(text)


@dataclass(slots=True)
class Occurrences:
    """Numbers equal contents from 0 in their order, so that a repetition finds the same numbers.

    >>> calls = Occurrences()
    >>> calls.next("a"), calls.next("b"), calls.next("a")
    (0, 0, 1)
    """

    _counts: Counter[Hashable] = field(default_factory=Counter)

    def next(self, content: Hashable) -> int:
        """Return how many equal contents came before this one."""
        number = self._counts[content]
        self._counts[content] = number + 1
        return number


@dataclass(frozen=True, slots=True)
class Occurrence:
    """The n-th of equal contents: a stage in its run, a unit in its stage. content: a digest.

    The text of a stage's occurrence is its stage key.

    >>> str(Occurrence("9f86d081884c7d65", 2))
    '9f86d081884c7d65-2'
    """

    content: str
    number: int

    def __str__(self) -> str:
        return f"{self.content}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Occurrence:
        """Read the text. Raises `IdentityError`."""
        content, dash, number = text.rpartition("-")
        if not dash:
            raise IdentityError(f"invalid stage key {text!r}: expected CONTENT-NUMBER")
        return cls(content, _number(number, text))


@dataclass(frozen=True, slots=True)
class UnitKey:
    """A unit of a fan-out. stage: key of the stage, or of the unit, that spreads it out.

    unit: text of its `Occurrence`. The key takes the place of a stage key in the unit's calls.

    >>> str(UnitKey("9f86d081884c7d65-2", "60303ae22b998861-0"))
    '9f86d081884c7d65-2~60303ae22b998861-0'
    """

    stage: str
    unit: str

    def __post_init__(self) -> None:
        if _INSIDE in self.unit:
            raise IdentityError(f"invalid unit {self.unit!r}: expected CONTENT-NUMBER")

    def __str__(self) -> str:
        return f"{self.stage}{_INSIDE}{self.unit}"

    @classmethod
    def parse(cls, text: str) -> UnitKey:
        """Read the text. Raises `IdentityError`."""
        stage, inside, unit = text.rpartition(_INSIDE)
        if not inside:
            raise IdentityError(f"invalid unit key {text!r}: expected STAGE{_INSIDE}UNIT")
        return cls(stage, unit)


def units_file_name(key: str, function: str) -> str:
    """Return the name of the file with a stage's finished units. function: digest of what they do."""
    return f"{key}-{function}.units"


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of a ledger that one broker owns: a run's, or that of one function on a worker.

    >>> str(Scope("night-scan")), str(Scope("night-scan", "9f86d081884c7d65-2"))
    ('night-scan', 'night-scan~9f86d081884c7d65-2')
    """

    run: str
    key: str = ""  # of the stage or unit whose function has its own broker; empty for the run

    def __post_init__(self) -> None:
        if _INSIDE in self.run:
            raise IdentityError(f"invalid run id {self.run!r}: use an id without {_INSIDE!r}")

    def __str__(self) -> str:
        return f"{self.run}{_INSIDE}{self.key}" if self.key else self.run

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read the text; each text is a scope."""
        run, _, key = text.partition(_INSIDE)
        return cls(run, key)


def is_scope_of(scope: str, run: str) -> bool:
    """Whether a scope is a run's own or of a function in it; for many scopes.

    >>> [is_scope_of(scope, "scan") for scope in ("scan", "scan~9f86-0", "scan-2", "service")]
    [True, True, False, False]
    """
    return scope == run or scope.startswith(f"{run}{_INSIDE}")


def lock_file_name(owner: str) -> str:
    """Return the name of the file that a process locks while it has a run, or a scope, open."""
    return f"{owner}.lock"


@dataclass(frozen=True, slots=True)
class ResultKey:
    """Under which Prefect stores the value of a stage. stage: its key.

    >>> str(ResultKey("scan", "9f86d081884c7d65-2"))
    'hpcqc-scan-9f86d081884c7d65-2'
    """

    run: str
    stage: str

    def __str__(self) -> str:
        return f"hpcqc-{self.run}-{self.stage}"

    @classmethod
    def parse(cls, text: str) -> ResultKey:
        """Read the text. Raises `IdentityError`."""
        found = _RESULT_KEY.fullmatch(text)
        if found is None:
            raise IdentityError(f"invalid result key {text!r}: expected hpcqc-RUN-STAGE")
        return cls(found["run"], f"{found['content']}-{found['number']}")


def qpu_identity(name: str, backend: str, options: Mapping[str, Any]) -> str:
    """Return a QPU's name with a digest of its backend and of the options that change results."""
    text = json.dumps([backend, dict(options)], sort_keys=True, default=repr)
    return f"{name}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


@dataclass(frozen=True, slots=True)
class CallStage:
    """Where a call was made. stage: key of the stage or unit, None outside; none holds an ``@``.

    >>> CallStage("9f86-0").text, CallStage("9f86-0", "vlq-77").text, CallStage(None, "vlq-77").text
    ('9f86-0', '9f86-0@vlq-77', '@vlq-77')
    """

    stage: str | None
    qpu: str = ""  # that the code opened by itself; empty if the stage's key covers it

    @property
    def text(self) -> str | None:
        """The stage of the call as the ledger has it; None for neither."""
        return f"{self.stage or ''}@{self.qpu}" if self.qpu else self.stage

    @classmethod
    def parse(cls, text: str | None) -> CallStage:
        """Read the text."""
        stage, _, qpu = (text or "").partition("@")
        return cls(stage or None, qpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKey:
    """One call of a primitive; equal calls are the same job."""

    run: str
    stage: str | None  # text of its `CallStage`
    qpu: str
    project: str  # who pays, empty without a broker service
    digest: str  # of the payload
    occurrence: int  # how many equal payloads the stage sent before
    labels: tuple[str, ...] = ()  # of its data, so that unlabelled work is never taken for it

    @property
    def job(self) -> JobId:
        """The id of the job: a hash of the call as JSON, which no two calls have in common.

        >>> CallKey(run="r", stage=None, qpu="vlq", project="", digest="d", occurrence=0).job
        'j6183d980265fdcb25604'
        """
        parts = [self.run, self.stage, self.qpu, self.project, self.digest, self.occurrence]
        text = json.dumps([*parts, *([sorted(self.labels)] if self.labels else [])])
        return JobId("j" + hashlib.blake2b(text.encode(), digest_size=10).hexdigest())


def is_job_id(text: str) -> bool:
    """Whether a text is a whole job id rather than the start of one."""
    return _JOB_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Tag:
    """What a start of a qpu_task is called. job: the first job in it; number: of its starts before.

    >>> str(Tag(JobId("j6183d980265fdcb25604"), 1))
    'j6183d980265fdcb25604.1'
    """

    job: JobId
    number: int

    def __str__(self) -> str:
        return f"{self.job}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read the text. Raises `IdentityError`."""
        job, dot, number = text.rpartition(".")
        if not dot:
            raise IdentityError(f"invalid tag {text!r}: expected JOB.NUMBER")
        return cls(JobId(job), _number(number, text))


SLURM_PURPOSES = ("worker", "stage", "qpu", "driver", "allocation")


@dataclass(frozen=True, slots=True)
class SlurmTag:
    """Which Slurm job of which run a job is; its comment in Slurm. purpose: of `SLURM_PURPOSES`.

    number: no two jobs of a run and a purpose have the same one. state: of its `SlurmOwner`; empty
    in tags of version 1, which had none.

    >>> str(SlurmTag("night:scan", "worker", 3, "3f2a9c01"))
    'hpcqc:v2:3f2a9c01:night%3Ascan:worker:3'
    """

    run: str
    purpose: str
    number: int
    state: str = ""

    def __str__(self) -> str:
        version = f"{_SLURM_TAG}{self.state}:" if self.state else _SLURM_TAG_OF_VERSION_1
        return f"{version}{escaped(self.run, ':')}:{self.purpose}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> SlurmTag:
        """Read the text. Raises `IdentityError`."""
        state, rest = "", text.removeprefix(_SLURM_TAG_OF_VERSION_1)
        if text.startswith(_SLURM_TAG):
            state, _, rest = text.removeprefix(_SLURM_TAG).partition(":")
        run, purpose, number = (*rest.split(":"), "", "")[:3]
        if (
            not (_STATE.fullmatch(state) or text.startswith(_SLURM_TAG_OF_VERSION_1))
            or rest.count(":") != 2
            or not run
            or purpose not in SLURM_PURPOSES
        ):
            raise IdentityError(
                f"invalid tag {text!r}: expected {_SLURM_TAG}STATE:RUN:PURPOSE:NUMBER"
            )
        return cls(unescaped(run, ":"), purpose, _number(number, text), state)


@dataclass(frozen=True, slots=True)
class SlurmOwner:
    """Whose a Slurm job is: one run of one state folder. state: digest of that folder's path.

    A user may have several state folders, with runs of the same id.

    >>> owner = SlurmOwner.of("/state/hpcqc", "scan")
    >>> str(owner.tag("driver", 0))
    'hpcqc:v2:779e4171:scan:driver:0'
    """

    run: str
    state: str

    @classmethod
    def of(cls, state_folder: str, run: str) -> SlurmOwner:
        """Return the owner of a run's jobs. state_folder: its path, free of symbolic links."""
        path = state_folder.encode(errors="surrogateescape")
        return cls(run, hashlib.blake2b(path, digest_size=4).hexdigest())

    def tag(self, purpose: str, number: int) -> SlurmTag:
        """Return the tag of one of the run's jobs."""
        return SlurmTag(self.run, purpose, number, self.state)

    def has(self, tag: SlurmTag | None) -> bool:
        """Whether a job with this tag is the run's."""
        return tag is not None and (tag.run, tag.state) == (self.run, self.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerName:
    """A Dask worker in a Slurm job. restarts: of the job, so that a requeued one has new names.

    >>> str(WorkerName(job=17, restarts=1, node=0, process=2))
    'slurm-17-1-0-2'
    """

    job: int
    restarts: int
    node: int
    process: int

    def __str__(self) -> str:
        return f"slurm-{self.job}-{self.restarts}-{self.node}-{self.process}"

    @classmethod
    def parse(cls, text: str) -> WorkerName:
        """Read the text. Raises `IdentityError`."""
        found = _WORKER_NAME.fullmatch(text)
        if found is None:
            raise IdentityError(f"invalid name of a worker {text!r}: expected slurm-JOB-N-N-N")
        job, restarts, node, process = map(int, found.groups())
        return cls(job=job, restarts=restarts, node=node, process=process)


def program_output(stage: str, number: int) -> str:
    """Return the name of the file with a program's output. number: of the program in its stage."""
    return f"{stage}.{number}.out"


def slurm_job_name(run: str, what: str) -> str:
    """Return the name of a Slurm job, for people and for the accounting of its site.

    >>> slurm_job_name("night:scan", "Größe 1")
    'hpcqc-night_scan-Gr_e_1'
    """
    safe = (re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in (run, what))
    return f"hpcqc-{next(safe)[:200]}-{next(safe)[:40]}"


def reuse_tag(key: str) -> str:
    """Return under which name a reusable result is stored among those of tasks. key: a digest."""
    return f"reuse.{key}"


def results_audience(project: str, *, shares: bool) -> str:
    """Return who may use a result again: one project, or all that share theirs."""
    return f"{_FIELD}shared" if shares else project


class Payer(NamedTuple):
    r"""Who a job is for: the project that pays, and the user who asks.

    >>> Payer("chem", "ada").text
    'chem\x1fada'
    """

    project: str
    user: str

    @property
    def text(self) -> str:
        """The payer as snapshots have it."""
        return f"{escaped(self.project, _FIELD)}{_FIELD}{escaped(self.user, _FIELD)}"

    @classmethod
    def parse(cls, text: str) -> Payer:
        """Read the text. Raises `IdentityError`."""
        return _payer(text)


@cache
def _payer(text: str) -> Payer:
    project, between, user = text.partition(_FIELD)
    if not between or _FIELD in user:
        raise IdentityError(f"invalid payer {text!r}: expected a project and a user")
    return Payer(unescaped(project, _FIELD), unescaped(user, _FIELD))


@dataclass(frozen=True, slots=True)
class OwnedName:
    """A name that a user chose, among those of all users of a broker; a lease, say.

    >>> str(OwnedName("ada", "b/c")), str(OwnedName("ada/b", "c"))
    ('ada/b/c', 'ada%2Fb/c')
    """

    user: str
    name: str

    def __str__(self) -> str:
        return f"{escaped(self.user, '/')}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> OwnedName:
        """Read the text. Raises `IdentityError`."""
        user, slash, name = text.partition("/")
        if not slash:
            raise IdentityError(f"invalid name {text!r}: expected USER/NAME")
        return cls(unescaped(user, "/"), name)


@dataclass(frozen=True, slots=True)
class ProjectAccount:
    """The account of a project.

    >>> str(ProjectAccount("chem"))
    'project:chem'
    """

    project: str

    def __str__(self) -> str:
        return f"{_PROJECT}{self.project}"


@dataclass(frozen=True, slots=True)
class RunAccount:
    """The account of one user's run. user: empty where one broker serves one process.

    Clients choose the ids of their runs, so a user limits only jobs of their own.

    >>> str(RunAccount("night-scan", "ada")), str(RunAccount("night-scan"))
    ('run:ada/night-scan', 'run:night-scan')
    """

    run: str
    user: str = ""

    def __str__(self) -> str:
        owned = OwnedName(self.user, self.run) if self.user else escaped(self.run, "/")
        return f"{_RUN}{owned}"


def account_from_text(text: str) -> ProjectAccount | RunAccount:
    """Read the text of an account. Raises `IdentityError`."""
    if text.startswith(_PROJECT):
        return ProjectAccount(text.removeprefix(_PROJECT))
    if not text.startswith(_RUN):
        raise IdentityError(f"invalid account {text!r}: expected project:NAME or run:ID")
    name = text.removeprefix(_RUN)
    if "/" not in name:
        return RunAccount(unescaped(name, "/"))
    owned = OwnedName.parse(name)
    return RunAccount(owned.name, owned.user)


def _number(digits: str, text: str) -> int:
    if re.fullmatch(r"0|[1-9][0-9]*", digits) is None:
        raise IdentityError(f"invalid number {digits!r} in {text!r}: expected 0, 1, 2, …")
    return int(digits)
