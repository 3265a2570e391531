"""Runs whose process is a Slurm job: each stage and each quantum task happens once, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.application.batch import SubmittedRun, submit_run
from orchestrator.application.cancel import cancel_run
from orchestrator.application.jobs import jobs_of
from orchestrator.application.known_runs import RunView, run_view, runs
from orchestrator.application.run_logs import run_logs
from orchestrator.config.loading import load_site
from orchestrator.provenance.schema import RunRecord, read_record
from orchestrator.retention import hold_run
from orchestrator.slurm import Slurm, SlurmJob
from tests.cli.flows import LONG
from tests.patience import until
from tests.slurm.demo import BEGINNING, keepers, starts_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

CURVE = """
import time
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import classical, quantum


@classical
def angle(number):
    return 3.0 / (number + 1)


@quantum
def share(qpu, theta, pause_s):
    circuit = QuantumCircuit(1)
    circuit.ry(theta, 0)
    circuit.measure_all()
    counts = qpu.sampler(seed=1).run([circuit], shots=100).result()[0].data.meas.get_counts()
    time.sleep(pause_s)
    return counts.get("1", 0)


@flow
def curve(points: int = 3, pause_s: float = 0.0):
    return [share(angle(number), pause_s) for number in range(points)]
"""
WAITING = f"""{BEGINNING}
@classical
def wait(counts, folder):
    wait_for_go(folder)
    return sum(counts.values())


@flow
def waiting(folder: str):
    return wait(measure(1), folder) + sum(measure(2).values())
