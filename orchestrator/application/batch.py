"""A run whose process is a Slurm job of its own, its driver job, submitted and continued."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from orchestrator.application.parameters import json_parameters
from orchestrator.application.register import (
    DRIVER_OUTPUT,
    RegisteredRun,
    driver_output,
    find_registered,
    locked_entry,
    note_last_job,
    register,
    withdraw_cancel,
)
from orchestrator.application.run import CheckedRun, RunRequest, checked_run
from orchestrator.application.slurm_check import check_python
from orchestrator.application.target import TargetError, target_of
from orchestrator.arguments import expect
from orchestrator.broker.runtime.embedded import RunBusy
from orchestrator.config.compute_tables import BatchTable
from orchestrator.config.environment import process_environment, variable
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import LAPTOP
from orchestrator.config.private import write_private
from orchestrator.config.qrmi import qrmi_resources
from orchestrator.config.secrets import SecretRef
from orchestrator.config.site import Coupling, Site
from orchestrator.identity import SlurmOwner, SlurmTag, checked_run_id, slurm_job_name
from orchestrator.provenance.schema import RecordError, RunRecord, read_record
from orchestrator.retention import is_active
from orchestrator.slurm import (
    JobScript,
    JobScriptError,
    Slurm,
    SlurmRefused,
    SlurmUnavailable,
    impossible,
    owner_of,
    this_job,
)
from orchestrator.slurm.options import driver_resources

if TYPE_CHECKING:
    from prefect import Flow

__all__ = [
    "DriverJob",
    "DriverRequest",
    "SubmittedRun",
    "continue_driver",
    "driver_folder",
    "driver_job",
    "live_driver",
    "progress_of",
    "read_driver_request",
    "submit_run",
    "submitted_run",
    "will_continue",
]

_REQUEST, _JOB, _SCRIPT = "request.json", "driver.json", "driver.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedRun:
    """A run that waits for its driver job.

    slurm_job: the job's id. output: the file with what it prints.
    """

    id: str
    slurm_job: int
    folder: Path
    output: Path


class DriverRequest(BaseModel):
    """What a driver job runs, in a file that the owner alone can read."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    run: str
    target: str
    parameters: dict[str, JsonValue]
    as_text: bool
    qpu: str | None
    site: Path | None
    settings: tuple[str, ...]
    out: Path
    budgets: dict[str, float | None]
    coupling: str | None = None
    verbose: bool
    folder: Path
    """working folder"""
    environment: dict[str, str]
    """variables of hpcqc and Prefect, and those from which the site takes secrets"""
    batch: BatchTable

    def run_request(self) -> RunRequest:
        """Return the request, as the driver's process makes it.

        A driver job without a site file has the QPUs that QRMI's plugin gives it, if it does.
        """
        return RunRequest(
            flow=self.target,
            parameters=self.parameters,
            as_text=self.as_text,
            qpu=self.qpu,
            site=self.site or (None if qrmi_resources() else LAPTOP),
            settings=self.settings,
            out=self.out,
            run_id=self.run,
            budgets=self.budgets,
            coupling=self.coupling,
            verbose=self.verbose,
            use_agent=False,  # it is on another machine
            is_driver_job=True,
        )


class DriverJob(BaseModel):
    """The driver job of a run. number: of its tag. resumes: how often it was continued so far."""

    model_config = ConfigDict(frozen=True)

    job: int
    number: int
    resumes: int = 0
    progress: int = 0
    """of the run, as `progress_of` counts it, when it was continued last"""


