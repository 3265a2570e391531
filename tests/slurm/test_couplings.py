"""One flow in each coupling on a real Slurm: which jobs it had, by Slurm's accounting."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from orchestrator.identity import SlurmTag
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.states import AccountedJob
from tests.patience import until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SITE = """
[compute.cluster]
kind = "slurm"
options = { partition = "classical", memory = "500 MiB", nodes_min = 1, nodes_max = 2, interface = "lo", walltime = "10 min" }
[qpu.vlq]
backend = "aer"
slurm = { gres = "qpu:1", partition = "quantum" }
"""
FLOW = """
import time
from prefect import flow
from hpcqc import classical, quantum

@classical(nodes=(1, 2))
def cluster(n):
    return n + 1

@quantum
def solve(qpu, n):
    time.sleep(6)
    return n + 1

@classical
def judge(n):
    return n + 1

@flow
def loop():
    return judge(solve(cluster(0)))
"""

FAN = """
import time
from prefect import flow
from hpcqc import classical, quantum

@classical
def prepare(n):
    time.sleep(1)
    return n

@quantum
def solve(qpu, n):
    time.sleep(8)
    return n

@flow
def fan():
    found = solve.map(prepare.map([0, 1, 2]))
    return sum(one.result() for one in found)
"""


@pytest.fixture
def run(slurm, tmp_path: Path) -> Callable[[str], tuple[dict, list[AccountedJob]]]:
    (tmp_path / "site.toml").write_text(SITE)
    (tmp_path / "loop.py").write_text(FLOW)
    (tmp_path / "fan.py").write_text(FAN)

    def run_coupled(coupling: str, target: str = "loop.py:loop") -> tuple[dict, list[AccountedJob]]:
        name = f"test-{coupling}-{tmp_path.parent.name}-{tmp_path.name}"
        command = [sys.executable, "-m", "orchestrator.cli", "run", target, "--site", "site.toml"]
        command += ["--coupling", coupling, "--run-id", name, "--out", coupling]
        environment = {**slurm.environment, "XDG_STATE_HOME": str(tmp_path / "state")}
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        until(lambda: not any(name[:20] in line for line in slurm.queue()), slurm.queue)

        def of_run() -> list[AccountedJob]:
            jobs = Slurm().accounting()
            return [j for j in jobs if j.tag is not None and j.tag.run == name]

        until(lambda: of_run() and all(j.ended_at for j in of_run()), of_run)
        assert json.loads((tmp_path / coupling / "result.json").read_text()) == 3
        return json.loads((tmp_path / coupling / "run.json").read_text()), of_run()

    return run_coupled


def purposes(jobs: list[AccountedJob]) -> list[str]:
    tags = [job.tag for job in jobs]
    return sorted(tag.purpose for tag in tags if isinstance(tag, SlurmTag))


def quantum_stage(record: dict) -> dict:
    return next(stage for stage in record["stages"] if stage["kind"] == "quantum")


def test_exclusive_is_one_job_with_nodes_and_qpu(run) -> None:
    record, jobs = run("exclusive")
    assert record["coupling"]["chosen"] == "exclusive"
    assert sorted(job.node_count for job in jobs) == [1, 2]
    assert sum(job.tres.get("gres/qpu", 0) for job in jobs) == 1
    assert len({job.started_at for job in jobs}) == 1  # two components of one job


def test_split_has_a_job_for_each_stage(run) -> None:
    record, jobs = run("split")
    assert purposes(jobs) == ["qpu", "stage", "stage"]
    began = quantum_stage(record)["started_at"]
    first, second = sorted(
        (job for job in jobs if job.tag.purpose == "stage"), key=lambda job: job.id
    )
    assert first.ended_at is not None
    assert second.submitted_at is not None
    assert second.submitted_at.isoformat() > began


def test_multiplexed_keeps_its_workers(run) -> None:
    _, jobs = run("multiplexed")
    assert purposes(jobs) == ["qpu", "worker", "worker"]


@pytest.mark.parametrize("coupling", ["multiplexed", "malleable"])
def test_workers_that_no_stage_shares_are_not_started(run, tmp_path, coupling) -> None:
    own = FLOW.replace("nodes=(1, 2)", "nodes=2").replace(
        "@classical\ndef judge", "@classical(nodes=2)\ndef judge"
    )
    (tmp_path / "loop.py").write_text(own)
    _, jobs = run(coupling)
    assert purposes(jobs) == ["qpu", "stage", "stage"]


def test_malleable_gives_a_node_back_in_the_quantum_stage(run) -> None:
    _, jobs = run("malleable")
    assert purposes(jobs) == ["qpu", "worker", "worker"]
    (held,) = [job for job in jobs if job.tag.purpose == "qpu"]
    ends = sorted(job.ended_at for job in jobs if job.tag.purpose == "worker")
    # In whole seconds, and the last stage takes no time.
    assert ends[0] < held.ended_at <= ends[1]


def test_auto_says_what_it_expects(run) -> None:
    record, _ = run("auto")
    coupling = record["coupling"]
    assert coupling["automatic"]
    assert coupling["chosen"] in coupling["predicted"]


def test_auto_lets_nodes_go_that_would_wait_for_quantum_stages_side_by_side(run, tmp_path) -> None:
    site = (tmp_path / "site.toml").read_text()
    (tmp_path / "site.toml").write_text(site.replace("nodes_min = 1, ", ""))
    before, _ = run("multiplexed", "fan.py:fan")
    solved = [stage for stage in before["stages"] if stage["kind"] == "quantum"]
    begins, ends = (
        [datetime.fromisoformat(s[k]) for s in solved] for k in ("ran_from", "ran_until")
    )
    lasted_s = (max(ends) - min(begins)).total_seconds()
    record, jobs = run("auto", "fan.py:fan")
    assert record["coupling"]["chosen"] in {"split", "malleable"}
    assert record["coupling"]["reason"]
    predicted = record["coupling"]["predicted"]
    for coupling in ("split", "malleable", "multiplexed"):  # one hold for all three stages
        assert predicted[coupling]["qpu_held_s"] < 1.5 * lasted_s
    held = [job for job in jobs if job.tag.purpose == "qpu"]
    # Workers were given back while the QPU was held.
    assert any(job.ended_at < held[-1].ended_at for job in jobs if job.tag.purpose != "qpu")


@pytest.mark.parametrize("coupling", ["multiplexed", "malleable", "gated"])
def test_shared_workers_give_way_to_an_allocation_that_waits_for_their_nodes(
    run, tmp_path, coupling
) -> None:
    site = (tmp_path / "site.toml").read_text()
    # Each job has its nodes for itself, and the shared ones are all that the partition has.
    site = site.replace("nodes_min = 1, nodes_max = 2", "nodes_min = 4, nodes_max = 4, cores = 3")
    (tmp_path / "site.toml").write_text(site.replace("500 MiB", "1500 MiB"))
    flow = FLOW.replace("nodes=(1, 2)", "nodes=1")
    wide = "@classical(nodes=2)\ndef relax(n):\n    return n\n\n@flow"
    flow = flow.replace("@flow", wide).replace("solve(cluster(0))", "solve(relax(cluster(0)))")
    (tmp_path / "loop.py").write_text(flow)
    _, jobs = run(coupling)
    assert purposes(jobs) == ["qpu", "stage", *["worker"] * 8]
    (own,) = [job for job in jobs if job.tag.purpose == "stage"]
    workers = sorted((job for job in jobs if job.tag.purpose == "worker"), key=lambda job: job.id)
    assert all(job.ended_at <= own.ended_at for job in workers[:4])
    assert all(job.submitted_at >= own.ended_at for job in workers[4:])


WIDE = """
from hpcqc import classical, run_program

