"""`hpcqc.why` of a job that waits at the broker of this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from qiskit import QuantumCircuit

import hpcqc
from orchestrator.application.jobs import JobsOfRun
from orchestrator.config.loading import load_site
from tests.patience import until

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


REVOKED = """
[site]
default_qpu = "f"
[qpu.f]
backend = "fake"
options = { run_s = 600, faults = [{ call = "status", kind = "denied" }] }
"""


@pytest.mark.slow  # a task whose end cannot be seen is waited for when its broker closes
def test_a_refused_token_is_told_of_here_and_to_who_shows_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpcqc.toml").write_text(REVOKED)
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    try:
        hpcqc.open_qpu("f").sampler().run([circuit], shots=10)
        (job,) = hpcqc.jobs()
        until(lambda: bool(hpcqc.why(job).waits_for))
        (reason,) = hpcqc.why(job).waits_for
        assert "QPU f has refused the credentials since" in reason
        assert "no valid token" in reason
        shown = JobsOfRun(load_site(), job.run)
        shown.read()
        assert shown.standstills(["f"]) == [reason]
        assert shown.standstills(["another"]) == []
        shown.close()
    finally:
        hpcqc.shutdown()
