"""What there is: QPUs, backends, configuration, and what the doctor finds."""

from __future__ import annotations

import importlib
import json

import pytest
from pydantic import TypeAdapter

from backends import metering, registry
from backends.metering import EquivalentQubitSeconds, FloorPerTask, Metering
from backends.payloads import registry as payloads
from backends.profiles import shipped
from backends.timing import TimingModel
from docs.reference.generate import pages
from orchestrator.application import service as broker_service
from orchestrator.application.errors import is_mistake
from orchestrator.broker.client.models import Health
from orchestrator.broker.client.status import QpuStatus
from orchestrator.broker.runtime import site_rules
from orchestrator.cli.site.qpu import metering_in_words, timing_in_words
from orchestrator.config.compute_tables import COMPUTE_KINDS
from orchestrator.doctor import missing_extra
from orchestrator.names import EXTENSION_GROUPS
from tests.architecture.source import ROOT
from tests.packages import installed_package
from tests.rehearsed import rehearsed

RATIO = "(its gate time against the reference device's)"


def test_version(hpcqc) -> None:
    said = hpcqc("--version")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("hpcqc")


def test_the_qpus_of_the_built_in_laptop(hpcqc) -> None:
    said = hpcqc("qpu", "list", "--json")
    assert said.code == 0
    assert [qpu["name"] for qpu in said.document] == ["aer", *shipped()]
    assert [qpu["name"] for qpu in said.document if qpu["default"]] == ["aer"]
    table = hpcqc("qpu", "list").out
    assert all(name in table for name in shipped())


def test_a_qpu_shows_its_limits_its_bill_and_its_sources(hpcqc) -> None:
    text = hpcqc("qpu", "show", "piast-q")
    assert text.code == 0
    assert "200" in text.out
    assert "seconds on the device, loading and initialisation included; in device-s" in text.out
    document = hpcqc("qpu", "show", "piast-q", "--json").document
    assert document["target"]["max_shots"] == 200
    assert document["target"]["metering"]["kind"] == "device-time"
    assert all(document["sources"].values())
    assert "native" not in document["target"]


def test_a_site_file_may_state_the_coupling_class(hpcqc, tmp_path) -> None:
    qpu = '[qpu.{}]\nbackend = "aer"\noptions = {{ profile = "helmi" }}\n{}\n'
    stated = [("own", ""), ("rehearsed", 'coupling_class = "batch"')]
    (tmp_path / "hpcqc.toml").write_text(
        '[site]\ndefault_qpu = "own"\n' + "".join(qpu.format(*one) for one in stated)
    )
    for name, kept in (("own", "interactive"), ("rehearsed", "batch")):
        document = hpcqc("qpu", "show", name, "--json").document
        assert document["target"]["coupling_class"] == kept
        shown = hpcqc("qpu", "show", name).out
        assert f"coupling class {kept}" in " ".join(shown.split())
    table = hpcqc("qpu", "list").out
    assert "interactive" in table
    assert "batch" in table
    refused = hpcqc("qpu", "list", "--set", "qpu.own.coupling_class=prompt")
    assert (refused.code, "coupling_class" in refused.err) == (2, True)


def test_an_ideal_qpu_has_no_sources(hpcqc) -> None:
    document = hpcqc("qpu", "show", "aer", "--json").document
    assert document["sources"] == {}
    assert document["target"]["num_qubits"] is None


def test_a_machine_of_atoms_is_shown_as_such(hpcqc, tmp_path) -> None:
    (tmp_path / "hpcqc.toml").write_text('[qpu.atoms]\nbackend = "rydberg"\n')
    shown = hpcqc("qpu", "show", "atoms").out
    for words in ("Rydberg level", "5 µm", "38 µm", "6000 ns", "rydberg_global"):
        assert words in shown
    for words in ("native gates", "all to all", "mid-circuit"):
        assert words not in shown
    document = hpcqc("qpu", "show", "atoms", "--json").document
    assert document["target"]["rydberg"]["max_atoms"] == 80


