"""The example with an MPI program, a GPU and a QPU runs by the command in its first lines."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.provenance.schema import read_record
from orchestrator.slurm.client import Slurm
from tests.patience import until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_nodes_a_gpu_and_the_qpu_are_used_in_one_command(slurm, tmp_path: Path) -> None:
    if shutil.which("mpicc") is None:
        pytest.skip("no MPI here: mpicc is not on the PATH (Debian: libopenmpi-dev)")
    command = [sys.executable, "-m", "orchestrator.cli", "run"]
    command += [str(ROOT / "examples" / "mpi_gpu_qpu.py"), "--run-id", f"mixed-{tmp_path.name}"]
    command += ["--site", str(ROOT / "examples" / "sites" / "slurm.toml"), "--out", "mixed"]
    environment = {**slurm.environment, "XDG_STATE_HOME": str(tmp_path / "state")}
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads((tmp_path / "mixed" / "result.json").read_text())
    assert math.isclose(result["pi"], math.pi, rel_tol=1e-9)
    assert (result["processes"], result["gpus"]) == (4, 1)
    assert abs(result["ones"] - 0.25) < 0.04  # five standard deviations
    name = read_record(tmp_path / "mixed").id

    def of_run():
        return [job for job in Slurm().accounting() if job.tag is not None and job.tag.run == name]

    until(lambda: len(of_run()) == 3 and all(job.ended_at for job in of_run()), of_run)
    assert sorted((job.partition, job.node_count) for job in of_run()) == [
        ("classical", 2),
        ("gpu", 1),
        ("quantum", 1),
    ]
