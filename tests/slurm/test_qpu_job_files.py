"""What a run leaves for its QPU jobs that Slurm starts late, or of which it never heard."""

from __future__ import annotations

import os
import subprocess

import pytest

from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.slurm.errors import SlurmRefused, SlurmUnavailable
from orchestrator.slurm.qpu_jobs import QpuJobs
from orchestrator.slurm.states import SlurmState
from tests.forgetful_slurm import ForgetfulSlurm
from tests.patience import PATIENCE_S

QPU = QpuSettings(name="q", backend="fake", slurm=SlurmAccess(gres="qpu:1"))


class GrantingSlurm(ForgetfulSlurm):
    """Starts each job at once. doubt: what a submission raises that was stored all the same."""

    doubt: SlurmUnavailable | None = None

    def partitions(self):
        return {}

    def submit(self, script) -> int:
        self.script = script
        number = super().submit(script)
        tres, name = f"gres/{script.resources.gres.replace(':', '=')}", script.name
        self.change(number, state=SlurmState.RUNNING, tres=tres, name=name)
        if self.doubt is not None:
            raise self.doubt
        return number


@pytest.fixture
def slurm(monkeypatch) -> GrantingSlurm:
    monkeypatch.setattr("orchestrator.slurm.qpu_jobs.impossible", lambda *_: [])
    return GrantingSlurm()