def test_the_backends_and_the_packages_they_come_from(hpcqc) -> None:
    listed = {entry["name"]: entry for entry in hpcqc("backends", "--json").document}
    assert listed["aer"]["object"] == "backends.aer:create"
    assert listed["aer"]["package"] == "hpcqc"


def test_config_show_reads_back(hpcqc, tmp_path) -> None:
    shown = hpcqc("config", "show")
    assert "# from: built-in laptop" in shown.out
    (tmp_path / "mine.toml").write_text(shown.out)
    again = hpcqc("config", "show", "--site", "mine.toml", "--json").document
    first = hpcqc("config", "show", "--json").document
    assert {k: v for k, v in again.items() if k != "source"} == {
        k: v for k, v in first.items() if k != "source"
    }


def test_config_show_tells_how_a_qpu_is_scheduled(hpcqc, tmp_path) -> None:
    (tmp_path / "hpcqc.toml").write_text(
        '[qpu.a]\nbackend = "aer"\n[qpu.a.schedule]\npolicy = "fifo"\nlease = false\n'
        '[[qpu.a.schedule.window]]\ntitle = "cables"\ndaily = "03:00-03:30"\n'
    )
    shown = hpcqc("config", "show").out
    assert '[qpu.a.schedule]\npolicy = "fifo"\nslice_s = 10.0\nlease = false\n' in shown
    assert '[[qpu.a.schedule.window]]\nkind = "maintenance"\ntitle = "cables"' in shown
    schedule = hpcqc("config", "show", "--json").document["qpu"]["a"]["schedule"]
    assert (schedule["lease"], schedule["window"][0]["daily"]) == (False, "03:00-03:30")


def test_config_check_goes_down_to_the_options(hpcqc, tmp_path) -> None:
    assert hpcqc("config", "check").code == 0
    (tmp_path / "hpcqc.toml").write_text(
        '[site]\ndefault_qpu = "good"\n[qpu.good]\nbackend = "aer"\n'
        '[qpu.bad]\nbackend = "aer"\nprofile = "vql"\n[qpu.none]\nbackend = "nope"\n'
    )
    said = hpcqc("config", "check")
    assert said.code == 2
    bad, none = said.err.strip().splitlines()
    assert "[qpu.bad]" in bad
    assert "'vlq'" in bad
    assert "[qpu.none] no backend 'nope'; installed are: aer" in none
    named = hpcqc("config", "check", "--site", "hpcqc.toml")
    assert named.code == 2
    assert "[qpu.bad]" in named.err
    assert hpcqc("config", "check", "hpcqc.toml", "--site", "hpcqc.toml").code == 2
    document = hpcqc("config", "check", "--json").document
    assert (document["ok"], document["qpu"]["good"]) == (False, "ok")


def test_a_qpu_with_a_profile_is_asked_how_it_stands(hpcqc, tmp_path) -> None:
    with rehearsed("vlq", tmp_path / "site") as site:
        file, token = site.rehearsal.site_file, site.rehearsal.folder / "token.json"
        calibration = site.calibrate()
        shown = hpcqc("qpu", "show", "vlq", "--site", file, "--json").document
        assert shown["target"]["calibration"]["id"] == calibration, "that of the server, now"
        facts = shown["facts"]
        assert facts["operational"] is True
        assert facts["has_room"] is None, "nobody plans its tasks"
        assert facts["slots"] == shown["target"]["max_concurrent_tasks"]
        status = facts["sources"]["status"]
        assert status["at"] is not None
        assert str(token) in status["credentials"]
        assert facts["sources"]["readiness"]["at"] is None
        good = hpcqc("config", "check", file, "--json")
        assert (good.code, good.document["facts"]["vlq"]["operational"]) == (0, True)

        site.misbehave("503:target")
        away = hpcqc("config", "check", file)
        assert away.code == 0, "not known is not wrong"
        assert "vlq: not known" in away.err
        shown = hpcqc("qpu", "show", "vlq", "--site", file)
        assert "not known" in shown.out
        assert "never obtained" in shown.out
        site.behave()

        token.write_text('{"access_token": "another"}')
        wrong = hpcqc("config", "check", file)
        assert wrong.code == 2
        assert "[qpu.vlq]" in wrong.err
        assert "401" in wrong.err
    gone = hpcqc("config", "check", file, "--json").document
    assert (gone["ok"], gone["facts"]["vlq"]["operational"]) == (True, None)


