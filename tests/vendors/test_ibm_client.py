"""IBM's own client, unchanged, runs against our rehearsal of the service."""

from __future__ import annotations

import math
import sys

import pytest

from tests.rehearsed import rehearsed
from tests.vendors.environments import judge

pytest.importorskip("qiskit_ibm_runtime")
pytestmark = [pytest.mark.slow, pytest.mark.vendor]


def judged(server, folder):
    instance = server.options["instance"]
    url, token_file = server.rehearsal.url, str(folder / "token.json")
    return judge(sys.executable, "ibm_client_runs.py", url, token_file, instance)


def test_the_client_runs_a_bell_circuit_and_ten_points(tmp_path) -> None:
    with rehearsed("ibm-fez", tmp_path) as server:
        found = judged(server, tmp_path)
        meter = server.meter()
    assert found["qubits"] == 156
    assert found["gates"] == ["cz", "rz", "sx", "x"]
    assert found["t1_s"] == pytest.approx(144.9e-6)
    assert found["bell"].get("00", 0) + found["bell"].get("11", 0) > 900
    assert max(found["flipped"], key=found["flipped"].get) == "001", "x was on qubit 0 of 3"
    for step, counts in enumerate(found["turned"]):
        expected = math.sin(step * math.pi / 36) ** 2
        assert counts.get("1", 0) / 1000 == pytest.approx(expected, abs=0.08)
    assert found["found"] == [found["bell_job"]]
    assert found["in_session"]
    assert sum(found["usage_s"]) == pytest.approx(meter["charges"]["qpu-s"])
    assert meter["starts"] == {"bell": 1, "turned": 1}


def test_the_client_alone_starts_a_job_twice_after_a_504(tmp_path) -> None:
    """Why hpcqc takes the client's repetitions away."""
    with rehearsed("ibm-fez", tmp_path, faults=["504:submit:1"]) as server:
        found = judged(server, tmp_path)
        meter = server.meter()
    assert meter["starts"] == {"bell": 2, "turned": 1}
    assert len(found["found"]) == 2
