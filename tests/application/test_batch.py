"""Driver jobs: what they are asked to do, and when they are continued. Slurm itself: tests/slurm."""

from __future__ import annotations

import math
import stat
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.application.batch import (
    DriverJob,
    DriverRequest,
    SubmittedRun,
    continue_driver,
    driver_folder,
    driver_job,
    progress_of,
    read_driver_request,
    submit_run,
    will_continue,
)
from orchestrator.application.cancel import cancel_run, end_abandoned
from orchestrator.application.known_runs import RunView, run_view, runs
from orchestrator.application.parameters import ParameterError
from orchestrator.application.register import (
    cancel_requested,
    find_registered,
    note_last_job,
    why_last_job,
)
from orchestrator.application.run_logs import follow_logs
from orchestrator.application.storage import clean
from orchestrator.application.target import TargetError
from orchestrator.broker.runtime.embedded import RunBusy
from orchestrator.config.compute_tables import BatchTable
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import LAPTOP, load_site
from orchestrator.identity import ResultKey
from orchestrator.provenance.record import site_document
from orchestrator.provenance.schema import (
    RecordedAttempt,
    RecordedSite,
    RecordedStage,
    RecordedUsage,
    RunRecord,
    RunUsage,
)
from orchestrator.retention import hold_run
from orchestrator.slurm import (
    JobScript,
    Partition,
    SlurmJob,
    SlurmRefused,
    SlurmState,
    SlurmUnavailable,
    owner_of,
)
from orchestrator.slurm.states import JobDetails
from tests.cli.flows import FLOW
from tests.errors import naming

AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class RecordingSlurm:
    """Takes the calls of a driver job, and refuses to requeue where it is told so."""

    may_requeue: bool = True
    loses_answer: bool = False
    requeued: list[int] = field(default_factory=list)
    scripts: list[JobScript] = field(default_factory=list)
    queue: dict[int, SlurmJob] = field(default_factory=dict)
    is_away: bool = False
    known: dict[str, Partition] = field(default_factory=dict)

    def partitions(self) -> dict[str, Partition]:
        return self.known

    def requeue(self, id: int) -> None:  # noqa: A002 - as Slurm calls it
        if self.loses_answer:  # it is done, and the repetition of the order is refused
            self.queue[id] = replace(self.queue[id], state=SlurmState.PENDING, restarts=1)
            raise SlurmRefused("Job is pending execution")
        if not self.may_requeue:
            raise SlurmRefused("Requested operation is presently disabled")
        self.requeued.append(id)

    def find(self, tag: str) -> SlurmJob | None:
        return next((job for job in self.queue.values() if job.comment == tag), None)

    def jobs(self, ids: Any = None) -> dict[int, SlurmJob]:
        if self.is_away:
            raise SlurmUnavailable("squeue does not answer")
        return {id_: job for id_, job in self.queue.items() if ids is None or id_ in ids}

    def details(self, job: int) -> JobDetails:
        return JobDetails(exit_code=3)

    def cancel(self, ids: Collection[int]) -> None:
        for id_ in ids:
            self.queue[id_] = replace(self.queue[id_], state=SlurmState.CANCELLED)

    def submit(self, script: JobScript) -> int:
        self.scripts.append(script)
        id_ = 100 + len(self.scripts)
        self.queue[id_] = waiting(id_, script.tag)
        return id_


def waiting(id_: int, tag: str) -> SlurmJob:
    return SlurmJob(id=id_, name="", user="", state=SlurmState.PENDING, comment=tag)


def request(folder: Path, **batch: Any) -> DriverRequest:
    return DriverRequest(
        run="r1",
        target="f.py:f",
        parameters={},
        as_text=True,
        qpu=None,
        site=None,
        settings=(),
        out=folder / "out",
        budgets={},
        verbose=False,
        folder=folder,
        environment={},
        batch=BatchTable.model_validate(batch),
    )


def stage(key: str, state: str, units: tuple[int, int] | None = None) -> RecordedStage:
    return RecordedStage.model_validate(
        {
            "key": key,
            "name": "s",
            "kind": "classical",
            "state": state,
            "started_at": AT,
            "units": units,
        }
    )


def record(*stages: RecordedStage) -> RunRecord:
    return RunRecord.model_construct(stages=stages)