def test_secrets_are_not_shown(hpcqc, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    (tmp_path / "hpcqc.toml").write_text(
        '[qpu.a]\nbackend = "aer"\noptions = { token = { env = "TOKEN" }, password = "s3cret", '
        'url = "https://ada:s3cret@host" }\n'
        '[broker]\nledger = "postgresql+psycopg://ada:s3cret@db/hpcqc?password=s3cret"\n'
    )
    said = [hpcqc("config", "show"), hpcqc("config", "show", "--json"), hpcqc("qpu", "list")]
    assert 'token = { env = "TOKEN" }' in said[0].out
    assert 'ledger = "postgresql+psycopg://ada:(hidden)@db/hpcqc?(hidden)"' in said[0].out
    assert not any("s3cret" in one.out + one.err for one in said)


def test_errors_do_not_repeat_the_password_of_a_url(hpcqc, tmp_path, monkeypatch) -> None:
    url = "https://ada:s3cret@host"
    broker = tmp_path / "broker.toml"
    broker.write_text(f'[qpu.aer]\nbackend = "aer"\n[broker]\nurl = "{url}"\n')
    malformed = tmp_path / "malformed.toml"
    malformed.write_text(f'[qpu.aer]\nbackend = "aer"\n[broker]\nurl = "{url}/a/path"\n')
    vendor = tmp_path / "vendor.toml"
    vendor.write_text(f'[qpu.vlq]\nbackend = "iqm"\noptions = {{ token = "t", url = "{url}" }}\n')
    said = [
        *(hpcqc("config", "show", "--site", file) for file in (broker, malformed)),
        hpcqc("config", "check", vendor),
    ]
    monkeypatch.setenv("HPCQC_BROKER_URL", url)
    said.append(hpcqc("config", "show"))
    assert [one.code for one in said] == [2] * 4
    assert all("(hidden)@host" in one.err for one in said)
    assert not any("s3cret" in one.out + one.err for one in said)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("qpu", "show", "vql"), ["no QPU 'vql'", "aer, aalto-q20", "mean 'vlq'"]),
        (("config", "show", "--site", "no.toml"), ["'no.toml'"]),
        (("config", "show", "--set", "qpu.aer.backnd=1"), ["'backnd'", "mean 'backend'"]),
        (("jobs", "j123"), ["no job 'j123'", "no ledger"]),
        (("qpu", "show", "aer", "--set", "qpu.aer.backend=aerr"), ["'aerr'", "mean 'aer'"]),
    ],
)
def test_mistakes_are_one_paragraph_and_exit_2(hpcqc, arguments, words) -> None:
    said = hpcqc(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert all(word in said.paragraph for word in words), said.paragraph
    told = hpcqc(*arguments, "--json").document["error"]
    assert told["kind"] == "mistake"
    assert told["message"] in said.paragraph


def test_an_option_there_is_not(hpcqc) -> None:
    said = hpcqc("jobs", "--lmit", "3")
    assert said.code == 2
    assert "--lmit" in said.err
    assert "--limit" in said.err


def test_no_jobs_yet(hpcqc) -> None:
    assert hpcqc("jobs", "--json").document == []
    assert hpcqc("jobs").out.startswith("no quantum jobs")


def test_a_ledger_that_is_none(hpcqc, isolated_state) -> None:
    isolated_state.mkdir()
    (isolated_state / "ledger.sqlite").write_text("this is no database, whatever its name says\n")
    said = hpcqc("jobs")
    assert said.code == 2
    assert "ledger.sqlite" in said.paragraph
    found = {c["name"]: c for c in hpcqc("doctor", "--json").document["checks"]}
    assert found["ledger"]["state"] == "broken"


def test_the_doctor_finds_nothing_broken_here(hpcqc) -> None:
    said = hpcqc("doctor", "--json")
    broken = [check for check in said.document["checks"] if check["state"] == "broken"]
    assert not broken
    assert said.code == 0
    names = {check["name"] for check in said.document["checks"]}
    assert {"python", "qiskit", "cores", "memory", "state folder", "backend aer"} <= names


def test_the_doctor_names_what_is_broken(hpcqc, tmp_path, monkeypatch) -> None:
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "mine.py").write_text("")
    (tmp_path / "hpcqc.toml").write_text('[qpu.a]\nbackend = "vendor"\n')
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    said = hpcqc("doctor", "--json")
    broken = {c["name"]: c["detail"] for c in said.document["checks"] if c["state"] == "broken"}
    assert said.code == 1
    assert set(broken) == {"shadowing", "QPU a", "prefect server"}
    assert str(tmp_path / "backends") in broken["shadowing"]
    assert "no backend 'vendor'" in broken["QPU a"]
    assert hpcqc("doctor").code == 1


