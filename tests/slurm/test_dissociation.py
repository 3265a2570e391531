"""The ready flow on the example site: in each coupling and as a driver job, as on a laptop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import until
from tests.private_slurm import SlurmForTests

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SITE = Path(__file__).parents[2] / "examples" / "sites" / "slurm.toml"
FLOW = ["run", "flows.dissociation", "-p", "molecule=h2", "-p", "lengths=[0.74, 1.5]"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dissociation")


@pytest.fixture
def hpcqc(slurm: SlurmForTests, place: Path) -> Callable[..., None]:
    """Runs the command in a folder that the tests of this module share."""

    def run(*arguments: str) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            cwd=place,
            env={**slurm.environment, "HPCQC_STATE_DIR": str(place / "state")},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    return run


@pytest.fixture
def laptop(hpcqc: Callable[..., None], place: Path) -> list[float]:
    """The energies without Slurm, computed once."""
    if not (place / "laptop").exists():
        hpcqc(*FLOW, "--site", "built-in", "--out", "laptop")
    return energies(place / "laptop")


def energies(folder: Path) -> list[float]:
    points = json.loads((folder / "result.json").read_text())["points"]
    return [point[name] for point in points for name in ("hf", "vqe", "exact")]


def check_granted(record: dict[str, Any], slurm: SlurmForTests) -> None:
    """Check that classical stages ran in Slurm jobs, and quantum jobs under the GRES."""
    stages = [stage for stage in record["stages"] if stage["kind"] == "classical"]
    assert len(stages) == 4
    assert all(stage["slurm_job"] for stage in stages)
    holders = {job["slurm_job"] for job in record["jobs"]}
    listed = ",".join(map(str, holders))

    def accounted() -> dict[int, str]:
        argv = ["sacct", "-nPX", f"--jobs={listed}", "--format=JobID,AllocTRES"]
        lines = [line.split("|") for line in slurm.run(argv).splitlines()]
        # A component of a heterogeneous job has its leader's id before the plus sign.
        return {int(job.split("+")[0]): tres for job, tres in lines if "gres/qpu=1" in tres}

    until(lambda: accounted().keys() == holders, accounted)  # Slurm writes it a while later


@pytest.mark.parametrize("coupling", ["exclusive", "split", "multiplexed", "malleable", "gated"])
def test_each_coupling_finds_the_energies_of_a_laptop(
    hpcqc, laptop, place: Path, slurm: SlurmForTests, coupling: str
) -> None:
    hpcqc(*FLOW, "--site", str(SITE), "--coupling", coupling, "--out", coupling)
    assert energies(place / coupling) == pytest.approx(laptop, abs=1e-9)
    record = json.loads((place / coupling / "run.json").read_text())
    assert record["coupling"]["chosen"] == coupling
    check_granted(record, slurm)
    until(lambda: not slurm.queue(), slurm.queue)


def test_a_driver_job_finds_them_too(hpcqc, laptop, place: Path, slurm: SlurmForTests) -> None:
    hpcqc(*FLOW, "--site", str(SITE), "--batch", "--run-id", "batch")
    hpcqc("logs", "--follow", "batch")
    assert energies(place / "hpcqc-runs" / "batch") == pytest.approx(laptop, abs=1e-9)
    record = json.loads((place / "hpcqc-runs" / "batch" / "run.json").read_text())
    assert record["attempts"][0]["slurm_job"]
    check_granted(record, slurm)
    until(lambda: not slurm.queue(), slurm.queue)
