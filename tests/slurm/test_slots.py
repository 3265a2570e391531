"""Free slots of a broker service, told to Slurm as a remote licence.

Slurm 22.05, which the tests start, cannot count consumed remote licences. A stand-in for ``sacctmgr``
takes and prints them as a real 24.11.5 did: recorded/24.11/remote-licences.txt.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.application.slots import publish_slots
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState
from orchestrator.config.errors import ConfigError
from orchestrator.slurm import RemoteLicence, Slurm, SlurmRefused, SlurmUnavailable
from orchestrator.slurm.inventory import parse_remote_licences
from tests.broker.embedded_rooms import bell
from tests.errors import naming
from tests.patience import until
from tests.private_slurm import SlurmForTests
from tests.service.conftest import Service, Start, start_service

__all__ = ["start_service"]

STAND_IN = """#!{python}
import json, pathlib, sys
file = pathlib.Path({file!r})
known = json.loads(file.read_text())
words = sys.argv[1:]
if known.get("refuses"):
    sys.exit(known["refuses"])
if "show" in words:
    assert words[-1] == "format=name,server,count,lastconsumed", words
    for name, server, count, consumed in known["resources"]:
        print(name, server, count, consumed, sep="|")
else:
    assert words[:3] == ["--immediate", "modify", "resource"] and words[5] == "set", words
    which = [word.partition("=")[2] for word in words[3:5]]
    for row in known["resources"]:
        if row[:2] == which:
            row[3] = int(words[6].removeprefix("lastconsumed="))
    known["changes"] += 1
    file.write_text(json.dumps(known))
    print(" Modified server resource ...")
"""


class Database:
    """What the stand-in knows: of one licence with three slots."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "database.json"
        self.write(resources=[["qpu_fake", "hpcqc", 3, 0], ["other", "hpcqc", 1, 1]], changes=0)

    def write(self, **known: object) -> None:
        before = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._file.write_text(json.dumps(before | known))

    @property
    def consumed(self) -> int:
        return json.loads(self._file.read_text())["resources"][0][3]

    @property
    def changes(self) -> int:
        return json.loads(self._file.read_text())["changes"]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    place = tmp_path / "bin"
    place.mkdir()
    file = str(tmp_path / "database.json")
    (place / "sacctmgr").write_text(STAND_IN.format(python=sys.executable, file=file))
    (place / "sinfo").write_text("#!/bin/sh\necho slurm 24.11.5\n")
    for program in place.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return Database(tmp_path)


@pytest.fixture
def service(start_service: Start, monkeypatch: pytest.MonkeyPatch, database: Database) -> Service:
    """A service whose tasks do not end, to which Slurm says nothing."""
    started = start_service(options="run_s = 3600.0")
    monkeypatch.setenv("HPCQC_STATE_DIR", str(started.state))
    return started


def publish(service: Service):
    return publish_slots("fake", licence="QPU_fake@hpcqc", site=service.site)


def test_each_run_with_work_on_the_qpu_takes_a_slot(service: Service, database: Database) -> None:
    assert publish(service).taken == database.consumed == 0
    assert (publish(service).changed, database.changes) == (False, 2)
    broker = service.client()
    running = broker.submit(JobRequest(run="a", qpu="fake"), bell())
    until(lambda: broker.view(running).state is JobState.RUNNING)
    broker.submit(JobRequest(run="b", qpu="fake"), bell(seed=2))
    broker.submit(JobRequest(run="b", qpu="fake", call=1), bell(seed=3))
    found = publish(service)
    assert (found.taken, found.total, found.licence) == (2, 3, "qpu_fake@hpcqc")
    assert (database.consumed, database.changes, found.changed) == (2, 3, True)
    for run in "cdef":
        broker.submit(JobRequest(run=run, qpu="fake"), bell(seed=ord(run)))
    assert publish(service).taken == database.consumed == 3  # not more than there are
    broker.close(resuming_s=0.0)


def test_a_qpu_that_starts_nothing_has_no_free_slot(service: Service, database: Database) -> None:
    broker = service.client()
    broker.drain("fake", "for the lab")
    found = publish(service)
    assert (found.taken, database.consumed, found.answered) == (3, 3, True)
    assert "for the lab" in (found.closed or "")
    broker.resume("fake")
    assert publish(service).taken == database.consumed == 0
    broker.close()


def test_without_the_broker_all_are_taken(service: Service, database: Database) -> None:
    service.stop()
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "orchestrator.cli",
            "broker",
            "publish",
            "fake",
            "--json",
            "--licence",
            "qpu_fake@hpcqc",
            "--site",
            str(service.site),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    said = json.loads(ended.stdout)
    assert (said["taken"], said["answered"], database.consumed) == (3, False, 3)


def test_the_licence_may_be_that_of_the_site_file(service: Service, database: Database) -> None:
    with pytest.raises(ConfigError, match=naming("fake", "--licence")):
        publish_slots("fake", site=service.site)
    text = service.site.read_text()
    table = '[qpu.fake.slurm]\nlicense = "qpu_fake@hpcqc:1"\n'
    service.site.write_text(text.replace("[qpu.aer]", f"{table}[qpu.aer]"))
    assert publish_slots("fake", site=service.site).total == 3
    service.site.write_text(text.replace("[qpu.aer]", f"{table.replace('qpu_', '')}[qpu.aer]"))
    with pytest.raises(ConfigError, match=naming("fake@hpcqc", "qpu_fake@hpcqc")):
        publish_slots("fake", site=service.site)


def test_slurms_refusal_is_shown(service: Service, database: Database) -> None:
    database.write(refuses=" This user doesn't have permission to perform this action.")
    with pytest.raises(SlurmRefused, match="permission"):
        publish(service)
    database.write(refuses="sacctmgr: error: slurm_persist_conn_open_without_init: failed")
    with pytest.raises(SlurmUnavailable):
        Slurm(patience_s=0.0).remote_licences()


def test_what_a_newer_slurm_printed_is_read() -> None:
    text = (Path(__file__).parent / "recorded/24.11/remote-licences.txt").read_text()
    asked = re.findall(r"^\$ sacctmgr .* show resource .*\n(.*)\nrc 0$", text, re.MULTILINE)
    read = [licence for shown in asked for licence in parse_remote_licences(shown)]
    assert [(one.text, one.total, one.consumed) for one in read] == [
        ("qpu_vlq@hpcqc", 4, 0),
        ("qpu_vlq@hpcqc", 4, 3),
    ]


@pytest.mark.parametrize("shown", ["a|b|1\n", "a|b|many|0\n", "a|b|1|0|x\n"])
def test_what_is_not_a_list_of_licences_is_refused(shown: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the client says what printed it
        parse_remote_licences(shown)


@pytest.mark.slurm
def test_a_slurm_that_does_not_count_consumed_licences_is_named(slurm: SlurmForTests) -> None:
    version = Slurm().version()
    if version >= (23, 2, 0):
        pytest.skip("this Slurm counts them")
    with pytest.raises(SlurmRefused, match=naming("23.02", ".".join(map(str, version)))) as caught:
        Slurm().remote_licences()
    assert "lastconsumed" in caught.value.words.lower()
    licence = RemoteLicence(name="qpu_vlq", server="hpcqc", total=1, consumed=0)
    with pytest.raises(SlurmRefused, match=naming("23.02")) as caught:
        Slurm().set_consumed(licence, 1)
    assert "lastconsumed" in caught.value.words.lower()