def test_the_doctor_survives_a_broken_site_file(hpcqc, tmp_path) -> None:
    (tmp_path / "hpcqc.toml").write_text("[qpu")
    said = hpcqc("doctor", "--json")
    assert said.code == 1
    assert said.document["checks"][-1]["name"] == "site"


def test_which_extra_brings_a_module() -> None:
    assert "'hpcqc[chemistry]'" in missing_extra("pyscf.gto")
    assert "pip install" not in missing_extra("nothing_like_it")


@pytest.mark.parametrize(
    ("metering", "words"),
    [
        (Metering(), "seconds on the QPU; in qpu-s"),
        (
            Metering(formula=FloorPerTask(per_shot_s=4e-4, floor_s=0.9), unit="billed-s"),
            "per task: shots × 400 µs, at least 0.9 s; in billed-s",
        ),
        (
            Metering(formula=EquivalentQubitSeconds(gate_time_ratio=2), unit="eq-s"),
            f"seconds on the QPU × qubits used × 2 {RATIO}; in eq-s",
        ),
    ],
)
def test_metering_in_words(metering, words) -> None:
    assert metering_in_words(metering) == words


def test_timing_in_words() -> None:
    assert timing_in_words(None) is None
    model = TimingModel(init_s=1.5, shot_s=2e-4, layer_shot_s=1e-7, decay=0.9, decay_cap=20)
    words = "1.5 s + shots × (200 µs + 0.1 µs × qubits × depth) × 0.9^min(circuits, 20)"
    assert timing_in_words(model) == words


@pytest.mark.parametrize(
    "name",
    [
        "cli.md",
        "config.md",
        "portability.md",
        "profiles.md",
        "run.schema.json",
        "slurm.md",
        "uses.md",
    ],
)
def test_the_reference_is_what_the_code_says(name) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == pages()[name], "run: python docs/reference/generate.py"


NOW = "2026-11-24T18:00:00Z"
CLOSED = {"start": NOW, "end": "2026-11-24T18:00:40Z", "kind": "maintenance", "title": ""}


