"""The private Slurm itself: what jobs get, and that it ends alone."""

from __future__ import annotations

import pytest

from tests.patience import until

pytestmark = pytest.mark.slurm


def test_a_job_gets_what_it_asks_for_and_is_accounted(slurm) -> None:
    asked = ["--partition=gpu", "--gres=gpu:1", "--licenses=qpu_lab:1", "--account=physics"]
    slurm.run(["srun", *asked, "--comment=a b", "true"])
    columns = "account,comment,alloctres,state"

    def rows() -> list[list[str]]:
        text = slurm.run(["sacct", "-X", "-n", "-P", f"--format={columns}"])
        return [line.split("|") for line in text.splitlines()]

    until(lambda: any(row[1] == "a b" and row[3] == "COMPLETED" for row in rows()), rows)
    (row,) = [row for row in rows() if row[1] == "a b"]
    assert row[0] == "physics"
    assert {"gres/gpu=1", "license/qpu_lab=1"} < set(row[2].split(","))


def test_what_is_not_there_is_refused(slurm) -> None:
    for wrong in ("--account=nobodys", "--partition=none", "--gres=qpu:1", "--nodes=99"):
        with pytest.raises(AssertionError, match="srun"):
            slurm.run(["srun", "--immediate=1", wrong, "true"])


@pytest.mark.slow
def test_a_killed_daemon_comes_back_with_its_jobs(slurm) -> None:
    if slurm.root is None:
        pytest.skip("an existing cluster is not for killing")
    job = slurm.run(["sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 60"]).strip()
    until(lambda: f"{job} RUNNING wrap" in slurm.queue(), slurm.queue)
    state = slurm.root / "state" / "job_state"
    saved = state.stat().st_mtime_ns if state.exists() else 0
    # What is younger than the saved state is lost with the daemon.
    until(lambda: state.exists() and state.stat().st_mtime_ns > saved, slurm.queue)
    slurm.kill("slurmctld")
    slurm.restart()
    assert f"{job} RUNNING wrap" in slurm.queue()
    slurm.run(["scancel", job])
    until(lambda: not slurm.queue(), slurm.queue)
