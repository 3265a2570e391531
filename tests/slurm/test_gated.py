"""A gated run beside another user's work at a broker service: when Slurm gets its worker jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.broker.client.http import RemoteBroker
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.states import SlurmJob
from tests.broker.embedded_rooms import bell
from tests.patience import PATIENCE_S, until
from tests.private_slurm import SlurmForTests
from tests.service.conftest import SITE as SERVICE_SITE
from tests.service.conftest import Service

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ON_QPU_S = 20
SITE = """
[compute.cluster]
kind = "slurm"
options = {{ partition = "classical", memory = "500 MiB", nodes_max = 2, interface = "lo", walltime = "10 min" }}
[qpu.fake]
backend = "fake"
[broker]
url = "{url}"
"""
FLOW = """
import time
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import classical, quantum

@classical
def prepare(n):
    time.sleep(12)
    return n + 1

@quantum
def solve(qpu, n):
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    qpu.sampler(default_shots=16).run([circuit]).result()
    return n + 1

@flow
def loop():
    return solve(prepare(0))
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    site, state = tmp_path / "service.toml", tmp_path / "service"
    state.mkdir()
    site.write_text(SERVICE_SITE.format(options=f"run_s = {ON_QPU_S}.0", rules="", broker=""))
    started = Service(state=state, site=site).start()
    yield started
    started.stop()


def start(tmp_path: Path, slurm: SlurmForTests, coupling: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "orchestrator.cli", "run", "loop.py:loop"]
    command += ["--site", "site.toml", "--coupling", coupling]
    command += ["--run-id", f"test-{coupling}-{tmp_path.name}", "--out", coupling]
    return subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**slurm.environment, "XDG_STATE_HOME": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=4 * PATIENCE_S)
    assert process.returncode == 0, output


def workers(tmp_path: Path) -> list[SlurmJob]:
    name = f"test-gated-{tmp_path.name}"
    jobs = Slurm().jobs().values()
    return [job for job in jobs if job.tag and (job.tag.run, job.tag.purpose) == (name, "worker")]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_held_jobs_are_released_when_the_qpu_will_be_free_in_time(slurm, service, tmp_path) -> None:
    """The QPU has 40 s of another user's work, the run 12 s before it needs the QPU."""
    (tmp_path / "site.toml").write_text(SITE.format(url=service.socket))
    (tmp_path / "loop.py").write_text(FLOW)
    # The plan knows the classical work from an earlier run, and the broker the length of a task.
    ended(start(tmp_path, slurm, "multiplexed"))
    _, secret = service.tokens.add("bob", "user", ["optics"], now=datetime.now(UTC))
    with closing(RemoteBroker(service.url, token=secret).open()) as bob:
        theirs = [
            bob.submit(JobRequest(run="bobs", qpu="fake", call=n), bell(seed=n)) for n in range(2)
        ]
        until(lambda: bob.view(theirs[0]).state is JobState.RUNNING)
        (status,) = [one for one in bob.qpus() if one.name == "fake"]
        assert status.work_s is not None
        assert ON_QPU_S < status.work_s <= 2 * ON_QPU_S + 1
        run = start(tmp_path, slurm, "gated")
        until(lambda: len(workers(tmp_path)) == 2)
        assert all(job.held for job in workers(tmp_path))
        ended(run)
        first, last = (bob.view(job).tasks[0].ended_at for job in theirs)
    assert first is not None
    assert last is not None
    began = [job.started_at for job in workers(tmp_path)]
    assert all(first < at < last for at in began if at is not None)
    assert began
    assert None not in began
    record = json.loads((tmp_path / "gated" / "run.json").read_text())
    quantum = next(stage for stage in record["stages"] if stage["kind"] == "quantum")
    classical = next(stage for stage in record["stages"] if stage["kind"] == "classical")
    assert moment(classical["started_at"]) < last < moment(quantum["ended_at"])
    assert (tmp_path / "gated" / "result.json").exists()
