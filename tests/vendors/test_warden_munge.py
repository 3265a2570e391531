"""Munge's own credentials before a Warden, and qrmi, unchanged, against the rehearsed one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from backends.analog.devices import shipped_device
from backends.api import AccessDenied, TaskState
from backends.payloads import AnalogPayload
from backends.site_access import FixedToken
from backends.warden import create
from backends.warden.munge import MungeCredentials
from backends.warden.server import SESSION
from backends.warden.site import WardenSite
from tests.munged import munge_programs
from tests.patience import until
from tests.rehearsed import rehearsed
from tests.vendors import environments
from tests.vendors.analog_flows import far_pair

pytestmark = pytest.mark.slow

# What qrmi loads in place of libmunge: it has Munge's program make the credential.
LIBRARY = """
#include <stdio.h>
#include <string.h>
int munge_encode(char **cred, void *ctx, const void *buf, int len) {
  static char line[4096];
  FILE *from = popen("munge --no-input", "r");
  if (!from || !fgets(line, sizeof line, from)) return 1;
  pclose(from);
  line[strcspn(line, "\\n")] = 0;
  *cred = strdup(line);
  return 0;
}
const char *munge_strerror(int e) { return e ? "failed" : "success"; }
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    with munge_programs(tmp_path_factory.mktemp("munge") / "daemon") as folder:
        yield folder


@pytest.fixture
def on_path(programs, monkeypatch):
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return programs


def test_each_request_has_a_fresh_credential(tmp_path, on_path) -> None:
    """The server accepts none twice, as Munge does not."""
    with rehearsed("warden", tmp_path / "server") as site:
        options = {"url": site.rehearsal.url, "session": SESSION}
        backend = create(options, state_dir=tmp_path)
        text = far_pair(backend.target().rydberg)
        task = backend.start(backend.acquire(), AnalogPayload.coerce([text], shots=50), "tag")
        until(lambda: backend.status(task) is TaskState.COMPLETED)
        assert backend.result(task).native[0].counts.get("11", 0) > 40
        backend.close()


def test_a_credential_of_another_daemon_is_refused(tmp_path, on_path) -> None:
    with munge_programs(tmp_path / "other") as other:
        foreign = MungeCredentials(str(other.parent / "socket")).read()
    with rehearsed("warden", tmp_path / "server") as site:
        client = WardenSite(site.rehearsal.url, FixedToken(foreign), session=SESSION)
        with pytest.raises(AccessDenied, match="401"):
            client.device()
        client.close()


@pytest.mark.usefixtures("on_path")
def test_who_does_not_rehearse_is_not_let_in(tmp_path, monkeypatch) -> None:
    with rehearsed("warden", tmp_path / "server") as site:
        client = WardenSite(site.rehearsal.url, MungeCredentials(), session=SESSION)
        assert client.device()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(AccessDenied, match="401"):
            client.device()
        client.close()


def test_without_a_daemon_the_error_names_it(tmp_path, monkeypatch) -> None:
    if shutil.which("munge") is None:
        pytest.skip("no Munge on this machine")
    with pytest.raises(AccessDenied, match="munged"):
        MungeCredentials(str(tmp_path / "nowhere")).read()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AccessDenied, match="PATH"):
        MungeCredentials().read()


@pytest.mark.vendor
def test_qrmi_runs_sequences_against_the_rehearsed_warden(tmp_path, on_path, request) -> None:
    python = environments.interpreter_or_skip(request.config.cache, "qrmi==0.26.4")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, for a library in place of libmunge")
    libraries = tmp_path / "lib"
    libraries.mkdir()
    source = libraries / "munge.c"
    source.write_text(LIBRARY)
    built = libraries / "libmunge.so.2"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, source], check=True)
    device = shipped_device("analog")
    sequences = tmp_path / "sequence.json"
    sequences.write_text(far_pair(device))
    with rehearsed("warden", tmp_path / "server") as site, pytest.MonkeyPatch.context() as changed:
        changed.setenv("LD_LIBRARY_PATH", str(libraries))
        found = environments.judge(
            python, "qrmi_warden_runs.py", site.rehearsal.url, str(sequences)
        )
        meter = site.meter()
    assert found["accessible"]
    assert found["device"] == device.name
    assert found["statuses"] == ["Completed"] * 11
    for counter in found["counters"]:
        assert sum(counter.values()) == 100
        assert counter.get("11", 0) > 85
    assert sum(meter["starts"].values()) == 11
    assert meter["states"] == {"completed": 11}
    assert Path(built).exists()
