"""A job's QPU resources, as QRMI's plugins for Slurm name them, are the QPUs of the site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.qrmi import qrmi_resources
from tests.errors import naming

JOB = {
    "QRMI_JOB_QPU_RESOURCES": "lab_qpu,other",
    "QRMI_JOB_QPU_TYPES": "iqm-server,pasqal-local",
    "lab_qpu_HPCQC_BACKEND": "aer",
    "lab_qpu_HPCQC_OPTIONS": '{"profile": "vlq", "time_scale": 0}',
    "lab_qpu_QRMI_IQM_ISA_ENDPOINT": "http://127.0.0.1:1",
    "other_HPCQC_BACKEND": "fake",
}
FLOW = """
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import quantum

@quantum
def measure(qpu):
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    return [qpu.name, qpu.sampler().run([circuit], shots=9).result()[0].data.meas.get_counts()]

@flow
def demo():
    return measure()
"""


def test_the_resources_are_the_qpus_where_there_is_no_site_file(tmp_path) -> None:
    site = load_site(environ={**JOB, "XDG_CONFIG_HOME": str(tmp_path)}, folder=tmp_path)
    assert site.default_qpu == "lab_qpu"
    assert list(site.qpus) == ["lab_qpu", "other"]
    assert site.qpu().backend == "aer"
    assert site.qpu().options["profile"] == "vlq"


def test_older_variables_are_read_and_newer_ones_come_first() -> None:
    old = {"SLURM_JOB_QPU_RESOURCES": "a", "SLURM_JOB_QPU_TYPES": "pasqal-cloud"}
    assert [one.type for one in qrmi_resources(old)] == ["pasqal-cloud"]
    new = {"QRMI_JOB_QPU_RESOURCES": "b", "QRMI_JOB_QPU_TYPES": "iqm-server"}
    assert [one.name for one in qrmi_resources(old | new)] == ["b"]


def test_the_file_of_the_plugin_says_what_the_environment_does_not(tmp_path) -> None:
    file = tmp_path / "qrmi_config.json"
    entries = [
        {"name": "a", "type": "iqm-server", "environment": {"HPCQC_BACKEND": "aer", "X": "1"}},
        {"name": "b", "type": "iqm-server", "is_dynamic": True},
    ]
    file.write_text(json.dumps({"resources": entries}))
    job = {
        "QRMI_JOB_QPU_RESOURCES": "a",
        "QRMI_JOB_QPU_TYPES": "iqm-server",
        "HPCQC_QRMI_CONFIG": str(file),
    }
    (found,) = qrmi_resources(job)
    assert found.settings == {"HPCQC_BACKEND": "aer", "X": "1"}
    (found,) = qrmi_resources({**job, "a_HPCQC_BACKEND": "fake"})
    assert found.settings["HPCQC_BACKEND"] == "fake"


def test_a_site_file_says_what_its_qpus_are(tmp_path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        '[site]\ndefault_qpu = "b"\n[qpu.b]\nbackend = "aer"\n[qpu.lab_qpu]\nbackend="aer"'
    )
    assert load_site(file, environ=JOB, folder=tmp_path).default_qpu == "lab_qpu"
    assert load_site(file, environ={}, folder=tmp_path).default_qpu == "b"
    elsewhere = {"QRMI_JOB_QPU_RESOURCES": "x", "QRMI_JOB_QPU_TYPES": "iqm-server"}
    assert load_site(file, environ=elsewhere, folder=tmp_path).default_qpu == "b"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"QRMI_JOB_QPU_TYPES": "iqm-server"}, "QRMI_JOB_QPU_TYPES"),
        ({"QRMI_JOB_QPU_RESOURCES": "lab_qpu,lab_qpu"}, "QRMI_JOB_QPU_RESOURCES"),
        ({"other_HPCQC_BACKEND": ""}, "HPCQC_BACKEND"),
        ({"other_HPCQC_BACKEND": "ear"}, "ear"),
        ({"lab_qpu_HPCQC_OPTIONS": "[1]"}, "HPCQC_OPTIONS"),
        ({"lab_qpu_HPCQC_OPTIONS": "{"}, "HPCQC_OPTIONS"),
        ({"HPCQC_QRMI_CONFIG": "/nowhere/qrmi.json"}, "/nowhere/qrmi.json"),
        ({"HPCQC_QRMI_CONFIG": "/proc/version"}, "/proc/version"),
    ],
)
def test_what_is_wrong_is_refused(changed, named, tmp_path) -> None:
    environ = {**JOB, **changed, "XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match=naming(named)):
        load_site(environ=environ, folder=tmp_path)


def test_a_resource_that_no_backend_speaks_names_its_type(tmp_path) -> None:
    environ = {
        "QRMI_JOB_QPU_RESOURCES": "ibm_x",
        "QRMI_JOB_QPU_TYPES": "ibm-quantum-system",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    with pytest.raises(ConfigError, match=naming("ibm_x", "ibm-quantum-system", "HPCQC_BACKEND")):
        load_site(environ=environ, folder=tmp_path)


name = st.from_regex(r"[a-z][a-z0-9_.-]{0,9}", fullmatch=True)


def test_a_flow_runs_on_the_qpu_of_the_job_without_any_configuration(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text(FLOW)
    places = {name: str(tmp_path / name.lower()) for name in ("HPCQC_STATE_DIR", "XDG_CONFIG_HOME")}
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", "demo.py"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, **JOB, **places},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    (record,) = (tmp_path / "hpcqc-runs").glob("*/run.json")
    (job,) = json.loads(record.read_text())["jobs"]
    assert (job["qpu"], job["backend"]) == ("lab_qpu", "aer")
