"""HEAppE's own client, unchanged and in an environment of its own, runs against our server."""

from __future__ import annotations

import pytest

from tests.rehearsed import rehearsed
from tests.vendors.environments import interpreter_or_skip, judge

pytestmark = [pytest.mark.slow, pytest.mark.vendor]

REQUIREMENT = "py4heappe==4.0.0"


def test_the_client_runs_the_two_jobs_of_a_circuit(tmp_path, request) -> None:
    python = interpreter_or_skip(request.config.cache, REQUIREMENT)
    with rehearsed("vlq-staged", tmp_path) as server:
        token_file = str(tmp_path / "token.json")
        found = judge(python, "heappe_client_runs.py", server.rehearsal.url, token_file)
        meter = server.meter()
    assert found["states"] == [16, 16]
    assert found["resonators"] == ["CR1"]
    ((rows,),) = [list(circuit.values()) for circuit in found["measured"]]
    assert len(rows) == 100
    assert sum(row == [1, 0, 0] for row in rows) > 70, "x was on qubit 0 of 3"
    assert (meter["jobs"], meter["starts"]) == (1, {"judge": 1})
