"""``hpcqc broker resolve`` for a run with a broker of its own, and how it is found."""

from __future__ import annotations

import pytest
from qiskit import QuantumCircuit

import hpcqc as package
from backends.api import BackendError
from backends.metering import Charge
from orchestrator.application.resolve import resolve_job
from orchestrator.config.errors import ConfigError
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


def test_seconds_of_a_lost_task_are_priced_as_the_site_file_has_the_qpu(hpcqc, tmp_path) -> None:
    site = tmp_path / "hpcqc.toml"
    site.write_text(FORGETFUL)
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    try:
        job = package.open_qpu("f").sampler().run([circuit], shots=10)
        with pytest.raises(BackendError):
            job.result(PATIENCE_S)
    finally:
        package.shutdown()
    site.write_text(FORGETFUL.replace("[qpu.f]", "[qpu.other]").replace('"f"', '"other"'))
    with pytest.raises(ConfigError, match="charged"):
        resolve_job(job.job_id(), "failed", "on its meter", used_s=2.5, site=site)
    site.write_text(FORGETFUL)
    view = resolve_job(job.job_id(), "failed", "on its meter", used_s=2.5, site=site)
    assert view.usage.charges == (Charge(amount=2.5, unit="qpu-s"),)
