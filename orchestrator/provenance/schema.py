"""The record of a run, ``run.json``: its types, and how it is read.

Readers ignore keys that they do not know. Keys that records did not always have are optional, so
that a record stays readable; a change that breaks readers raises `VERSION`.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, JsonValue, ValidationError

from orchestrator.broker.core.views import JobState, QpuTaskState
from orchestrator.provenance.outcome import Outcome, RecordPart
from orchestrator.runs import StageState
from orchestrator.text_files import TextFileError, read_text

__all__ = [
    "VERSION",
    "CouplingUse",
    "RecordError",
    "RecordedAttempt",
    "RecordedCoupling",
    "RecordedJob",
    "RecordedLink",
    "RecordedQpu",
    "RecordedSite",
    "RecordedSlurm",
    "RecordedSlurmJob",
    "RecordedStage",
    "RecordedTask",
    "RecordedUsage",
    "RunRecord",
    "RunStatus",
    "RunUsage",
    "read_record",
]

VERSION: Final = 2
RunStatus = Literal["running", "completed", "failed", "interrupted"]
_EARLIER = {"hpcqc-run/1": 1}  # what records had as "schema" before they had a version
_RESTORE = (
    "restore it, or continue the run under its id in another folder, which repeats nothing and "
    "writes the record again"
)
_NOT_ONE = "give the run.json that hpcqc run wrote, or its folder"


class RecordedUsage(RecordPart):
    """What QPU tasks consumed."""

    qpu_seconds: float = 0.0
    """time on the device, measured or modelled by the QPU's profile"""
    shots: int = 0
    circuits: int = 0
    """bound circuits executed"""
    tasks: int = 0
    charges: dict[str, float] = Field(default_factory=dict)
    """amounts by unit"""


class RecordedTask(RecordPart):
    """One start on a backend: a slice of a job, or PUBs of several jobs together."""

    tag: str
    """name by which the backend finds the task; jobs that share a task name the same tag"""
    qpu_task: str | None = None
    """the backend's id of the task"""
    state: QpuTaskState
    starts: int = 1
    """how often the backend accepted it; more than 1 would be a fault"""
    start_in_doubt: bool = False
    """one start more may have been accepted: its answer is missing"""
    shots: int
    """of this job, in this task"""
    planned_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    usage: RecordedUsage
    """this job's part of the task's usage"""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    """how the backend ran it: method, calibration_id, …"""
    error: str | None = None
    late: bool = False
    """it completed after it had been given up; its result was not used"""
    saved: float = 0.0
    """what the job saved by sharing the task, in the unit of its charges"""
    provisional: bool = False
    """it completed outside the times for which the site vouches for results"""
    slurm_job: int | None = None
    """Slurm job that held the QPU for it; null where Slurm does not grant the QPU"""
    qpu: str = ""
    """on which it ran: the job's own, unless another one took over; empty in earlier records"""
    duration_s: float | None = None
    """from start to end, with the time in a queue of the backend"""
    worked_s: float | None = None
    """how long the QPU, or its simulation, worked on it"""


class RecordedJob(RecordPart):
    """A quantum job: one call of a primitive's ``run``."""

    id: str
    qpu: str
    backend: str
    kind: str
    """sampler or estimator"""
    state: JobState
    run: str
    stage: str | None
    """key of the stage that made the call, null outside a stage"""
    call: int
    """number of the call in its stage"""
    digest: str
    """of the payload"""
    pubs: int
    circuits: int
    shots: int
    """shots requested in all; 0 for an estimator that runs natively"""
    num_qubits: int
    seed: int | None
    submitted_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    usage: RecordedUsage
    tasks: tuple[RecordedTask, ...] = ()
    error: str | None = None
    error_type: str | None = None
    """class of `backends.api`"""
    project: str = ""
    user: str = ""
    provisional: bool = False
    flow: str = ""
    """of the run, as the broker was told"""
    coupling: str = ""
    """of the run, when the job was submitted"""
    source: str | None = None
    """the job whose result was used again; this one took and cost nothing"""
    labels: tuple[str, ...] = ()
    """of its data: where it may go"""
    failover: str = ""
    """QPU that took over what was left of it; each task has the QPU on which it ran"""
    failover_reason: str = ""
    slurm_job: int | None = None
    """the latest Slurm job that held the QPU for it, each task has its own; null where Slurm does not
    grant the QPU"""
    slices: int = 0
    """number of its tasks"""
    methods: tuple[JsonValue, ...] = ()
    """simulation methods, each once"""
    calibrations: tuple[JsonValue, ...] = ()
    """ids of calibrations, each once"""
    waited_s: float | None = None
    """from submission to start"""
    duration_s: float | None = None
    """from start to end, with the time between its tasks"""
    worked_s: float | None = None
    """how long the QPU, or its simulation, worked on at least one of its tasks"""


