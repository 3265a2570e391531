"""AQT's own client, unchanged and in an environment of its own, runs against our servers."""

from __future__ import annotations

import math

import pytest

from tests.rehearsed import rehearsed
from tests.vendors.environments import interpreter_or_skip, judge

pytestmark = [pytest.mark.slow, pytest.mark.vendor]

REQUIREMENT = "qiskit-aqt-provider==2.0.1"


def check_counts(found, shots: int) -> None:
    allowed = 5 * math.sqrt(0.25 / shots) + 0.02
    bell = found["bell"]
    assert bell.get("00", 0) + bell.get("11", 0) > 0.9 * shots
    assert bell.get("11", 0) / shots == pytest.approx(0.5, abs=allowed)
    assert max(found["flipped"], key=found["flipped"].get) == "001", "x was on qubit 0 of 3"
    assert len(found["turned"]) == 10
    for step, counts in enumerate(found["turned"]):
        assert sum(counts.values()) == shots
        expected = math.sin(step * math.pi / 18) ** 2
        assert counts.get("1", 0) / shots == pytest.approx(expected, abs=allowed)


def test_the_client_runs_a_bell_circuit_and_ten_circuits_by_direct_access(
    tmp_path, request
) -> None:
    python = interpreter_or_skip(request.config.cache, REQUIREMENT)
    with rehearsed("piast-q", tmp_path) as server:
        token_file = str(tmp_path / "token.json")
        found = judge(python, "aqt_direct_runs.py", server.rehearsal.url, token_file, "200")
        meter = server.meter()
    assert (found["name"], found["qubits"]) == ("piast-q", 20)
    check_counts(found, 200)
    assert meter["states"] == {"completed": 12}, "direct access takes a circuit a job"


def test_the_client_runs_a_bell_circuit_and_ten_circuits_in_the_cloud(tmp_path, request) -> None:
    python = interpreter_or_skip(request.config.cache, REQUIREMENT)
    folder = tmp_path / "client"
    folder.mkdir()
    with rehearsed("ibex-q1", tmp_path) as server:
        control = str(tmp_path / "control")
        found = judge(python, "aqt_cloud_runs.py", server.rehearsal.url, control, str(folder))
        meter = server.meter()
    assert found["qubits"] == 12
    check_counts(found, 1000)
    assert meter["states"] == {"completed": 3}
    assert meter["circuits"] == 12
    assert meter["starts"] == {"qiskit": 3}
