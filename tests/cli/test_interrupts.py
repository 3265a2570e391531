"""Runs that are cut short: by Ctrl-C, by the batch system, by a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.application.jobs import jobs_of
from orchestrator.broker.core.views import JobView
from orchestrator.config.loading import load_site
from tests.architecture.source import ROOT
from tests.patience import PATIENCE_S, until

LOOP = """
import time
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import quantum


@quantum
def loop(qpu, number, rounds, pause_s):
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    ones = 0
    for turn in range(rounds):
        job = qpu.sampler(seed=turn).run([circuit], shots=50 + number)
        ones += job.result()[0].data.meas.get_counts().get("1", 0)
        time.sleep(pause_s)
    return ones


@flow
def loops(rounds: int = 40, pause_s: float = 0.1):
    return [f.result() for f in [loop.submit(n, rounds, pause_s) for n in range(2)]]
"""
WHERE = ["--run-id", "r1", "--out", "out"]


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "loops.py").write_text(LOOP)
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "run", "loops.py", *WHERE, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_jobs(process: subprocess.Popen[str], count: int) -> None:
    wait_for_ledger(process, lambda jobs: states(jobs).count("completed") >= count, "r1")


def wait_for_ledger(
    process: subprocess.Popen[str], wanted: Callable[[list[JobView]], bool], run: str | None = None
) -> None:
    site = load_site()

    def wanted_or_ended() -> bool:
        try:
            return process.poll() is not None or wanted(jobs_of(site, run))
        except ValueError:  # read while it was being made
            return False

    until(wanted_or_ended, pause_s=0.05)
    assert process.poll() is None, process.communicate()


def states(jobs: list[JobView]) -> list[str]:
    return [job.state for job in jobs]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_an_interrupted_run_leaves_nothing_behind(tmp_path, isolated_state, number, code) -> None:
    process = begin(tmp_path)
    wait_for_jobs(process, 4)
    children = family(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    assert "Traceback" not in out + err
    assert "--run-id r1" in err
    assert all(job.state.is_final for job in jobs_of(load_site(), "r1"))
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert not alive
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert len(record["jobs"]) >= 4
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "the terminal was closed"),
    ],
)
def test_an_interrupted_sample_leaves_nothing_behind(tmp_path, number, code, word) -> None:
    (tmp_path / "long.qasm").write_text(minutes_of_gates())
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "sample", "long.qasm"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    site = load_site()
    wait_for_ledger(process, lambda jobs: "running" in states(jobs))
    children = family(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (code, "")
    assert err == f"Error: {word}; cancelling the quantum job\n"
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert children
    assert not alive
    assert [job.state for job in jobs_of(site)] == ["cancelled"]


def minutes_of_gates() -> str:
    """Return a circuit that takes minutes to simulate."""
    layer = "".join(f"rx(0.3) q[{i}];\ncx q[{i}],q[{(i + 1) % 22}];\n" for i in range(22))
    head = 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[22];\ncreg c[22];\n'
    return f"{head}{layer * 100}measure q->c;\n"


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_killed_run_goes_on_where_it_was(tmp_path, isolated_state) -> None:
    process = begin(tmp_path)
    wait_for_jobs(process, 6)
    process.kill()
    process.communicate()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "running"
    again = begin(tmp_path, "--json")
    out, err = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "completed"
    assert len(record["attempts"]) == 2
    assert len(record["jobs"]) == 80
    starts = [task["starts"] for job in record["jobs"] for task in job["tasks"]]
    assert starts == [1] * 80
    third = begin(tmp_path, "--json")
    repeated, _ = third.communicate(timeout=PATIENCE_S)
    assert json.loads(repeated)["result"] == json.loads(out)["result"]


@pytest.mark.slow
def test_without_a_server_a_run_is_quiet_and_ends_its_own(tmp_path) -> None:
    (tmp_path / "plain.py").write_text(
        "from prefect import flow\n@flow\ndef plain():\n    print('said')\n    return 3\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "run", "plain.py"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    server: list[psutil.Process] = []
    while not server and process.poll() is None:
        server = [p for p in family(process) if "prefect_service" in " ".join(p.cmdline())]
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert out.startswith("said\nresult: 3\n")
    assert err == ""
    assert server
    assert not psutil.wait_procs(server, timeout=PATIENCE_S)[1]


@pytest.mark.slow
def test_a_server_ends_when_its_run_is_killed(tmp_path) -> None:
    code = (
        "from orchestrator.application.prefect_setup import TemporaryServer\n"
        "import time\nserver = TemporaryServer({})\nserver.start()\nserver.wait()\n"
        "print(server._process.pid, flush=True)\ntime.sleep(900)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    server = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    assert not psutil.wait_procs([server], timeout=PATIENCE_S)[1]
