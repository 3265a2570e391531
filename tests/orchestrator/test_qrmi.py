"""A job's QPU resources, as QRMI's plugins for Slurm name them, are the QPUs of the site."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.qrmi import program_environment, qrmi_resources
from orchestrator.config.secrets import SecretRef, resolve_secrets
from orchestrator.resources import open_backend
from tests.errors import naming
from tests.packages import addition, installed_package
from tests.rehearsed import rehearsed

JOB = {
    "QRMI_JOB_QPU_RESOURCES": "lab_qpu,other",
    "QRMI_JOB_QPU_TYPES": "iqm-server,alice-bob-felis",
    "lab_qpu_HPCQC_BACKEND": "aer",
    "lab_qpu_HPCQC_OPTIONS": '{"profile": "vlq", "time_scale": 0}',
    "lab_qpu_QRMI_IQM_ISA_ENDPOINT": "http://127.0.0.1:1",
    "other_HPCQC_BACKEND": "fake",
}
TOKEN = "a-secret-of-the-lab"
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


@dataclass(frozen=True)
class Lab:
    """A server of a vendor. path: of the package that speaks to it. asked: paths and credentials."""

    url: str
    path: str
    asked: list[tuple[str, str]]
    stop: Callable[[], None]

    @property
    def entry(self) -> dict[str, Any]:
        own = {"QRMI_LAB_ENDPOINT": self.url, "QRMI_LAB_TOKEN": TOKEN}
        return {"name": "lab_one", "type": "lab-server", "environment": own}

    @property
    def job(self) -> dict[str, str]:
        own = self.entry["environment"].items()
        return {
            "QRMI_JOB_QPU_RESOURCES": "lab_one",
            "QRMI_JOB_QPU_TYPES": "lab-server",
            **{f"lab_one_{name}": value for name, value in own},
        }


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    asked: list[tuple[str, str]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", "")))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    points = {
        "orchestrator.backends": {"lab-wire": "labwire:create"},
        "hpcqc.qrmi_types": {"lab-server": "labwire:LAB_SERVER"},
    }
    place = tmp_path / "packages"
    place.mkdir()
    with installed_package(place, "hpcqc-labwire", addition("labwire"), points):
        yield Lab(f"http://127.0.0.1:{server.server_port}", str(place), asked, stop)
    stop()


def test_a_resource_s_name_leads_out_of_no_folder(tmp_path) -> None:
    job = {"QRMI_JOB_QPU_RESOURCES": "../../x", "QRMI_JOB_QPU_TYPES": "any"}
    job |= {"../../x_HPCQC_BACKEND": "fake", "../../x_HPCQC_OPTIONS": '{"durable": true}'}
    state = tmp_path / "a" / "b" / "state"
    site = load_site(
        environ={**job, "XDG_CONFIG_HOME": str(tmp_path), "HPCQC_STATE_DIR": str(state)},
        folder=tmp_path,
    )
    open_backend(site, "../../x").close()
    assert (state / "qpus").is_dir()
    assert [path.name for path in (tmp_path / "a").rglob("*") if path.name == "x"] == []


def test_the_resources_are_the_qpus_where_there_is_no_site_file(tmp_path) -> None:
    site = load_site(environ={**JOB, "XDG_CONFIG_HOME": str(tmp_path)}, folder=tmp_path)
    assert site.default_qpu == "lab_qpu"
    assert list(site.qpus) == ["lab_qpu", "other"]
    assert site.qpu().backend == "aer"
    assert site.qpu().options["profile"] == "vlq"


def test_a_type_that_a_backend_speaks_needs_no_configuration_of_ours(lab, tmp_path) -> None:
    environ = {**lab.job, "XDG_CONFIG_HOME": str(tmp_path)}
    site = load_site(environ=environ, folder=tmp_path)
    token = SecretRef(source="qrmi", where="lab_one_QRMI_LAB_TOKEN")
    assert site.qpu().backend == "lab-wire"
    assert site.qpu().options == {"url": lab.url, "machine": "lab:one", "token": token}
    assert token.resolve(environ) == TOKEN
    assert TOKEN not in repr(site) + repr(qrmi_resources(environ))


def test_types_and_secrets_may_come_from_the_file_of_the_plugin_alone(lab, tmp_path) -> None:
    (tmp_path / "qrmi_config.json").write_text(json.dumps({"resources": [lab.entry]}))
    environ = {
        "SLURM_JOB_QPU_RESOURCES": "lab_one",
        "HPCQC_QRMI_CONFIG": str(tmp_path / "qrmi_config.json"),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    options = load_site(environ=environ, folder=tmp_path).qpu("lab_one").options
    assert options["url"] == lab.url
    assert resolve_secrets(options, environ)["token"] == TOKEN
    with pytest.raises(ConfigError, match=naming("lab_one_QRMI_LAB_TOKEN")):
        resolve_secrets(options, {})


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
        ({"QRMI_JOB_QPU_TYPES": "", "lab_qpu_HPCQC_BACKEND": ""}, "QRMI_JOB_QPU_TYPES"),
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


def test_a_variable_that_the_backend_needs_and_nobody_set_is_named(lab, tmp_path) -> None:
    environ = {**lab.job, "lab_one_QRMI_LAB_TOKEN": "", "XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match=naming("lab_one", "lab_one_QRMI_LAB_TOKEN")):
        load_site(environ=environ, folder=tmp_path)


def test_a_program_gets_what_the_file_alone_has_and_nothing_of_ours(lab, tmp_path) -> None:
    (tmp_path / "qrmi_config.json").write_text(
        json.dumps({"resources": [lab.entry | {"environment": {"QRMI_X": "1", "HPCQC_Y": "2"}}]})
    )
    known = {
        "QRMI_JOB_QPU_RESOURCES": "lab_one",
        "HPCQC_QRMI_CONFIG": str(tmp_path / "qrmi_config.json"),
    }
    found = program_environment(known)
    assert {name for name in found if name.startswith("lab_one_")} == {"lab_one_QRMI_X"}
    assert found["QRMI_JOB_QPU_TYPES"] == "lab-server"
    assert program_environment({"PATH": "/bin"}) == {"PATH": "/bin"}


def hpcqc(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (folder / "demo.py").write_text(FLOW)
    places = {name: str(folder / name.lower()) for name in ("HPCQC_STATE_DIR", "XDG_CONFIG_HOME")}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", "demo.py"],
        check=False,
        cwd=folder,
        env={**os.environ, **places, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def used(folder: Path) -> tuple[str, str]:
    """Return name and backend of the QPU of the one job of the one run."""
    (record,) = (folder / "hpcqc-runs").glob("*/run.json")
    (job,) = json.loads(record.read_text())["jobs"]
    return job["qpu"], job["backend"]


def test_a_flow_runs_on_the_qpu_of_the_job_without_any_configuration(tmp_path: Path) -> None:
    ended = hpcqc(tmp_path, JOB)
    assert ended.returncode == 0, ended.stderr
    assert used(tmp_path) == ("lab_qpu", "aer")


def test_a_flow_runs_on_the_vendors_machine_and_nobody_prints_its_token(lab, tmp_path) -> None:
    ended = hpcqc(tmp_path, {**lab.job, "PYTHONPATH": lab.path})
    assert ended.returncode == 0, ended.stderr
    assert used(tmp_path) == ("lab_one", "lab-wire")
    assert set(lab.asked) == {("/lab:one", f"Bearer {TOKEN}")}
    written = [file for file in tmp_path.rglob("*") if file.is_file() and lab.path not in str(file)]
    assert TOKEN.encode() not in b"".join(file.read_bytes() for file in written)
    assert TOKEN not in ended.stdout + ended.stderr


def test_a_machine_that_does_not_answer_is_one_clear_error(lab, tmp_path) -> None:
    lab.stop()
    ended = hpcqc(tmp_path, {**lab.job, "PYTHONPATH": lab.path})
    assert ended.returncode == 1
    assert re.search(naming("lab_one", f"{lab.url}/lab:one"), ended.stderr)
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("Error") == 1


def test_qrmis_variables_alone_reach_the_quantum_computer_of_an_iqm_server(tmp_path: Path) -> None:
    with rehearsed("euro-q-exa", tmp_path / "site") as server:
        token = json.loads(server.options["token"])["access_token"]
        job = {
            "SLURM_JOB_QPU_RESOURCES": "euro-q-exa",
            "SLURM_JOB_QPU_TYPES": "iqm-server",
            "euro-q-exa_QRMI_IQM_ISA_ENDPOINT": server.options["url"],
            "euro-q-exa_QRMI_IQM_ISA_TOKEN": token,
        }
        ended = hpcqc(tmp_path, job)
        assert ended.returncode == 0, ended.stderr
        assert used(tmp_path) == ("euro-q-exa", "iqm")
        assert server.meter()["jobs"] == 1
        (tmp_path / "other").mkdir()
        wrong = {**job, "euro-q-exa_QRMI_IQM_ISA_TOKEN": "revoked"}
        refused = hpcqc(tmp_path / "other", wrong)
    assert refused.returncode == 1
    assert refused.stderr.count("Error") == 1
    assert "revoked" not in refused.stderr
