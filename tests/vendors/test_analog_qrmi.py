"""QRMI's variables alone, as its plugin for Slurm sets them, make QPUs of neutral atoms."""

from __future__ import annotations

import json
import os

import pytest

from backends.api import TaskState
from backends.pasqal_cloud.server import DEVICE_TYPE, PROJECT
from backends.payloads import AnalogPayload
from backends.warden.server import SESSION
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.resources import open_backend
from tests.errors import naming
from tests.munged import munge_programs
from tests.patience import until
from tests.rehearsed import rehearsed
from tests.vendors.analog_flows import far_pair

pytestmark = pytest.mark.slow


def check(name: str, environ, tmp_path) -> None:
    site = load_site(folder=tmp_path, environ={"HPCQC_STATE_DIR": str(tmp_path), **environ})
    backend = open_backend(site, name)
    text = far_pair(backend.target().rydberg)
    task = backend.start(backend.acquire(), AnalogPayload.coerce([text], shots=50), "tag")
    until(lambda: backend.status(task) is TaskState.COMPLETED)
    assert backend.result(task).native[0].counts.get("11", 0) > 40
    backend.close()


def test_a_warden(tmp_path, monkeypatch) -> None:
    with (
        munge_programs(tmp_path / "munge") as programs,
        rehearsed("warden", tmp_path / "site") as server,
    ):
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        job = {
            "QRMI_JOB_QPU_RESOURCES": "atoms",
            "QRMI_JOB_QPU_TYPES": "pasqal-local",
            "atoms_QRMI_WARDEN_URL": server.rehearsal.url,
        }
        with pytest.raises(ConfigError, match=naming("atoms_QRMI_JOB_ACQUISITION_TOKEN")):
            load_site(environ=job)
        monkeypatch.setenv("atoms_QRMI_JOB_ACQUISITION_TOKEN", SESSION)
        check("atoms", {**job, "atoms_QRMI_JOB_ACQUISITION_TOKEN": SESSION}, tmp_path)


def test_the_cloud(tmp_path, monkeypatch) -> None:
    with rehearsed("pasqal-cloud", tmp_path / "site") as server:
        monkeypatch.setattr("backends.pasqal_cloud.factory._URL", server.options["url"])
        token = json.loads(server.options["token"])["access_token"]
        monkeypatch.setenv(f"{DEVICE_TYPE}_QRMI_PASQAL_CLOUD_AUTH_TOKEN", token)
        job = {
            "QRMI_JOB_QPU_RESOURCES": DEVICE_TYPE,
            "QRMI_JOB_QPU_TYPES": "pasqal-cloud",
            f"{DEVICE_TYPE}_QRMI_PASQAL_CLOUD_PROJECT_ID": PROJECT,
            f"{DEVICE_TYPE}_QRMI_PASQAL_CLOUD_AUTH_TOKEN": token,
        }
        check(DEVICE_TYPE, job, tmp_path)