def test_progress_counts_completed_stages_and_finished_units() -> None:
    assert progress_of(None) == 0
    assert progress_of(record()) == 0
    assert progress_of(record(stage("a", "completed"), stage("b", "failed"))) == 1
    # Twice the same stage, run in two attempts.
    assert progress_of(record(stage("a", "failed"), stage("a", "completed"))) == 1
    before = record(stage("a", "completed"), stage("b", "running", (3, 10)))
    after = record(*before.stages, stage("b", "running", (5, 10)))
    assert progress_of(before) == 4
    assert progress_of(after) == 6


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a run have made so much progress, as the last number says."""
    made = [0]
    monkeypatch.setattr("orchestrator.application.batch.progress_of", lambda _record: made[-1])
    return made


def test_a_driver_job_is_continued_while_it_gets_on(
    isolated_state: Path, tmp_path: Path, progress: list[int]
) -> None:
    driver_folder(isolated_state, "r1").mkdir(parents=True)
    asked, slurm, job = request(tmp_path), RecordingSlurm(), DriverJob(job=7, number=0)
    for made in (2, 3):
        progress.append(made)
        assert continue_driver(isolated_state, asked, job, slurm) is None  # type: ignore[arg-type]
        noted = driver_job(isolated_state, "r1")
        assert noted is not None
        job = noted
    assert slurm.requeued == [7, 7]
    assert job == DriverJob(job=7, number=0, resumes=2, progress=3)
    refusal = continue_driver(isolated_state, asked, job, slurm)  # type: ignore[arg-type]
    assert refusal is not None
    assert "no stage" in refusal
    assert slurm.requeued == [7, 7]
    assert why_last_job(isolated_state, "r1") == refusal
    assert not will_continue(asked, job)
    progress.append(9)
    assert will_continue(asked, job)
    assert continue_driver(isolated_state, asked, job, slurm) is None  # type: ignore[arg-type]
    assert why_last_job(isolated_state, "r1") is None


def test_a_driver_job_is_continued_so_often_at_most(
    isolated_state: Path, tmp_path: Path, progress: list[int]
) -> None:
    driver_folder(isolated_state, "r1").mkdir(parents=True)
    slurm, job = RecordingSlurm(), DriverJob(job=7, number=0, resumes=2)
    progress.append(5)
    asked = request(tmp_path, resumes=2)
    assert continue_driver(isolated_state, asked, job, slurm)  # type: ignore[arg-type]
    assert slurm.requeued == []


def test_where_a_job_may_not_be_requeued_another_one_follows(
    isolated_state: Path, tmp_path: Path, progress: list[int]
) -> None:
    driver_folder(isolated_state, "r1").mkdir(parents=True)
    slurm = RecordingSlurm(may_requeue=False)
    progress.append(1)
    job = DriverJob(job=7, number=3)
    assert continue_driver(isolated_state, request(tmp_path), job, slurm) is None  # type: ignore[arg-type]
    (script,) = slurm.scripts
    assert script.dependency == "afterany:7"
    assert script.tag == str(owner_of(isolated_state, "r1").tag("driver", 4))
    assert driver_job(isolated_state, "r1") == DriverJob(job=101, number=4, resumes=1, progress=1)


def test_no_second_driver_follows_one_that_was_requeued_without_an_answer(
    isolated_state: Path, tmp_path: Path, progress: list[int]
) -> None:
    driver_folder(isolated_state, "r1").mkdir(parents=True)
    slurm = RecordingSlurm(loses_answer=True)
    tag = str(owner_of(isolated_state, "r1").tag("driver", 0))
    slurm.queue[7] = replace(waiting(7, tag), state=SlurmState.RUNNING)
    progress.append(1)
    job = DriverJob(job=7, number=0)
    assert continue_driver(isolated_state, request(tmp_path), job, slurm) is None  # type: ignore[arg-type]
    assert slurm.scripts == []
    assert driver_job(isolated_state, "r1") == DriverJob(job=7, number=0, resumes=1, progress=1)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> RecordingSlurm:
    """Stand in for Slurm."""
    made = RecordingSlurm()
    for module in ("batch", "cancel", "known_runs"):
        monkeypatch.setattr(f"orchestrator.application.{module}.Slurm", lambda **_: made)
    return made


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with a flow, in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "shares.py"
    path.write_text(FLOW)
    return path


def test_two_state_folders_do_not_touch_each_others_jobs(
    isolated_state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slurm: RecordingSlurm,
    flow: Path,
) -> None:
    first = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1", out=tmp_path / "a")
    other = tmp_path / "other"
    monkeypatch.setenv("HPCQC_STATE_DIR", str(other))
    second = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1", out=tmp_path / "b")
    assert (first.slurm_job, second.slurm_job) == (101, 102)
    assert cancel_run("r1").slurm_jobs == (102,)
    assert [job.state.is_over for job in slurm.queue.values()] == [False, True]
    link = tmp_path / "link"
    link.symlink_to(isolated_state)
    monkeypatch.setenv("HPCQC_STATE_DIR", str(link))
    assert cancel_run("r1").slurm_jobs == (101,)


def test_a_job_that_can_never_run_is_not_submitted(slurm: RecordingSlurm, flow: Path) -> None:
    day = timedelta(days=1)
    slurm.known = {"long": Partition(name="long", node_count=1, max_walltime=day)}
    settings = ["batch.partition='long'", "batch.walltime='2 d'"]
    with pytest.raises(SlurmRefused):
        submit_run(f"{flow}:shares", {"points": 2}, run_id="r1", settings=settings)
    assert slurm.scripts == []
    settings[1] = "batch.walltime='1 d'"
    submit_run(f"{flow}:shares", {"points": 2}, run_id="r1", settings=settings)
    assert len(slurm.scripts) == 1


def test_what_a_submitted_run_leaves_is_private_and_complete(
    isolated_state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slurm: RecordingSlurm,
) -> None:
    folder = tmp_path / "with 'quotes' and spaces"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("shares.py").write_text(FLOW)
    Path("hpcqc.toml").write_text(
        "[qpu.aer]\nbackend = 'aer'\n[broker]\ntoken = { env = 'MY_TOKEN' }\n"
        "[batch]\npartition = 'p'\nwalltime = '2 h'\nmemory = '2 GiB'\ncores = 3\n"
    )
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    submitted = submit_run("shares.py:shares", {"points": 2}, run_id="r1")
    assert submitted.slurm_job == 101
    (script,) = slurm.scripts
    text = script.text()
    assert "s3cret" not in text
    assert script.directory == folder
    assert (script.resources.partition, script.resources.cores) == ("p", 3)
    assert script.resources.memory_bytes == 2 * 2**30
    assert (script.requeue, script.signal_s) == (True, 120)
    own = driver_folder(isolated_state, "r1")
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in own.iterdir()} == {0o600}
    asked = DriverRequest.model_validate_json((own / "request.json").read_bytes())
    assert asked.parameters == {"points": 2}
    assert asked.environment["MY_TOKEN"] == "s3cret"
    assert asked.environment["HPCQC_STATE_DIR"] == str(isolated_state)
    assert asked.out == folder / "hpcqc-runs" / "r1"
    assert asked.site == folder / "hpcqc.toml"
    registered = find_registered(isolated_state, "r1")
    assert registered is not None
    assert (registered.slurm_job, registered.is_driver_job) == (101, True)


def test_a_driver_without_a_site_file_has_the_qpus_that_qrmi_gives_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: RecordingSlurm, flow: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert request(tmp_path).run_request().site == LAPTOP
    job = {"QRMI_JOB_QPU_RESOURCES": "lab", "QRMI_JOB_QPU_TYPES": "t", "lab_HPCQC_BACKEND": "aer"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert request(tmp_path).run_request().site is None
    with pytest.raises(ConfigError, match=naming("lab", "batch.extra")):
        submit_run(f"{flow}:shares", run_id="r1")
    asks = """batch.extra=["--qpu=lab"]"""
    submit_run(f"{flow}:shares", {"points": 2}, run_id="r1", settings=[asks])
    submit_run(f"{flow}:shares", {"points": 2}, run_id="r2", settings=[asks], site="built-in")
    chosen = [read_driver_request(path).site for path in requests_of("r1", "r2")]
    assert chosen == [None, LAPTOP]
    assert "#SBATCH --qpu=lab" in slurm.scripts[0].text()


def requests_of(*runs: str) -> list[Path]:
    state_dir = load_site().state_dir
    return [driver_folder(state_dir, run) / "request.json" for run in runs]


def cancelled_from_outside(slurm: RecordingSlurm, flow: Path) -> RunView:
    """Return a run whose driver job was cancelled, and whose process left no record."""
    submitted = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    slurm.cancel([submitted.slurm_job])
    view = run_view("r1")
    assert (view.state, view.abandoned) == ("cancelled", True)
    return view


def test_a_run_that_was_submitted_again_is_not_cancelled(
    isolated_state: Path, slurm: RecordingSlurm, flow: Path
) -> None:
    seen = cancelled_from_outside(slurm, flow)
    submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    end_abandoned(load_site(), seen)  # of a process that looked before
    assert slurm.queue[102].state is SlurmState.PENDING
    assert not cancel_requested(isolated_state, "r1")
    assert run_view("r1").state == "pending"


def test_a_look_at_a_run_while_it_is_submitted_again_cancels_nothing(
    isolated_state: Path,
    slurm: RecordingSlurm,
    flow: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancelled_from_outside(slurm, flow)
    submit = slurm.submit

    def slowly(script: JobScript) -> int:
        id_ = submit(script)
        runs()
        return id_

    monkeypatch.setattr(slurm, "submit", slowly)
    submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    assert slurm.queue[102].state is SlurmState.PENDING
    assert not cancel_requested(isolated_state, "r1")


def test_what_a_cancelled_driver_left_is_ended_once(
    isolated_state: Path, slurm: RecordingSlurm, flow: Path
) -> None:
    cancelled_from_outside(slurm, flow)
    slurm.queue[9] = waiting(9, str(owner_of(isolated_state, "r1").tag("worker", 0)))
    slurm.queue[10] = waiting(10, str(owner_of(isolated_state, "r2").tag("worker", 0)))
    runs()
    assert [slurm.queue[id_].state.is_over for id_ in (9, 10)] == [True, False]
    assert cancel_requested(isolated_state, "r1")
    assert not run_view("r1").abandoned


def written(submitted: SubmittedRun, status: str, reason: str | None = None) -> None:
    """Write the record that a driver's process leaves."""
    attempt = RecordedAttempt(started_at=AT, status=status, reason=reason)  # type: ignore[arg-type]
    left = RunRecord(
        id=submitted.id,
        target="t",
        flow="f",
        parameters={},
        qpu="aer",
        site=RecordedSite.model_validate(site_document(load_site())),
        status=status,  # type: ignore[arg-type]
        started_at=AT,
        usage=RunUsage(total=RecordedUsage(), per_qpu={}),
        stages=(),
        jobs=(),
        attempts=(attempt,),
        versions={},
        machine={},
    )
    (submitted.folder / "run.json").write_text(left.model_dump_json())