class RecordedStage(RecordPart):
    """One run of a stage."""

    key: str
    """stable across reruns"""
    name: str
    kind: Literal["classical", "quantum"]
    state: StageState
    started_at: datetime
    ended_at: datetime | None = None
    asked_at: datetime | None = None
    """when the flow submitted it; it waits until the stages whose results it takes have ended"""
    after: tuple[str, ...] | None = None
    """keys of the stages whose results it takes, null if not known"""
    where: str | None = None
    """name of the compute or QPU"""
    error: str | None = None
    worker: str | None = None
    """the worker that ran it"""
    ran_from: datetime | None = None
    """start on the worker; of a quantum stage, since when the run held the QPU for it"""
    ran_until: datetime | None = None
    """end on the worker"""
    units: tuple[int, int] | None = None
    """finished and total units of its fan-out, null without one"""
    cores: int = 1
    """cores that it may use"""
    duration_s: float | None = None
    worked_s: float | None = None
    """its duration without `waited_s`"""
    waited_s: float | None = None
    """how long it waited for a worker, or for Slurm to grant the QPU, and for its QPU tasks"""
    slurm_job: int | None = None
    """Slurm job in which it ran, or which held the QPU for it"""
    leftover: int = 0
    """processes that its programs left behind, and that were ended"""
    choice: dict[str, JsonValue] | None = None
    """where the broker chose the QPU: `reason`, and the `candidates` with their numbers and why each
    was refused; null otherwise"""


class RecordedAttempt(RecordPart):
    """One process that worked on the run."""

    started_at: datetime
    ended_at: datetime | None = None
    """null while it works, and for one that was killed"""
    status: RunStatus
    host: str | None = None
    """machine of the process"""
    slurm_job: int | None = None
    """Slurm job in which the process ran"""
    reason: str | None = None
    """why it was interrupted: `user`, `cancelled`, `walltime`, `preempted` (with notice) or
    `requeued` (also by a preemption without notice)"""


class RecordedQpu(RecordPart):
    """A QPU of the site, as configured."""

    backend: str
    uncertain: str = "ask"
    longest_task_s: float | None = None
    schedule: dict[str, JsonValue] = Field(default_factory=dict)
    """as `[qpu.NAME.schedule]` of a site file"""
    slurm: dict[str, JsonValue] | None = None
    """as `[qpu.NAME.slurm]` of a site file"""
    environment: str | list[str] | None = None
    """as in `[qpu.NAME]` of a site file: where the backend ran in a process of its own"""
    accepts: tuple[str, ...] = ()
    """labels of data that may go there"""
    jurisdictions: tuple[str, ...] = ()
    """where it processes data"""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """of the backend; secrets show as where they are kept"""


class RecordedSite(RecordPart):
    """The site on which the run took place."""

    name: str
    source: str
    """`built-in laptop`, or the path of the site file"""
    state_dir: str
    default_qpu: str
    default_compute: str
    coupling: str | None = None
    labels: tuple[str, ...] = ()
    """of the data of all jobs of the run"""
    keep_days: float | None = None
    keep_gib: float | None = None
    broker: dict[str, JsonValue] = Field(default_factory=dict)
    """as `[broker]` of a site file"""
    batch: dict[str, JsonValue] = Field(default_factory=dict)
    """as `[batch]` of a site file"""
    choice: dict[str, JsonValue] = Field(default_factory=dict)
    """as `[choice]` of a site file"""
    project: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """by name, as `[project.NAME]` of a site file"""
    link: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """by name, as `[link.NAME]` of a site file"""
    compute: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """by name, as `[compute.NAME]` of a site file"""
    qpu: dict[str, RecordedQpu] = Field(default_factory=dict)
    """by name"""

    @property
    def broker_url(self) -> str | None:
        """Address of the broker service; None for the broker of the run's own process."""
        url = self.broker.get("url")
        return None if url is None else str(url)


class CouplingUse(RecordPart):
    """What a run should take in one coupling."""

    makespan_s: float
    """from the first submission of its Slurm jobs to the last end"""
    node_seconds: float
    """of its Slurm jobs with workers, from the start to the end of each"""
    qpu_node_seconds: float | None = None
    """of what Slurm allocates for the QPU alone; None in a record of an earlier version"""
    qpu_held_s: float
    """how long nobody else could use the QPU"""
    qpu_used_s: float
    """how long the QPU worked"""

    @property
    def all_node_s(self) -> float | None:
        """Node-seconds in all, as Slurm's accounting has them; None where they are not known."""
        if self.qpu_node_seconds is None:
            return None
        return self.node_seconds + self.qpu_node_seconds


class RecordedCoupling(RecordPart):
    """How the run's stages share nodes and the QPU in time."""

    chosen: str
    """the one that was used"""
    automatic: bool = False
    """whether `auto` chose it"""
    reason: str = ""
    """why it was chosen, in a sentence"""
    quantum_after_s: float | None = None
    """seconds of classical work before its first quantum stage, as predicted with the choice"""
    predicted: dict[str, CouplingUse] = Field(default_factory=dict)
    """before the run, by coupling; `slurm` of the record has what it took"""


