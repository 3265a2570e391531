"""`hpcqc.why` of a job that waits at the broker of this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from qiskit import QuantumCircuit

import hpcqc

CLOSED = """
[site]
default_qpu = "f"
[qpu.f]
backend = "fake"
[[qpu.f.schedule.window]]
kind = "maintenance"
start = 2020-01-01T00:00:00Z
end = 2999-01-01T00:00:00Z
"""


def test_the_broker_of_this_process_says_why_a_job_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpcqc.toml").write_text(CLOSED)
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    try:
        hpcqc.open_qpu("f").sampler().run([circuit], shots=10)
        (job,) = hpcqc.jobs()
        found = hpcqc.why(job)
        assert found.state == "queued"
        assert found.expected_start is not None  # which only the broker itself knows
        assert any("maintenance" in reason for reason in found.waits_for)
    finally:
        hpcqc.shutdown()
    assert hpcqc.why(job).state == "cancelled"
