"""``hpcqc broker resolve`` for a run with a broker of its own, and how it is found."""

from __future__ import annotations

import pytest
from qiskit import QuantumCircuit

import hpcqc as package
from backends.api import BackendError
from tests.errors import naming
from tests.patience import PATIENCE_S

FORGETFUL = """
[site]
default_qpu = "f"
[qpu.f]
backend = "fake"
options = { can_find = false, faults = [{ call = "start", kind = "lost", on = [1] }] }
"""


def test_a_job_in_doubt_says_what_to_do_until_that_is_done(hpcqc, tmp_path) -> None:
    (tmp_path / "hpcqc.toml").write_text(FORGETFUL)
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    try:
        job = package.open_qpu("f").sampler().run([circuit], shots=10)
        command = f"hpcqc broker resolve {job.job_id()} --as not-started"
        with pytest.raises(BackendError, match=naming(command)):
            job.result(PATIENCE_S)
        busy = hpcqc("broker", "resolve", job.job_id(), "--as", "failed", "--reason", "gone")
        assert "process" in busy.paragraph
    finally:
        package.shutdown()
    for asked in (("jobs",), ("jobs", job.job_id()), ("why", job.job_id())):
        assert command in hpcqc(*asked).out.replace("\n", " ")
    (row,) = [line for line in hpcqc("jobs", job.job_id()).out.splitlines() if ".0 " in line]
    assert "0 or 1" in row
    asked = ("broker", "resolve", job.job_id()[:11], "--reason", "not in its list", "--as")
    assert "never" in hpcqc(*asked, "never").paragraph
    settled = hpcqc(*asked, "not-started")
    assert (settled.code, "--run-id" in settled.out) == (0, True)
    assert command not in hpcqc("jobs").out
    assert "no uncertain task" in hpcqc(*asked, "failed").paragraph
    assert "jffff" in hpcqc("broker", "resolve", "jffff", *asked[3:], "failed").paragraph