class RunUsage(RecordPart):
    """What the jobs of the run consumed."""

    total: RecordedUsage
    per_qpu: dict[str, RecordedUsage]


class RecordedSlurmJob(RecordPart):
    """One attempt of a Slurm job of the run."""

    id: int
    purpose: str
    """`worker`, `stage`, `qpu`, `driver` or `allocation`"""
    state: str
    partition: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    elapsed_s: float = 0.0
    nodes: int = 0
    cpus: int = 0
    gpus: float = 0.0
    qpus: dict[str, float] = Field(default_factory=dict)
    """how many of each QPU it held, by name"""


class RecordedSlurm(RecordPart):
    """What the run used by Slurm's accounting; the job of the run's own process counts in no figure."""

    makespan_s: float
    """from the first submission to the last end"""
    node_s: float
    """seconds times nodes"""
    worker_node_s: float
    """those of jobs with workers, without the QPU's own node"""
    core_s: float
    """seconds times CPUs"""
    gpu_s: float
    qpu_held_s: float
    """seconds times QPUs"""
    jobs: tuple[RecordedSlurmJob, ...] = ()
    is_complete: bool = True
    """whether Slurm's accounting had the end of each job when the record was written"""


class RecordedLink(RecordPart):
    """What the handshake of a link agreed on, as it was last."""

    link: str
    """its name in the site file"""
    peer: str
    """the site that the other side's certificate names"""
    group: str
    """of the key exchange, such as `X25519MLKEM768`"""
    protocol: str
    cipher: str
    valid_until: str
    """when the other side's certificate ends"""


class RunRecord(RecordPart):
    """A run: its parameters, site, versions, stages and quantum jobs. Times are UTC."""

    version: Literal[2] = VERSION
    """of this schema"""
    id: str
    status: RunStatus
    error: str | None = None
    """why the run failed, null otherwise"""
    target: str
    """the flow as it was named: `flows.maxcut`, `path/to/file.py:flow`"""
    flow: str
    parameters: dict[str, JsonValue]
    qpu: str
    """the run's default QPU"""
    coupling: RecordedCoupling | None = None
    """null where no Slurm job has workers of the run"""
    started_at: datetime
    ended_at: datetime | None = None
    duration_s: float | None = None
    """sum of the attempts; a killed attempt counts as 0"""
    usage: RunUsage
    stages: tuple[RecordedStage, ...]
    jobs: tuple[RecordedJob, ...]
    attempts: tuple[RecordedAttempt, ...]
    """in order"""
    site: RecordedSite
    versions: dict[str, str]
    """of Python packages"""
    machine: dict[str, JsonValue]
    """host, cores and memory"""
    slurm: RecordedSlurm | None = None
    """null if the run had no Slurm jobs, or their accounting could not be read"""
    broker_link: RecordedLink | None = None
    """over which the run reached its broker; null where that was none, or was not needed"""
    outcome: Outcome | None = None
    """of the flow's result, what reports show; null if the run did not complete"""

    @property
    def has_open_jobs(self) -> bool:
        """Whether quantum jobs had not ended when the record was written."""
        return any(not job.state.is_final for job in self.jobs)


class RecordError(ValueError):
    """A file is not a run record that can be read; the message says what to do."""


def read_record(path: Path) -> RunRecord:
    """Read a run record.

    Args:
        path: A ``run.json``, or the folder of a run.

    Returns:
        The record. Those of earlier versions are converted.

    Raises:
        RecordError: The file is missing, damaged, of a newer version, or not a run record.
    """
    file = path / "run.json" if path.is_dir() else path
    try:
        return _record(file, read_text(file))
    except TextFileError as error:
        raise RecordError(f"no run record: {error}") from error


def _record(file: Path, text: str) -> RunRecord:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{file} is not JSON ({error}); if it was a run record, {_RESTORE}; else {_NOT_ONE}"
        ) from error
    version = _version(document)
    if version is None:
        raise RecordError(f"{file} is not a run record: it has no version; {_NOT_ONE}")
    if version > VERSION:
        writer = document.get("versions")
        needed = writer.get("hpcqc") if isinstance(writer, dict) else None
        by = f"hpcqc {needed}, which wrote it," if needed else "a newer hpcqc"
        raise RecordError(
            f"{file} is a run record of version {version}, and this hpcqc reads versions up to "
            f"{VERSION}; read it with {by} or update this one"
        )
    try:
        return RunRecord.model_validate({**document, "version": VERSION})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise RecordError(
            f"{file} is a damaged run record: {place}: {fault['msg']}; {_RESTORE}"
        ) from error


def _version(document: Any) -> int | None:
    if not isinstance(document, dict):
        return None
    version = document.get("version", _EARLIER.get(str(document.get("schema"))))
    return version if type(version) is int and version > 0 else None
