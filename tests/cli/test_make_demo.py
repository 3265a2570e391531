"""``make demo``, with a small flow in the place of the ready one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.provenance.schema import read_record
from tests.architecture.source import ROOT
from tests.patience import PATIENCE_S

FLOW = """
from prefect import flow
from hpcqc import quantum
from qiskit import QuantumCircuit

@quantum
def ones(qpu):
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    return qpu.sampler(seed=1).run([circuit], shots=10).result()[0].data.meas.get_counts()

@flow
def small():
    return ones()
"""


def clone(folder: Path) -> Path:
    """Make a clone of which only the demo works."""
    command = folder / ".venv" / "bin" / "hpcqc"
    command.parent.mkdir(parents=True)
    (folder / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt", ".venv/.hpcqc-installed"):
        (folder / name).touch()
    (folder / "small.py").write_text(FLOW)
    command.write_text(
        '#!/bin/sh\n[ "$1 $2" = "run flows.dissociation" ] || exit 9\nshift 2\n'
        f'exec {sys.executable} -m orchestrator.cli run small.py "$@"\n'
    )
    command.chmod(0o700)
    return folder


def make(folder: Path, target: str) -> None:
    subprocess.run(
        ["make", target, "DEMO_OUT=the demo"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_each_clone_runs_its_own_demo(tmp_path) -> None:
    for name in ("first", "second"):
        make(clone(tmp_path / name), "demo")
        record = read_record(tmp_path / name / "the demo")
        assert record.status == "completed"
        assert [stage.state for stage in record.stages] == ["completed"]
        assert len(record.attempts) == 1
    begun = [job.submitted_at for job in record.jobs]
    make(tmp_path / "second", "demo")
    again = read_record(tmp_path / "second" / "the demo")
    assert (len(again.attempts), [job.submitted_at for job in again.jobs]) == (2, begun)
    make(tmp_path / "second", "clean")
    assert not (tmp_path / "second" / "the demo").exists()