def submit_run(
    flow: Flow[..., Any] | str,
    parameters: Mapping[str, Any] | None = None,
    *,
    qpu: str | None = None,
    site: Path | str | None = None,
    settings: Sequence[str] = (),
    out: Path | str | None = None,
    run_id: str | None = None,
    budgets: Mapping[str, float | None] | None = None,
    coupling: Coupling | None = None,
) -> SubmittedRun:
    """Let a Slurm job run a flow, and return at once.

    Everything is checked before, as `run_flow` does. The job is described by ``[batch]`` in the site
    file. It is continued after its walltime, a preemption or a failure of its node, and repeats
    nothing. `run_view` returns how far it is, and `cancel_run` ends it.

    Args:
        flow: ``"path/to/file.py:flow"``, the name of a ready flow, or a flow of a file.
        parameters: Values of the flow's parameters by name, which JSON can hold.
        qpu: QPU of the quantum stages that pin none; None for ``HPCQC_QPU`` or the site's default.
        site: Path of a site file; None for the one that the usual lookup finds.
        settings: Changes to the site, such as ``'batch.walltime="2 h"'``.
        out: Folder of this run; None for ``hpcqc-runs/RUN-ID``.
        run_id: Name of the run; that of an earlier run continues it.
        budgets: By unit, what the run's quantum jobs may cost in all; None lifts a limit.
        coupling: How stages share nodes and QPU in time, as `run_flow` has it; None for the site's.

    Returns:
        The run with its job.

    Raises:
        TargetError: The flow cannot be found or imported, or is in no file.
        ParameterError: A parameter is unknown, missing or of another type, or JSON cannot hold it.
        ConfigError: The site file, the run id or a budget is wrong.
        FolderError: The folder cannot be written, or belongs to another run.
        RunBusy: A process works on the run, or a driver job of it waits.
        SlurmRefused: Slurm does not accept the job.
        SlurmUnavailable: Slurm does not answer, or is not installed here.
    """
    expect("parameters", parameters, (Mapping, type(None)), "a mapping of names to values")
    expect("budgets", budgets, (Mapping, type(None)), "a mapping of units to amounts")
    request = RunRequest(
        flow=flow,
        parameters=dict(parameters or {}),
        qpu=qpu or variable("HPCQC_QPU"),
        site=site,
        settings=settings,
        out=out,
        run_id=run_id,
        budgets=dict(budgets or {}),
        coupling=coupling,
    )
    return submitted_run(request, warnings.warn)


def submitted_run(request: RunRequest, warn: Callable[[str], None]) -> SubmittedRun:
    """Submit a run as `submit_run` does. warn: takes what is probably not what the user meant."""
    if not isinstance(request.flow, str):
        request = replace(request, flow=_place_of(request.flow))
    checked = checked_run(replace(request, use_agent=False, by_driver_job=True), warn)
    check_python("[batch] python", checked.plan.site.batch.python, checked.plan.site.state_dir)
    with locked_entry(checked.plan.site.state_dir, checked.plan.id):
        return _enqueued(request, checked, Slurm())