class Service:
    """The answer of a broker service to a user without jobs."""

    url = "http://broker"
    link_facts = None

    def __init__(self, **facts) -> None:
        vlq = {"name": "vlq", "backend": "aer", "state": "online", "reason": None}
        stated = {**vlq, "queued": 0, "open": 0, **facts}
        self.qpu = TypeAdapter(QpuStatus).validate_python(stated)

    def close(self) -> None:
        pass

    def health(self):
        return Health(status="ok", reason=None, ledger="ok", qpus={}, queued=0, version="1")

    def qpus(self):
        return [self.qpu]

    def queue(self, _qpu):
        return []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "no job waits or runs"),
        (
            {"queued": 3, "open": 1},
            "no job of your projects waits or runs; of all users: 3 queued, 1 running",
        ),
        (
            {"closed": True, "closure": CLOSED},
            "no job waits or runs\nvlq is closed for maintenance until 2026-11-24 18:00:40 UTC",
        ),
        (
            {"state": "drained", "reason": "cooling", "closed": True, "closure": CLOSED},
            "no job waits or runs\nvlq is drained: cooling",
        ),
        ({"closed": False, "closure": CLOSED}, "no job waits or runs"),
    ],
)
def test_the_queue_tells_of_others_their_number_and_what_stands_still(
    hpcqc, monkeypatch, facts, words
) -> None:
    monkeypatch.setattr(broker_service, "open_service", lambda **_: Service(**facts))
    assert hpcqc("broker", "queue").out.strip() == words
    unknown = hpcqc("broker", "queue", "--qpu", "vql")
    assert (unknown.code, unknown.out) == (2, "")
    assert "no QPU 'vql' at http://broker; it has: vlq" in unknown.paragraph


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"closed": True}, ["closed until 2026-11-24 18:00:40 UTC", " maintenance"]),
        ({"closed": False}, ["online", "closes 2026-11-24 18:00:00 UTC: maintenance"]),
        (
            {"closed": True, "state": "drained"},
            ["drained", "closed until 2026-11-24 18:00:40 UTC: maintenance"],
        ),
    ],
)
def test_a_qpu_that_is_closed_is_not_called_online(hpcqc, monkeypatch, facts, words) -> None:
    service = Service(closure=CLOSED, **facts)
    monkeypatch.setattr(broker_service, "open_service", lambda **_: service)
    said = hpcqc("broker", "status").out
    assert [word for word in words if word not in said] == [], said
    assert ("online" in said) == ("online" in words)


def test_json_is_one_document(hpcqc) -> None:
    for command in (("qpu", "list"), ("backends",), ("config", "show"), ("jobs",)):
        json.loads(hpcqc(*command, "--json").out)


def test_the_doctor_lists_plugins_that_cannot_be_used(hpcqc, tmp_path) -> None:
    groups = {group: {"broken": "brokenone:THING"} for group in EXTENSION_GROUPS}
    modules = {"brokenone": 'raise RuntimeError("no driver")\n'}
    with installed_package(tmp_path, "hpcqc-broken", modules, groups):
        said = hpcqc("doctor", "--json")
    found = {c["name"]: c for c in said.document["checks"]}
    assert said.code == 1
    for group, noun in EXTENSION_GROUPS.items():
        assert found[f"{noun} broken"]["state"] == "broken"
        assert "no driver" in found[f"{noun} broken"]["detail"]
        assert group in found[f"{noun} broken"]["detail"]


def test_the_groups_of_extensions_are_those_that_are_loaded() -> None:
    groups = {registry.GROUP, payloads.GROUP, metering.GROUP, site_rules.GROUP, COMPUTE_KINDS}
    assert set(EXTENSION_GROUPS) == groups


def test_a_mistake_that_a_compute_kind_finds_is_the_user_s(tmp_path) -> None:
    modules = {"slurmlike": "class NoSuchPartition(ValueError): pass\n"}
    points = {"hpcqc.computes": {"slurmlike": "slurmlike:Compute"}}
    with installed_package(tmp_path, "hpcqc-slurmlike", modules, points):
        error = importlib.import_module("slurmlike").NoSuchPartition("partition 'qcpu'")
        assert is_mistake(error)
