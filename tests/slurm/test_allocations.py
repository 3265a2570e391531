"""`hpcqc run` inside an allocation of the user: its nodes are used, and no job is submitted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.application.known_runs import run_view
from orchestrator.provenance.schema import read_record
from orchestrator.slurm import Slurm
from tests.patience import until
from tests.private_slurm import SlurmForTests

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

FLOW = """
import os
import time
from prefect import flow
from hpcqc import classical, fan_out


def place(number):
    time.sleep(0.3)
    return os.environ["SLURMD_NODENAME"]


@classical
def places(count):
    return sorted(set(fan_out(place, range(count))))


@classical(nodes=2)
def both():
    return sorted(set(fan_out(place, range(8))))


@flow
def here():
    return [places(12), both()]
"""
SITE = """
[qpu.aer]
backend = "aer"
[compute.cluster]
kind = "slurm"
options = { cores = 1, nodes_max = 2, interface = "lo" }
"""


@pytest.fixture
def salloc(slurm: SlurmForTests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return how a run is started in an allocation of two nodes."""
    del slurm
    monkeypatch.chdir(tmp_path)
    Path("here.py").write_text(FLOW)
    Path("hpcqc.toml").write_text(SITE)
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "run", "here.py", "--json"]
    return ["salloc", "--quiet", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", *command]


def test_stages_run_on_the_nodes_of_the_allocation(salloc: list[str], slurm: SlurmForTests) -> None:
    before = set(Slurm().jobs())
    document = json.loads(slurm.run([*salloc, "--run-id", "r1"], timeout_s=200))
    (job,) = set(Slurm().jobs()) - before
    nodes = list(Slurm().jobs([job])[job].nodes)
    assert len(nodes) == 2
    assert document["result"] == [nodes, nodes]
    assert [attempt.slurm_job for attempt in read_record(Path("hpcqc-runs/r1")).attempts] == [job]
    assert run_view("r1").slurm_job == job
    until(lambda: not slurm.queue(), slurm.queue)


GPUS = """
import os
from prefect import flow
from hpcqc import classical


@classical
def count():
    return os.environ.get("SLURM_GPUS_ON_NODE", "0")


@classical(gpus=1)
def device():
    return os.environ["SLURM_GPUS_ON_NODE"]


@flow
def here():
    return [count(), device(), device(), count()]
"""


@pytest.mark.parametrize("asked", ["--gres=gpu:2", "--gpus=2"])
def test_stages_with_gpus_have_those_of_the_allocation(
    salloc: list[str], slurm: SlurmForTests, asked: str
) -> None:
    Path("here.py").write_text(GPUS)
    command = salloc[salloc.index(sys.executable) :]
    allocated = ["salloc", "--quiet", "--partition=gpu", "--cpus-per-task=4", asked, *command]
    document = json.loads(slurm.run([*allocated, "--run-id", "r1"], timeout_s=200))
    assert document["result"] == ["0", "1", "1", "0"]


def test_a_run_in_a_step_that_has_all_cores_does_not_wait_for_its_end(
    salloc: list[str], slurm: SlurmForTests
) -> None:
    command = salloc[salloc.index(sys.executable) :]
    step = ["srun", "--quiet", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2"]
    Path("once.sh").write_text('[ "$SLURM_PROCID" != 0 ] || exec "$@"\n')
    running = [*step, "bash", "once.sh", *command, "--run-id", "r1"]
    found, other = json.loads(slurm.run(running, timeout_s=200))["result"]
    assert len(found) == len(other) == 2


def test_a_stage_that_asks_for_more_than_the_allocation_is_refused(
    salloc: list[str], slurm: SlurmForTests
) -> None:
    Path("here.py").write_text(FLOW.replace("nodes=2", "nodes=3"))
    with pytest.raises(AssertionError, match="the allocation"):
        slurm.run(salloc, timeout_s=200)
    assert not Path("hpcqc-runs").exists()
    until(lambda: not slurm.queue(), slurm.queue)