def _enqueued(request: RunRequest, checked: CheckedRun, slurm: Slurm) -> SubmittedRun:
    plan, flow, site = checked.plan, checked.flow, checked.plan.site
    _check_granted(plan.site_file, site)
    earlier = driver_job(site.state_dir, plan.id)
    _check_free(site, plan.id, earlier, slurm)
    reasons = impossible(driver_resources(site.batch), slurm.partitions())
    if reasons:  # many clusters accept such a job, and let it wait for ever
        raise _never_runs("; ".join(reasons))
    plan.folder.open(plan.id, plan.target.text)  # or refuse what is not this run's
    plan.folder.close()
    asked = DriverRequest(
        run=plan.id,
        target=plan.target.text,
        parameters=dict(request.parameters)
        if request.as_text
        else json_parameters(flow, checked.parameters),
        as_text=request.as_text,
        qpu=request.qpu,
        site=plan.site_file or (LAPTOP if str(request.site) == str(LAPTOP) else None),
        settings=tuple(request.settings),
        out=plan.folder.path,
        budgets=dict(request.budgets),
        coupling=request.coupling,
        verbose=request.verbose,
        folder=Path.cwd(),
        environment=_environment(site),
        batch=site.batch,
    )
    folder = driver_folder(site.state_dir, plan.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    note_last_job(site.state_dir, plan.id, None)
    write_private(folder / _REQUEST, asked.model_dump_json())
    number = 0 if earlier is None else earlier.number + 1
    progress = progress_of(_record(asked))
    wanted = DriverJob(job=0, number=number, progress=progress)
    try:
        job = _submit(site.state_dir, asked, wanted, slurm)
    except JobScriptError as error:
        _forget_request(folder)
        raise JobScriptError(f"the driver job ([batch]) cannot be submitted: {error}") from None
    except SlurmRefused:
        _forget_request(folder)
        raise
    except SlurmUnavailable as error:
        if not error.submitted:
            _forget_request(folder)
        raise
    register(
        site.state_dir,
        RegisteredRun(
            id=plan.id,
            target=plan.target.text,
            flow=flow.name,
            folder=plan.folder.path,
            site=plan.site_file,
            settings=tuple(request.settings),
            registered_at=datetime.now(UTC),
            slurm_job=job,
            is_driver_job=True,
        ),
    )
    # Only now: the earlier job, if it was cancelled, is no longer the run's.
    withdraw_cancel(site.state_dir, plan.id)
    return SubmittedRun(
        id=plan.id,
        slurm_job=job,
        folder=plan.folder.path,
        output=driver_output(site.state_dir, plan.id),
    )


def _forget_request(folder: Path) -> None:
    """Remove what was written for a job that there is not: a request may hold secrets."""
    for name in (_REQUEST, _SCRIPT):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # an earlier job of the run has left something
        folder.rmdir()


def driver_folder(state_dir: Path, run: str) -> Path:
    """Return the folder with what a run has at Slurm."""
    return state_dir / "slurm" / checked_run_id(run)


def driver_job(state_dir: Path, run: str) -> DriverJob | None:
    """Return the latest driver job of a run, None if it never had one."""
    try:
        content = (driver_folder(state_dir, run) / _JOB).read_bytes()
        return DriverJob.model_validate_json(content)
    except (OSError, ValidationError):
        return None


def read_driver_request(path: Path) -> DriverRequest:
    """Return what a driver job runs."""
    return DriverRequest.model_validate_json(path.read_bytes())


def live_driver(owner: SlurmOwner, job: DriverJob, slurm: Slurm) -> bool:
    """Whether a driver job waits or runs."""
    found = slurm.jobs([job.job]).get(job.job)
    return found is not None and not found.state.is_over and owner.has(found.tag)


def progress_of(record: RunRecord | None) -> int:
    """Return how far a run is: each completed stage counts, and each finished unit of a fan-out.

    A run that is continued without an increase would never end.
    """
    if record is None:
        return 0
    units: dict[str, int] = {}
    done: set[str] = set()
    for stage in record.stages:
        if stage.units is not None:
            units[stage.key] = max(units.get(stage.key, 0), stage.units[0])
        if stage.state in ("completed", "cached"):
            done.add(stage.key)
    return len(done) + sum(units.values())


def continue_driver(
    state_dir: Path, asked: DriverRequest, job: DriverJob, slurm: Slurm
) -> str | None:
    """Let a run that is interrupted inside its driver job go on in the next one.

    The job is requeued, which ends this process; where the site does not allow it, another one is
    submitted. Returns why the run is not continued, None if it is. Raises ``SlurmUnavailable``.
    """
    progress = progress_of(_record(asked))
    refusal = _why_last(asked, job, progress)
    note_last_job(state_dir, asked.run, refusal)
    if refusal is not None:
        return refusal
    following = job.model_copy(update={"resumes": job.resumes + 1, "progress": progress})
    write_private(driver_folder(state_dir, asked.run) / _JOB, following.model_dump_json())
    try:
        slurm.requeue(job.job)
    except SlurmRefused:
        if _is_requeued(slurm, owner_of(state_dir, asked.run), job.job):
            return None
        next_one = following.model_copy(update={"number": job.number + 1})
        id_ = _submit(state_dir, asked, next_one, slurm, dependency=f"afterany:{job.job}")
        registered = find_registered(state_dir, asked.run)
        if registered is not None:
            register(state_dir, registered.model_copy(update={"slurm_job": id_}))
    return None


def will_continue(asked: DriverRequest, job: DriverJob) -> bool:
    """Whether `continue_driver` would let a run go on as it is now, if Slurm does."""
    return _why_last(asked, job, progress_of(_record(asked))) is None


def _why_last(asked: DriverRequest, job: DriverJob, progress: int) -> str | None:
    """Return why no job follows a driver job; None if one does."""
    if job.resumes >= asked.batch.resumes:
        return f"it was continued {job.resumes} times already ([batch] resumes)"
    if progress <= job.progress:
        return (
            "it completed no stage since it was continued last; give it a longer [batch] walltime"
        )
    return None


def _is_requeued(slurm: Slurm, owner: SlurmOwner, job: int) -> bool:
    """Whether the driver job of this process waits again: an order whose answer was lost did it."""
    found, here = slurm.jobs([job]).get(job), this_job()
    if found is None or not owner.has(found.tag):
        return False
    restarts = here.restarts if here is not None and here.id == job else 0
    return found.state.is_waiting or found.restarts > restarts


def _place_of(flow: Flow[..., Any]) -> str:
    """Return where another process finds a flow. Raises `TargetError`."""
    path = target_of(flow).path
    if path is None:
        raise TargetError(
            "a Slurm job runs the flow, and this one is in no file; write it into a file, and give "
            "path/to/file.py:flow"
        )
    return f"{path}:{flow.fn.__name__}"


def _submit(
    state_dir: Path,
    asked: DriverRequest,
    job: DriverJob,
    slurm: Slurm,
    *,
    dependency: str | None = None,
) -> int:
    """Submit a driver job, and note it."""
    folder, number = driver_folder(state_dir, asked.run), job.number
    # A process that was killed while it submitted has left a job, which may have ended since.
    owner = owner_of(state_dir, asked.run)
    while (found := slurm.find(str(owner.tag("driver", number)))) and found.state.is_over:
        number += 1
    if found is None:
        script = _script(folder, asked, owner.tag("driver", number), dependency)
        write_private(folder / _SCRIPT, script.text())
        try:
            id_ = slurm.submit(script)
        except SlurmRefused as error:
            if error.passes:
                raise SlurmRefused(
                    f"Slurm takes no driver job now: {error}. Submit the run again once earlier jobs "
                    "have ended",
                    words=error.words,
                    passes=True,
                ) from error
            raise _never_runs(str(error), error.words) from error
    else:
        id_ = found.id
    noted = job.model_copy(update={"job": id_, "number": number})
    write_private(folder / _JOB, noted.model_dump_json())
    return id_


def _script(
    folder: Path, asked: DriverRequest, tag: SlurmTag, dependency: str | None = None
) -> JobScript:
    batch = asked.batch
    python = batch.python or sys.executable
    # -P: modules in the working folder do not shadow installed ones.
    driver = (python, "-P", "-m", "orchestrator.cli.run.driver", str(folder / _REQUEST))
    return JobScript(
        name=slurm_job_name(asked.run, "driver"),
        tag=str(tag),
        resources=driver_resources(batch),
        # The signal before the end of the walltime goes to the script's process alone: become it.
        body=(f"exec {shlex.join(driver)}",),
        directory=asked.folder,
        output=folder / DRIVER_OUTPUT,
        requeue=True,
        signal_s=round(batch.grace.total_seconds()),
        dependency=dependency,
        modules=tuple(batch.modules),
        prologue=tuple(batch.prologue),
        extra=tuple(batch.extra),
    )


def _never_runs(reason: str, words: str = "") -> SlurmRefused:
    return SlurmRefused(
        f"Slurm can never run the driver job: {reason}. Correct [batch]", words=words
    )


def _check_free(site: Site, run: str, earlier: DriverJob | None, slurm: Slurm) -> None:
    """Raise ``RunBusy`` if something works on the run, or will."""
    if is_active(site.state_dir, run):
        registered = find_registered(site.state_dir, run)
        process = registered.process if registered else None
        who = "another process" if process is None else f"process {process.pid} on {process.host}"
        raise RunBusy(
            f"run {run!r} is being worked on by {who}; wait for it, end it with "
            f"`hpcqc cancel {run}`, or choose another run id"
        )
    if earlier is not None and live_driver(owner_of(site.state_dir, run), earlier, slurm):
        raise RunBusy(
            f"run {run!r} has Slurm job {earlier.job} already; end it with `hpcqc cancel {run}`, or "
            "choose another run id"
        )


def _check_granted(site_file: Path | None, site: Site) -> None:
    """Raise `ConfigError` if the run's QPUs are those of this process's own Slurm job."""
    granted = [] if site_file is not None else [one.name for one in qrmi_resources()]
    asks = any(option.startswith("--qpu") for option in site.batch.extra)
    if site.default_qpu in granted and not asks:
        raise ConfigError(
            f"QPU {site.default_qpu!r} was granted to the Slurm job of this process, and the driver "
            "job is another one; let that ask for the QPU, --set "
            f"'batch.extra=[\"--qpu={site.default_qpu}\"]', or run without --batch"
        )


def _record(asked: DriverRequest) -> RunRecord | None:
    try:
        return read_record(asked.out)
    except RecordError:
        return None


def _environment(site: Site) -> dict[str, str]:
    """Return the variables that the run needs, some of them secret, for a private file."""
    known = process_environment()
    wanted = {name for name in known if name.startswith(("HPCQC_", "PREFECT_"))}
    wanted -= {"HPCQC_RUN_ID", "HPCQC_QPU"}  # they are in the request
    for options in (
        *(qpu.options for qpu in site.qpus.values()),
        *(compute.options for compute in site.computes.values()),
    ):
        wanted |= set(_secret_variables(options))
    wanted |= set(_secret_variables([site.broker.token, site.broker.ledger]))
    found = {name: known[name] for name in wanted if name in known}
    return found | {"HPCQC_STATE_DIR": str(site.state_dir)}


def _secret_variables(value: Any) -> Iterator[str]:
    if isinstance(value, SecretRef):
        if value.source == "env":
            yield value.where
    elif isinstance(value, Mapping):
        yield from (name for inner in value.values() for name in _secret_variables(inner))
    elif isinstance(value, list | tuple):
        yield from (name for inner in value for name in _secret_variables(inner))
