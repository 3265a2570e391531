"""QRMI, unchanged and in an environment of its own, runs against our IQM Server."""

from __future__ import annotations

import math

import pytest

from tests.rehearsed import rehearsed
from tests.vendors.environments import interpreter_or_skip, judge

pytestmark = [pytest.mark.slow, pytest.mark.vendor]


def test_qrmi_runs_a_bell_circuit_and_ten_circuits(tmp_path, request) -> None:
    python = interpreter_or_skip(request.config.cache, "qrmi==0.26.4")
    with rehearsed("vlq", tmp_path) as server:
        token_file = str(tmp_path / "token.json")
        found = judge(python, "qrmi_runs.py", server.rehearsal.url, "vlq", token_file, "a-tag")
        meter = server.meter()
    assert found["healthy"]
    (bell,) = found["bell"]
    assert bell.get("00", 0) + bell.get("11", 0) > 800
    assert min(bell.get("00", 0), bell.get("11", 0)) > 300
    for step, counts in enumerate(found["turned"]):
        expected = math.sin(step * math.pi / 18) ** 2
        assert counts.get("1", 0) / 1000 == pytest.approx(expected, abs=0.12)
    assert meter["starts"] == {"a-tag": 2}