@classical(nodes=2, tasks_per_node=2)
def relax(n):
    run_program(["/bin/true"])
    return n + 3
"""
DIRECT = (
    WIDE
    + """
from prefect import flow

@flow
def wide():
    return relax(0)
"""
)
LATE = """
from prefect import flow

@flow
def wide():
    from stages import relax
    return relax(0)
"""


@pytest.mark.parametrize("source", [DIRECT, LATE], ids=["before its start", "at the stage's start"])
def test_an_exclusive_run_does_not_wait_for_its_own_nodes(slurm, tmp_path, source) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    (tmp_path / "stages.py").write_text(WIDE)
    (tmp_path / "wide.py").write_text(source)
    command = [sys.executable, "-m", "orchestrator.cli", "run", "wide.py:wide"]
    command += ["--site", "site.toml", "--coupling", "exclusive"]
    environment = {**slurm.environment, "XDG_STATE_HOME": str(tmp_path / "state")}

    def run_with(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    refused = run_with("--out", "refused")
    assert refused.returncode != 0
    for part in ("'relax'", "compute.cluster.options.cores = 2", "processes = 1"):
        assert part in " ".join(refused.stderr.split())
    until(lambda: not slurm.queue(), slurm.queue)
    changed = [f"compute.cluster.options.{one}" for one in ("cores=2", "processes=1")]
    ended = run_with("--out", "wide", *(part for one in changed for part in ("--set", one)))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads((tmp_path / "wide" / "result.json").read_text()) == 3