def test_a_run_is_as_it_was_where_slurm_does_not_answer(slurm: RecordingSlurm, flow: Path) -> None:
    submitted = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    slurm.is_away = True
    assert (run_view("r1").state, run_view("r1").reason) == ("pending", "Slurm does not answer")
    for status, reason, state in (
        ("running", None, "running"),
        ("interrupted", "walltime", "pending"),
        ("interrupted", "cancelled", "interrupted"),
        ("completed", None, "completed"),
    ):
        written(submitted, status, reason)
        assert run_view("r1").state == state
    slurm.is_away = False
    written(submitted, "running")
    job = slurm.queue[submitted.slurm_job]
    slurm.queue[job.id] = replace(job, state=SlurmState.OUT_OF_MEMORY, nodes=("c1",))
    killed = run_view("r1")
    assert killed.state == "killed"
    assert "OUT_OF_MEMORY with exit code 3" in str(killed.reason)
    slurm.queue.clear()
    assert run_view("r1").state == "killed"


def test_a_run_that_is_not_continued_says_so(
    isolated_state: Path, slurm: RecordingSlurm, flow: Path
) -> None:
    submitted = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    written(submitted, "interrupted", "walltime")
    job = slurm.queue[submitted.slurm_job]
    slurm.queue[job.id] = replace(job, state=SlurmState.COMPLETED)
    note_last_job(isolated_state, "r1", "it completed no stage")
    for slurm.is_away in (False, True):
        view = run_view("r1")
        assert view.state == "interrupted"
        assert "it completed no stage" in str(view.reason)
    slurm.is_away = False
    (submitted.folder / "run.json").unlink()  # it is one of another target
    submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    assert why_last_job(isolated_state, "r1") is None


