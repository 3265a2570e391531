"""IQM's own client, unchanged and in an environment of its own, runs against our server."""

from __future__ import annotations

import math

import pytest

from tests.rehearsed import rehearsed
from tests.vendors.environments import interpreter_or_skip, judge

pytestmark = [pytest.mark.slow, pytest.mark.vendor]

REQUIREMENT = "iqm-client[qiskit]==36.0.0"


@pytest.mark.parametrize(
    ("site", "alias", "qubits"),
    [("vlq", "vlq", 24), pytest.param("vtt-q50", "q50", 53, marks=pytest.mark.campaign)],
)
def test_the_client_runs_a_bell_circuit_and_ten_circuits(
    site, alias, qubits, tmp_path, request
) -> None:
    python = interpreter_or_skip(request.config.cache, REQUIREMENT)
    with rehearsed(site, tmp_path) as server:
        token_file = str(tmp_path / "token.json")
        found = judge(python, "iqm_client_runs.py", server.rehearsal.url, alias, token_file)
        meter = server.meter()
    assert found["healthy"]
    assert found["qubits"] == qubits
    assert found["usable"] <= qubits
    assert found["calibration"] == meter["calibration"]
    assert found["bell"].get("00", 0) + found["bell"].get("11", 0) > 800
    assert max(found["flipped"], key=found["flipped"].get) == "001", "x was on qubit 0 of 3"
    assert len(found["turned"]) == 10
    for step, counts in enumerate(found["turned"]):
        assert counts.get("1", 0) / 1000 == pytest.approx(
            math.sin(step * math.pi / 18) ** 2, abs=0.12
        )
    assert meter["states"] == {"completed": 3}
    assert meter["circuits"] == 12
