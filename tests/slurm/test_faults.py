"""Faults of a real Slurm under a run: its result stays, and quantum work happens once.

Each test lets a flow wait in a classical stage between two quantum stages, breaks something, and lets
the flow go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.application.jobs import jobs_of
from orchestrator.config.loading import load_site
from tests.patience import PATIENCE_S, until
from tests.private_slurm import SlurmForTests
from tests.slurm.demo import (
    GRES,
    LICENCE,
    MPI_FLOW,
    QUANTUM_FLOW,
    Demo,
    keepers,
)
from tests.slurm.mpi import build, processes

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.fault]


@pytest.fixture
def demo(slurm: SlurmForTests, tmp_path: Path, count: Callable[[Path], None]) -> Iterator[Demo]:
    demo = Demo(slurm, tmp_path)
    demo.prepare()
    yield demo
    count(demo.state)
    demo.abandon()


def private(slurm: SlurmForTests) -> Path:
    if slurm.root is None:
        pytest.skip("an existing cluster is not for breaking")
    return slurm.root


def state_of(slurm: SlurmForTests, job: int) -> str:
    return slurm.run(
        ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    ).strip()


def wait_until_over(slurm: SlurmForTests, job: int) -> None:
    over = ("CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "FAILED", "COMPLETED")
    until(lambda: state_of(slurm, job) in over, lambda: state_of(slurm, job))


def test_nothing_breaks(demo: Demo) -> None:
    demo.prepare(granted=True)
    demo.begin()
    demo.started()
    demo.end()
    assert len(demo.starts) == 1


def test_a_worker_job_is_cancelled_from_outside(demo: Demo, slurm: SlurmForTests) -> None:
    demo.begin()
    first = demo.started()
    slurm.run(["scancel", str(first)])
    second = demo.started(2)
    assert second != first
    demo.end()


def test_a_worker_job_is_requeued_from_outside(demo: Demo, slurm: SlurmForTests) -> None:
    demo.begin()
    job = demo.started()
    # Worker jobs are not for requeuing; an operator can allow it, and then do it.
    slurm.run(["scontrol", "update", f"JobId={job}", "Requeue=1"])
    slurm.run(["scontrol", "requeue", str(job)])
    demo.started(2)
    demo.end()


def test_a_worker_job_is_preempted(demo: Demo, slurm: SlurmForTests) -> None:
    demo.prepare(partition="scavenge")
    demo.begin()
    first = demo.started()
    wrap = ["--parsable", "--output=/dev/null", "--wrap=sleep 600"]
    more = slurm.run(["sbatch", "--nodes=4", "--exclusive", *wrap]).strip()
    until(lambda: state_of(slurm, int(more)) == "RUNNING", slurm.queue)
    wait_until_over(slurm, first)
    slurm.run(["scancel", more])
    assert demo.started(2) != first
    demo.end()


@pytest.mark.campaign
def test_a_worker_job_is_out_of_time(demo: Demo, slurm: SlurmForTests) -> None:
    demo.prepare(walltime="1 min")
    demo.begin()
    first = demo.started()
    wait_until_over(slurm, first)
    assert state_of(slurm, first) == "TIMEOUT"
    demo.started(2)
    demo.end()


def test_the_node_is_drained_and_goes_down(demo: Demo, slurm: SlurmForTests) -> None:
    private(slurm)
    demo.begin()
    first = demo.started()
    node = slurm.run(["squeue", "--noheader", f"--jobs={first}", "--format=%N"]).strip()
    try:
        slurm.run(["scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test"])
        assert state_of(slurm, first) == "RUNNING"
        slurm.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test"])
        second = demo.started(2)
        assert second != first
        where = slurm.run(["squeue", "--noheader", f"--jobs={second}", "--format=%N"]).strip()
        assert where != node
        demo.end()
    finally:
        slurm.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"])


@pytest.mark.campaign
def test_slurmd_is_killed_with_the_keepers_of_its_jobs(demo: Demo, slurm: SlurmForTests) -> None:
    private(slurm)
    demo.begin()
    first = demo.started()
    node = slurm.run(["squeue", "--noheader", f"--jobs={first}", "--format=%N"]).strip()
    try:
        # The worker is an orphan then, which goes on; Slurm takes the node for failed.
        slurm.kill(f"slurmd.{node}")
        for keeper in keepers(first):
            os.kill(keeper, signal.SIGKILL)
        wait_until_over(slurm, first)
        until(lambda: [line for line in slurm.queue() if f"{first} " not in line], slurm.queue)
        demo.end()
    finally:
        slurm.restart()


@pytest.mark.parametrize("granted", [False, True])
def test_slurmctld_is_killed_and_started_again(
    demo: Demo, slurm: SlurmForTests, granted: bool
) -> None:
    private(slurm)
    demo.prepare(granted=granted)
    demo.begin()
    demo.started()
    slurm.kill("slurmctld")
    try:
        demo.go()
    finally:
        slurm.restart()
    demo.end()


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_run_ends_while_slurmctld_is_away(
    demo: Demo, slurm: SlurmForTests, interrupted: bool
) -> None:
    """Within its own time, and it says what is left; that ends as it says."""
    private(slurm)
    demo.prepare(granted=interrupted)
    demo.begin()
    job = demo.started()
    slurm.kill("slurmctld")
    try:
        assert demo.process is not None
        if interrupted:
            demo.process.send_signal(signal.SIGINT)
        else:
            demo.go()
        assert demo.process.wait(PATIENCE_S) == (130 if interrupted else 0), demo.output
    finally:
        slurm.restart()
    (words,) = {line for line in demo.output.splitlines() if f"scancel {job}" in line}
    assert f"hpcqc cancel {demo.id}" in words
    slurm.run(["scancel", str(job)])
    demo.check_queue()
    assert "Traceback" not in demo.output


@pytest.mark.parametrize("daemon", ["slurmdbd", "mariadb"])
def test_the_accounting_is_away(demo: Demo, slurm: SlurmForTests, daemon: str) -> None:
    private(slurm)
    demo.prepare(granted=True)
    slurm.kill(daemon)
    try:
        demo.begin()
        demo.started()
        demo.end()
    finally:
        slurm.restart()


HANGING = """#!/bin/sh
# Hangs, then fails, then submits: after a submission without an answer, too.
case " $* " in *" --test-only "*) exec REAL "$@" ;; esac
exec 9>>FOLDER/lock; flock 9
n=$(cat FOLDER/calls 2>/dev/null || echo 0); echo $((n + 1)) > FOLDER/calls
flock -u 9
case $n in
0) echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller' >&2; exit 1 ;;
1) REAL "$@" >/dev/null 9>&-; echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1 ;;
2) sleep 5 ;;
esac
exec REAL "$@" 9>&-
"""


def test_sbatch_hangs_and_fails_for_a_while(
    demo: Demo, slurm: SlurmForTests, tmp_path: Path
) -> None:
    demo.prepare(granted=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout
    wrapper = HANGING.replace("REAL", real.strip()).replace("FOLDER", str(programs))
    (programs / "sbatch").write_text(wrapper)
    (programs / "sbatch").chmod(0o755)
    demo.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    demo.begin()
    demo.started()
    workers = [line for line in slurm.queue() if "worker" in line]
    assert len(workers) == 1, workers
    demo.end()
    assert int((programs / "calls").read_text()) >= 3


def test_the_run_is_killed_and_run_again(demo: Demo, slurm: SlurmForTests) -> None:
    demo.begin()
    first = demo.started()
    assert demo.process is not None
    os.killpg(demo.process.pid, signal.SIGKILL)
    demo.process.wait()
    demo.begin()
    # The stage runs again, in the worker job of the first attempt.
    assert demo.started(2) == first
    assert len([line for line in slurm.queue() if "worker" in line]) == 1
    demo.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_nothing(
    demo: Demo, slurm: SlurmForTests, number: signal.Signals
) -> None:
    demo.prepare(granted=True)
    demo.begin()
    demo.started()
    assert demo.process is not None
    demo.process.send_signal(number)
    assert demo.process.wait(PATIENCE_S) != 0
    demo.check_queue()


@pytest.mark.campaign
def test_two_runs_at_once_and_a_job_array_do_not_meet(
    demo: Demo, slurm: SlurmForTests, tmp_path: Path
) -> None:
    array = [
        "--array=1-3",
        "--job-name=hpcqc-faulty-worker-0",
        "--comment=hpcqc:v1:faulty:worker:0",
    ]
    wrap = ["--parsable", "--output=/dev/null", "--wrap=sleep 600"]
    other = slurm.run(["sbatch", "--partition=gpu", *array, *wrap]).strip()
    second = Demo(slurm, tmp_path / "second", id="faulty-2")
    second.prepare()
    demo.begin()
    second.begin()
    jobs = {demo.started(), second.started()}
    assert len(jobs) == 2
    ours = [line for line in slurm.queue() if int(line.split()[0].split("_")[0]) in jobs]
    assert len({line.split()[2] for line in ours}) == 2
    for run in (demo, second):
        run.go()
        assert run.process is not None
        assert run.process.wait(PATIENCE_S) == 0, run.output
        run.check_ledger()
    left = slurm.queue()
    slurm.run(["scancel", other])
    assert {line.split()[0].split("_")[0] for line in left} <= {other}


def test_paths_with_spaces_and_quotes(demo: Demo) -> None:
    demo.folder, demo.id = demo.folder / "a b'\"$x é", "quoted"
    demo.prepare(granted=True)
    demo.begin()
    demo.started()
    demo.end()


def between_quantum_jobs(demo: Demo, slurm: SlurmForTests, granted: str) -> int:
    """Let a quantum stage wait after its first job; return the Slurm job that holds the QPU."""
    demo.flow, demo.quantum_stages = QUANTUM_FLOW, 1
    demo.prepare(granted=granted)
    demo.begin()
    demo.started()
    return holder(slurm)


def holder(slurm: SlurmForTests) -> int:
    (line,) = [line for line in slurm.queue() if "qpu" in line]
    return int(line.split()[0])


def test_a_requeued_job_that_holds_the_qpu_lost_its_licence(
    demo: Demo, slurm: SlurmForTests
) -> None:
    """As Slurm 25.05.0 to 25.05.8 and 25.11.0 to 25.11.6 do it: the job runs again without any."""
    job = between_quantum_jobs(demo, slurm, LICENCE)
    slurm.run(["scontrol", "update", f"JobId={job}", "Requeue=1"])
    slurm.run(["scontrol", "requeuehold", str(job)])
    until(lambda: state_of(slurm, job) == "PENDING", lambda: state_of(slurm, job))
    slurm.run(["scontrol", "update", f"JobId={job}", "Licenses="])
    slurm.run(["scontrol", "release", str(job)])
    until(lambda: state_of(slurm, job) == "RUNNING", lambda: state_of(slurm, job))
    demo.end()
    assert state_of(slurm, job) == "CANCELLED"


def test_the_job_that_holds_the_qpu_is_cancelled_between_quantum_jobs(
    demo: Demo, slurm: SlurmForTests
) -> None:
    slurm.run(["scancel", str(between_quantum_jobs(demo, slurm, GRES))])
    demo.end()


def test_the_job_that_holds_the_qpu_is_cancelled_under_a_quantum_task(
    demo: Demo, slurm: SlurmForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.prepare(granted=GRES, backend='backend = "fake"\noptions = { stuck = [1] }')
    monkeypatch.setenv("HPCQC_STATE_DIR", str(demo.state))
    site = load_site(demo.folder / "site.toml")
    demo.go()
    demo.begin()
    until(lambda: [job.state.value for job in jobs_of(site, demo.id)] == ["running"])
    slurm.run(["scancel", str(holder(slurm))])
    # The task was stopped with its Slurm job, and ran again under the next one.
    demo.end(starts=3)


@pytest.fixture
def mpi(demo: Demo) -> Demo:
    """A run whose classical stage runs an MPI program on two nodes."""
    demo.flow = MPI_FLOW.replace("PROGRAM", repr(build(demo.folder)))
    return demo


@pytest.mark.parametrize(("mode", "walltime_s"), [("crash", 120), ("hang", 10)])
def test_an_mpi_program_crashes_or_hangs(mpi: Demo, mode: str, walltime_s: int) -> None:
    flow, mpi.flow = mpi.flow, mpi.flow.replace("WALLTIME_S", str(walltime_s))
    mpi.prepare(granted=True)
    (mpi.folder / "mode").write_text(mode)
    mpi.begin()
    mpi.fail()
    assert "rank 0 of 2" in mpi.output
    assert not processes(str(mpi.folder / "sum"))
    mpi.flow = flow.replace("WALLTIME_S", "120")
    mpi.prepare(granted=True)
    (mpi.folder / "mode").write_text("well")
    mpi.begin()
    mpi.end()


def test_an_mpi_program_leaves_children(mpi: Demo) -> None:
    mpi.flow = mpi.flow.replace("WALLTIME_S", "120")
    mpi.prepare(granted=True)
    (mpi.folder / "mode").write_text("children")
    mpi.begin()
    mpi.end()
    assert (mpi.folder / "leftover").read_text() == "2"
    assert not processes(str(mpi.folder / "sum"))
