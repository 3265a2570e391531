"""The same flow on its own broker and on a service: equal seeds, equal results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE_S
from tests.service.conftest import ROOT, Service

FLOW = """
from prefect import flow
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp
from hpcqc import classical, open_qpu, quantum


@classical
def angle(i):
    return 0.3 * (i + 1)


@classical
def on_a_worker(shots):
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    sampler = open_qpu().sampler(seed=5)
    return sampler.run([circuit], shots=shots).result()[0].data.meas.get_counts()


@quantum
def measured(qpu, theta):
    circuit = QuantumCircuit(2)
    circuit.ry(theta, 0)
    circuit.cx(0, 1)
    value = qpu.estimator(seed=3, precision=0.05).run([(circuit, SparsePauliOp("ZZ"))]).result()
    circuit.measure_all()
    sampler = qpu.sampler(seed=7)
    counts = [sampler.run([circuit], shots=250).result()[0].data.meas.get_counts() for _ in "ab"]
    return [counts, float(value[0].data.evs)]


@flow
def both(points: int = 2):
    found = [f.result() for f in measured.map(angle.map(list(range(points))))]
    return {"found": found, "worker": on_a_worker(100)}
"""


def run(folder: Path, *, qpu: str, **environment: str) -> tuple[Any, dict[str, Any]]:
    """Run the flow; return its value and its record."""
    (folder / "both.py").write_text(FLOW)
    command = [sys.executable, "-m", "orchestrator.cli", "run", "both.py", "--json", "--qpu", qpu]
    done = subprocess.run(
        [*command, "--run-id", "r", "--out", str(folder / "out")],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "HPCQC_STATE_DIR": str(folder / "state")}
        | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "out" / "run.json").read_text())
    return json.loads((folder / "out" / "result.json").read_text()), record


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("qpu", ["aer", "vlq"])
def test_embedded_and_service_agree(service: Service, tmp_path: Path, qpu: str) -> None:
    alone, through = tmp_path / "alone", tmp_path / "through"
    alone.mkdir()
    through.mkdir()
    _, secret = service.tokens.add("ada", "user", ["default", "qml"], now=datetime.now(UTC))
    own, own_record = run(alone, qpu=qpu)
    served, served_record = run(
        through, qpu=qpu, HPCQC_BROKER_URL=service.url, HPCQC_BROKER_TOKEN=secret
    )
    assert served == own
    jobs, own_jobs = served_record["jobs"], own_record["jobs"]
    assert len(jobs) == len(own_jobs) == 7
    assert {(job["user"], job["project"]) for job in jobs} == {("ada", "default")}
    broker = served_record["site"]["broker"]
    assert (broker["url"], broker["project"]) == (service.url, None)
    assert broker["token"] == {"source": "env", "where": "HPCQC_BROKER_TOKEN"}  # where, not what
    assert {job["state"] for job in jobs} == {"completed"}
    assert secret not in json.dumps(served_record)
    listing = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "jobs", "--json"],
        env=os.environ | {"HPCQC_BROKER_URL": service.url, "HPCQC_BROKER_TOKEN": secret},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {job["id"] for job in json.loads(listing.stdout)} == {job["id"] for job in jobs}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_wrong_token_is_told_in_one_paragraph(service: Service, tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text(FLOW)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", "both.py", "--out", "out"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "HPCQC_BROKER_URL": service.url,
            "HPCQC_BROKER_TOKEN": "hpcqc_wrong",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2
    assert "the broker refused: the token is unknown, revoked or expired" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "hpcqc_wrong" not in done.stderr