def test_logs_are_followed_while_slurm_does_not_answer(
    slurm: RecordingSlurm, flow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    slurm.is_away = True
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            slurm.is_away = False
            slurm.queue.clear()

    monkeypatch.setattr("orchestrator.application.run_logs.time.sleep", pause)
    assert list(follow_logs("r1")) == []
    assert len(pauses) >= 10


def test_a_job_with_the_number_of_a_run_is_not_its_driver(
    slurm: RecordingSlurm, flow: Path, tmp_path: Path
) -> None:
    submitted = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    other = str(owner_of(tmp_path / "other", "r1").tag("driver", 0))
    slurm.queue[submitted.slurm_job] = waiting(submitted.slurm_job, other)
    assert run_view("r1").state == "killed"


def test_what_a_driver_job_needs_is_not_cleaned_away(
    isolated_state: Path, slurm: RecordingSlurm, flow: Path
) -> None:
    submitted = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    hold_run(isolated_state, "r1").close()  # its process began, and was requeued
    value = isolated_state / "results" / str(ResultKey("r1", "0123456789abcdef-0"))
    value.parent.mkdir()
    value.write_bytes(b"value")
    request_file = driver_folder(isolated_state, "r1") / "request.json"

    def left() -> tuple[bool, bool]:
        assert clean(keep_days=-1.0, remove=True)
        return value.exists(), request_file.exists()

    written(submitted, "interrupted", "walltime")
    assert left() == (True, True)
    slurm.is_away = True
    assert left() == (True, True)
    slurm.is_away = False
    slurm.cancel([submitted.slurm_job])
    assert left() == (False, False)


def test_the_request_of_a_run_that_never_started_is_cleaned_away(
    isolated_state: Path, slurm: RecordingSlurm, flow: Path
) -> None:
    submitted = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    own = driver_folder(isolated_state, "r1")
    clean(keep_days=-1.0, remove=True)
    assert (own / "request.json").exists()
    slurm.cancel([submitted.slurm_job])
    clean(keep_days=-1.0, remove=True)
    assert not own.exists()


def test_the_request_of_a_run_that_is_being_submitted_stays(
    isolated_state: Path, slurm: RecordingSlurm, flow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, own = slurm.submit, driver_folder(isolated_state, "r1")

    def slowly(script: JobScript) -> int:
        clean(keep_days=-1.0, remove=True)
        assert (own / "request.json").exists()
        return submit(script)

    monkeypatch.setattr(slurm, "submit", slowly)
    submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    assert (own / "request.json").exists()


@pytest.mark.parametrize(
    ("error", "is_left"),
    [
        (SlurmRefused("no such account"), False),
        (SlurmUnavailable("away"), False),
        (SlurmUnavailable("no answer", submitted=True), True),
    ],
)
def test_a_refused_submission_leaves_no_request(
    isolated_state: Path,
    slurm: RecordingSlurm,
    flow: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    is_left: bool,
) -> None:
    def refuse(script: JobScript) -> int:
        raise error

    monkeypatch.setattr(slurm, "submit", refuse)
    with pytest.raises(type(error)):
        submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    assert (driver_folder(isolated_state, "r1") / "request.json").exists() is is_left


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_what_a_run_that_ended_has_left_is_cleaned_away(
    isolated_state: Path, slurm: RecordingSlurm, flow: Path, status: str
) -> None:
    submitted = submit_run(f"{flow}:shares", {"points": 2}, run_id="r1")
    hold_run(isolated_state, "r1").close()
    written(submitted, status)
    slurm.is_away = True
    assert [run.state for run in clean(keep_days=-1.0, remove=True)] == ["removed"]


@pytest.mark.parametrize("value", [np.arange(3), [np.int64(3)], object(), b"\xff"])
def test_a_parameter_that_json_cannot_hold_is_refused(
    slurm: RecordingSlurm, flow: Path, value: object
) -> None:
    with pytest.raises(ParameterError, match="shots"):
        submit_run(f"{flow}:shares", {"points": 2, "shots": value}, run_id="r1")
    assert slurm.scripts == []


def test_parameters_arrive_as_they_were(
    isolated_state: Path, slurm: RecordingSlurm, flow: Path
) -> None:
    text = "from prefect import flow\n@flow\ndef plain(a, b=None): pass\n"
    flow.with_name("plain.py").write_text(text)
    given = {"a": [1, 2.5, "x", None, math.inf], "b": {"c": True}}
    submit_run("plain.py:plain", given, run_id="r1")
    asked = read_driver_request(driver_folder(isolated_state, "r1") / "request.json")
    assert asked.run_request().parameters == given


def test_mistakes_are_found_before_anything_is_submitted(
    isolated_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: RecordingSlurm
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shares.py").write_text(FLOW)
    with pytest.raises(ParameterError):
        submit_run("shares.py", {"nothing": 1})
    with pytest.raises(TargetError):
        submit_run("absent.py")
    with pytest.raises(ConfigError):
        submit_run("shares.py", qpu="absent")
    with pytest.raises(ConfigError):
        submit_run("shares.py", settings=['batch.walltime="1 min"'])  # less than its grace
    with hold_run(isolated_state, "r1"), pytest.raises(RunBusy):
        submit_run("shares.py", run_id="r1")
    assert slurm.scripts == []