def test_a_job_that_starts_after_its_run_left_ends_at_its_first_look(slurm, tmp_path) -> None:
    with QpuJobs("r", tmp_path / "r", slurm).hold(QPU):
        pass
    body = "\n".join(slurm.script.body)
    subprocess.run(["bash", "-c", body], check=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
def test_the_clock_of_its_node_does_not_end_a_job(slurm, tmp_path, ahead_s) -> None:
    looks = "sleep() { echo look; command sleep 0.01; }"
    with QpuJobs("r", tmp_path / "r", slurm).hold(QPU):
        (alive,) = (tmp_path / "r").glob("*.alive")
        seen_s = (
            alive.stat().st_mtime - ahead_s
        )  # as a node whose clock is ahead sees the run's time
        os.utime(alive, (seen_s, seen_s))
        body = "\n".join((looks, *slurm.script.body))
        with subprocess.Popen(["bash", "-c", body], stdout=subprocess.PIPE) as job:
            assert job.stdout is not None
            seen = [job.stdout.readline() for _ in range(10)]
            job.terminate()
    assert all(seen)


def test_a_job_ends_when_its_run_does_not_touch_its_file(slurm, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.slurm.qpu_jobs._ABANDONED_S", 1)
    with QpuJobs("r", tmp_path / "r", slurm).hold(QPU):
        body = "\n".join(slurm.script.body)
        subprocess.run(["bash", "-c", body], check=True, timeout=PATIENCE_S)


def test_a_job_of_which_no_answer_came_is_cancelled_in_the_end(slurm, tmp_path) -> None:
    slurm.doubt = SlurmUnavailable("no answer", submitted=True)
    jobs = QpuJobs("r", tmp_path / "r", slurm)
    with pytest.raises(SlurmUnavailable), jobs.hold(QPU):
        pass
    assert [job.state for job in slurm.queue.values()] == [SlurmState.RUNNING]
    jobs.close()
    assert [job.state for job in slurm.queue.values()] == [SlurmState.CANCELLED]


def test_a_job_that_could_not_be_cancelled_is_cancelled_in_the_end(slurm, tmp_path) -> None:
    notices: list[str] = []
    jobs = QpuJobs("r", tmp_path / "r", slurm, on_notice=notices.append)
    slurm.faults["cancel"] = [SlurmUnavailable("it is away")]
    with jobs.hold(QPU) as number:
        pass
    assert slurm.queue[number].state is SlurmState.RUNNING
    jobs.close()
    assert slurm.queue[number].state is SlurmState.CANCELLED
    assert notices == []


def test_what_a_silent_slurm_leaves_is_said_with_how_to_end_it(slurm, tmp_path) -> None:
    notices: list[str] = []
    jobs = QpuJobs("r", tmp_path / "r", slurm, on_notice=notices.append)
    numbers = [jobs.current(QPU), jobs.current(QPU.model_copy(update={"name": "p"}))]
    slurm.faults["cancel"] = [SlurmUnavailable("it is away")] * 9
    jobs.close()
    assert f"scancel {numbers[0]} {numbers[1]}" in notices[-1]
    assert [slurm.queue[number].state for number in numbers] == [SlurmState.RUNNING] * 2


def test_a_job_that_no_longer_holds_the_qpu_is_replaced_once(slurm, tmp_path) -> None:
    jobs = QpuJobs("r", tmp_path / "r", slurm)
    with jobs.hold(QPU) as first:
        second = jobs.replacement(QPU, first)
        assert second not in (None, first)
        assert jobs.replacement(QPU, first) == second  # another stage asks for the same reason
        assert slurm.queue[first].state is SlurmState.CANCELLED
    assert slurm.queue[second].state is SlurmState.CANCELLED


def test_a_job_that_slurm_does_not_cancel_now_is_not_taken_over(slurm, tmp_path) -> None:
    jobs = QpuJobs("r", tmp_path / "r", slurm)
    with jobs.hold(QPU) as first:
        slurm.faults["cancel"] = [SlurmUnavailable("it is away")]
        assert jobs.replacement(QPU, first) != first


def test_a_job_that_is_not_the_runs_own_is_not_replaced(slurm, tmp_path) -> None:
    jobs = QpuJobs("r", tmp_path / "r", slurm)
    jobs.use("q", 7)
    assert jobs.replacement(QPU, 7) is None
    assert slurm.queue == {}


def test_a_job_without_what_grants_the_qpu_is_not_taken_over(slurm, tmp_path) -> None:
    left = QpuJobs("r", tmp_path / "r", slurm).current(QPU)
    slurm.change(left, tres="cpu=1", restarts=1)
    with QpuJobs("r", tmp_path / "r", slurm).hold(QPU) as held:
        assert held != left
        assert slurm.queue[left].state is SlurmState.CANCELLED


def test_the_last_process_that_uses_a_job_ends_it(slurm, tmp_path) -> None:
    """A worker of a fan-out takes over the job of its run, and leaves it before or after the run."""
    for first, last in ((0, 1), (1, 0)):
        flow, worker = (QpuJobs(f"r{first}", tmp_path / f"r{first}", slurm) for _ in range(2))
        with flow.hold(QPU) as job:
            assert worker.current(QPU) == job
            both = [flow, worker]
            if first == 1:
                worker.close()
                assert slurm.queue[job].state is SlurmState.RUNNING
                assert flow.current(QPU) == job
        if first == 0:
            assert slurm.queue[job].state is SlurmState.RUNNING
            assert worker.current(QPU) == job
        both[last].close()
        assert slurm.queue[job].state is SlurmState.CANCELLED


def test_a_job_that_no_longer_holds_the_qpu_ends_whoever_uses_it(slurm, tmp_path) -> None:
    flow, worker = (QpuJobs("r", tmp_path / "r", slurm) for _ in range(2))
    ended = flow.current(QPU)
    assert worker.current(QPU) == ended
    assert worker.replacement(QPU, ended) != ended
    assert slurm.queue[ended].state is SlurmState.CANCELLED


def test_a_job_that_its_run_released_is_not_taken_over(slurm, tmp_path) -> None:
    first = QpuJobs("r", tmp_path / "r", slurm)
    with first.hold(QPU) as job:
        slurm.faults["cancel"] = [SlurmUnavailable("away")]
    assert slurm.queue[job].state is SlurmState.RUNNING
    assert QpuJobs("r", tmp_path / "r", slurm).current(QPU) != job


def test_a_limit_on_the_number_of_jobs_is_waited_for_and_said_once(slurm, tmp_path) -> None:
    notices: list[str] = []
    slurm.faults["submit"] = [SlurmRefused("too many", passes=True) for _ in range(3)]
    jobs = QpuJobs("r", tmp_path / "r", slurm, on_notice=notices.append)
    with jobs.hold(QPU) as job:
        assert slurm.queue[job].state is SlurmState.RUNNING
    assert slurm.tries == 4
    (notice,) = notices
    assert "too many" in notice


def test_a_limit_that_never_passes_is_not_waited_for_for_ever(slurm, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.slurm.qpu_jobs.LONGEST_REFUSAL_S", 0.0)
    slurm.faults["submit"] = [SlurmRefused("too many", passes=True) for _ in range(9)]
    with pytest.raises(SlurmRefused) as caught:
        QpuJobs("r", tmp_path / "r", slurm).current(QPU)
    assert caught.value.passes
    assert slurm.tries == 1