"""
SITE = """
[qpu.aer]
backend = "aer"
[batch]
grace = "30 s"
"""
# Long enough to be disturbed in the middle.
SLOW = {"points": 6, "pause_s": 0.7}


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[[Path], None]
) -> Iterator[Path]:
    """Work in a folder with a name that must be quoted; leave no job of these tests in the queue."""
    folder = tmp_path / "a 'quoted' folder, größer"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("curve.py").write_text(CURVE)
    Path("hpcqc.toml").write_text(SITE)
    yield folder
    count(load_site().state_dir)
    client = Slurm()
    client.cancel(live(client))
    until(lambda: not live(client))


def live(client: Slurm) -> list[int]:
    return [job.id for job in client.jobs().values() if not job.state.is_over]


def submit(run: str, parameters: dict[str, Any] | None = None, **options: Any) -> SubmittedRun:
    return submit_run("curve.py:curve", parameters or {}, run_id=run, **options)


def until_state(run: str, *states: str) -> RunView:
    until(lambda: run_view(run).state in states, story(run), pause_s=0.5)
    return run_view(run)


def until_stages(run: str, count: int) -> None:
    until(lambda: (run_view(run).stages_done or 0) >= count, story(run), pause_s=0.3)


def story(run: str) -> Callable[[], object]:
    return lambda: (run_view(run), run_logs(run))


def record_of(run: str) -> RunRecord:
    return read_record(Path("hpcqc-runs") / run)


def job_of(run: str) -> SlurmJob:
    id_ = run_view(run).slurm_job
    assert id_ is not None
    return Slurm().jobs([id_])[id_]


def starts(run: str) -> Counter[str]:
    """Count the starts of each quantum job of a run that the backend accepted."""
    return starts_of(load_site().state_dir, run)


def check_complete(run: str, points: int) -> RunRecord:
    """Check that a run has ended as if nothing had happened, and started no task twice."""
    record = record_of(run)
    assert record.status == "completed", record.error
    assert [job.state.value for job in record.jobs] == ["completed"] * points
    assert sorted(starts(run).values()) == [1] * points
    until(lambda: not live(Slurm()))
    return record


def test_a_driver_job_does_what_the_command_does(here: Path) -> None:
    submitted = submit("r1")
    assert submitted.folder == here / "hpcqc-runs" / "r1"
    assert until_state("r1", "completed", "failed").state == "completed"
    record = check_complete("r1", 3)
    (attempt,) = record.attempts
    assert attempt.slurm_job == submitted.slurm_job
    logs = run_logs("r1")
    assert {path.name for path in logs} == {"run.log", "driver.out"}
    assert "3 quantum jobs" in logs[submitted.output]
    (view,) = runs()
    assert (view.id, view.state, view.slurm_job) == ("r1", "completed", submitted.slurm_job)


def test_a_waiting_run_says_why_and_is_cancelled(here: Path) -> None:
    later = """batch.extra=["--begin=now+1hour"]"""
    submitted = submit("r1", settings=[later])
    view = until_state("r1", "pending")
    until(lambda: run_view("r1").reason is not None)
    assert view.slurm_job == submitted.slurm_job
    cancelled = cancel_run("r1")
    assert cancelled.before == "pending"
    assert cancelled.slurm_jobs == (submitted.slurm_job,)
    assert live(Slurm()) == []
    assert run_view("r1").state == "cancelled"
    assert not (here / "hpcqc-runs" / "r1" / "run.json").exists()


@pytest.mark.fault
def test_a_run_is_cancelled(here: Path) -> None:
    submit("r1", SLOW)
    until_stages("r1", 4)
    cancelled = cancel_run("r1")
    assert (cancelled.before, cancelled.process_ended) == ("running", True)
    assert live(Slurm()) == []
    assert all(job.state.is_final for job in jobs_of(load_site(), "r1"))
    record = record_of("r1")
    assert record.status == "interrupted"
    assert record.attempts[-1].reason == "cancelled"
    assert run_view("r1").state == "cancelled"


@pytest.mark.fault
def test_a_killed_driver_is_submitted_again(here: Path) -> None:
    submit("r1", SLOW)
    until_stages("r1", 4)
    process = run_view("r1").process
    assert process is not None
    os.kill(process, signal.SIGKILL)
    until_state("r1", "killed")
    submit("r1", SLOW)
    assert until_state("r1", "completed", "failed").state == "completed"
    assert len(check_complete("r1", 6).attempts) == 2


@pytest.mark.fault
def test_a_preempted_driver_goes_on(here: Path, slurm: Any) -> None:
    submit("r1", SLOW, settings=["batch.partition=scavenge"])
    until_stages("r1", 4)
    node = job_of("r1").nodes[0]
    slurm.run(["sbatch", "-p", "classical", "-w", node, "--exclusive", "--wrap", "sleep 5"])
    until(lambda: job_of("r1").restarts == 1, story("r1"))
    assert until_state("r1", "completed", "failed").state == "completed"
    assert check_complete("r1", 6).attempts[0].reason == "requeued"


@pytest.mark.fault
@pytest.mark.campaign
def test_a_driver_goes_on_after_its_walltime_as_long_as_it_gets_on(here: Path) -> None:
    # Slurm sends the signal up to a minute early: of 2 min, the first stage has 45 s to complete in,
    # with the start of the process and of Prefect, which takes half a minute on a busy machine.
    Path("stuck.py").write_text(LONG.replace("shots(before())", "shots(2) + shots(26)"))
    walltime = ['batch.walltime="2 min"', 'batch.grace="15 s"']
    submitted = submit_run("stuck.py:long", run_id="r1", settings=walltime)
    until(lambda: job_of("r1").restarts == 1, story("r1"), pause_s=1.0)
    until_state("r1", "running")
    # The second attempt completes no stage.
    view = until_state("r1", "interrupted", "failed")
    assert view.reason is not None
    assert view.reason.startswith("interrupted: walltime; not continued: ")
    until(lambda: not live(Slurm()))
    assert job_of("r1").restarts == 1
    said = run_logs("r1")[submitted.output]
    assert said.count("the run goes on in the next job") == 1
    assert said.count("not continued") == said.count("no stage") == 1
    first, second = jobs_of(load_site(), "r1")
    assert (first.state.value, second.state.value) == ("completed", "cancelled")
    assert starts("r1")[first.id] == 1
    assert {attempt.reason for attempt in record_of("r1").attempts} == {"walltime"}


@pytest.mark.fault
def test_a_driver_cancelled_at_slurm_leaves_nothing(here: Path) -> None:
    submitted = submit("r1", SLOW)
    until_stages("r1", 4)
    Slurm().cancel([submitted.slurm_job])
    until_state("r1", "cancelled")
    until(lambda: not live(Slurm()))
    assert all(job.state.is_final for job in jobs_of(load_site(), "r1"))
    record = record_of("r1")
    assert (record.status, record.attempts[-1].reason) == ("interrupted", "cancelled")


@pytest.mark.fault
def test_what_a_driver_left_is_cancelled_by_the_next_command(here: Path) -> None:
    Path("stuck.py").write_text(LONG)
    # A process that ignores SIGTERM is killed after Slurm's KillWait.
    deaf = """batch.prologue=["trap '' TERM"]"""
    submitted = submit_run("stuck.py:long", run_id="r1", settings=[deaf])
    until(lambda: [job.state.value for job in jobs_of(load_site(), "r1")] == ["running"])
    Slurm().cancel([submitted.slurm_job])
    until(lambda: not live(Slurm()))
    until(lambda: run_view("r1").state == "cancelled")
    assert [job.state.value for job in jobs_of(load_site(), "r1")] == ["running"]
    runs()
    (job,) = jobs_of(load_site(), "r1")
    assert job.state.is_final
    assert record_of("r1").status == "interrupted"


@pytest.mark.fault
def test_two_runs_at_once_have_nothing_in_common(here: Path) -> None:
    jobs = {run: submit(run).slurm_job for run in ("r2", "r2-1")}
    assert len(set(jobs.values())) == 2
    for run, job in jobs.items():
        assert until_state(run, "completed", "failed").state == "completed"
        assert record_of(run).attempts[0].slurm_job == job
    cancel_run("r2")  # it has ended, and the others are other runs
    for run in jobs:
        check_complete(run, 3)


def test_a_second_driver_waits_for_the_first(here: Path) -> None:
    """As on a node that is not reached: Slurm starts the job again, and its process goes on."""
    state = load_site().state_dir
    submitted = submit("r1", settings=["""batch.extra=["--begin=now+1hour"]"""])
    with hold_run(state, "r1"):
        job = f"JobId={submitted.slurm_job}"
        subprocess.run(["scontrol", "update", job, "StartTime=now"], check=True)
        until(lambda: job_of("r1").state.is_running)
        until(
            lambda: (
                submitted.output.exists() and "waiting for its end" in submitted.output.read_text()
            )
        )
        time.sleep(1.0)
        assert not (here / "hpcqc-runs" / "r1" / "run.json").exists()
    assert until_state("r1", "completed", "failed").state == "completed"
    check_complete("r1", 3)


@pytest.mark.fault
@pytest.mark.campaign
def test_the_orphan_of_a_requeued_driver_ends_before_the_next_begins(
    here: Path, slurm: Any
) -> None:
    """slurmd dies with the keepers of its jobs, and Slurm starts the job again on another node."""
    if slurm.root is None:
        pytest.skip("an existing cluster is not for breaking")
    Path("waiting.py").write_text(WAITING)
    submitted = submit_run("waiting.py:waiting", {"folder": str(here)}, run_id="r1")
    until_stages("r1", 1)
    node = job_of("r1").nodes[0]
    try:
        slurm.kill(f"slurmd.{node}")
        for keeper in keepers(submitted.slurm_job):
            os.kill(keeper, signal.SIGKILL)
        until(lambda: job_of("r1").restarts == 1 and job_of("r1").state.is_running, story("r1"))
        assert job_of("r1").nodes[0] != node
        until(lambda: "waiting for its end" in submitted.output.read_text(), story("r1"))
        (here / "go").touch()
        assert until_state("r1", "completed", "failed").state == "completed"
        until(lambda: not live(Slurm()))  # the second process finds everything done
        check_complete("r1", 2)
    finally:
        slurm.restart()
