"""The private Slurm itself: what jobs get, and that it ends alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.patience import until


def asked(verb: str, root) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(ROOT / ".ci" / "slurm.py"), verb, "--root", str(root)]
    return subprocess.run(argv, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("verb", ["start", "stop", "env"])
def test_a_folder_that_others_can_change_is_refused(tmp_path, verb) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "own").mkdir(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name in ("open", "link"):
        ended = asked(verb, tmp_path / name)
        assert (ended.returncode, name in ended.stderr) == (1, True), ended.stderr
        assert not list((tmp_path / name).iterdir())
    assert asked("env", tmp_path / "own").returncode == 0


@pytest.mark.slurm
def test_the_accounts_of_an_interrupted_start_are_completed(slurm) -> None:
    if slurm.root is None:
        pytest.skip("an existing cluster keeps its accounts")
    show = ["sacctmgr", "-nP", "show", "assoc", "user=nobody", "format=account,qos"]
    slurm.run(["sacctmgr", "-i", "delete", "user", "nobody"])
    slurm.restart()
    assert set(slurm.run(show).split()) == {"chemistry|normal,short", "physics|normal,short"}


@pytest.mark.slurm
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


@pytest.mark.slurm
def test_what_is_not_there_is_refused(slurm) -> None:
    for wrong in ("--account=nobodys", "--partition=none", "--gres=qpu:1", "--nodes=99"):
        with pytest.raises(AssertionError, match="srun"):
            slurm.run(["srun", "--immediate=1", wrong, "true"])


@pytest.mark.slurm
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
