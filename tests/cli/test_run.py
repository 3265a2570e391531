"""`hpcqc run` from its checks to its folder, on real workers and a real simulator."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.architecture.source import ROOT
from tests.cli.flows import FLOW

RECORD = ROOT / "tests" / "orchestrator" / "records" / "version-1.json"

FAILING = """
from prefect import flow
from parts import Refused


@flow
def failing(kind: str):
    raise {"refused": Refused, "value": ValueError, "runtime": RuntimeError}[kind]("for a reason")


@flow
async def waiting(seconds: float):
    return seconds


@flow
def ordered(first, second=2, /, *, third=3):
    return [first, second, third]
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Flows in the working folder, one of which imports from beside itself."""
    (tmp_path / "shares.py").write_text(FLOW)
    (tmp_path / "failing.py").write_text(FAILING)
    (tmp_path / "parts.py").write_text("class Refused(ValueError): ...\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "shares.py"
    for name in ("shares", "failing", "parts"):
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_run_leaves_its_folder_and_is_not_repeated(hpcqc, script, tmp_path) -> None:
    options = (
        "--verbose",
        "--run-id",
        "r1",
        "--qpu",
        "piast-q",
        "--set",
        "compute.local.workers=1",
    )
    said = hpcqc("run", script, "-p", "points=2", "-p", "shots=300", "--json", *options)
    assert said.code == 0, said.err
    assert said.document["id"] == "r1"
    assert said.document["result"]["summary"] == ["2 shares"]
    assert "the flow speaks" in said.err  # stdout is the document's alone
    folder = tmp_path / "hpcqc-runs" / "r1"
    assert said.document["folder"] == str(folder)
    wanted = {"run.json", "result.json", "report.html", "plot.png", "gantt.png", "stages.jsonl"}
    assert wanted <= set(said.document["files"])
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["parameters"] == {"points": 2, "shots": 300}
    assert record["qpu"] == "piast-q"
    assert [s["state"] for s in record["stages"]] == ["completed"] * 4
    assert {s["kind"] for s in record["stages"]} == {"classical", "quantum"}
    assert [job["slices"] for job in record["jobs"]] == [2, 2]
    assert all(t["starts"] == 1 for job in record["jobs"] for t in job["tasks"])
    assert {job["seed"] for job in record["jobs"]} == {1}
    assert all(job["methods"] and job["calibrations"] for job in record["jobs"])
    assert set(record["usage"]["total"]["charges"]) == {"device-s"}
    assert {"python", "prefect", "qiskit"} <= set(record["versions"])
    assert len(json.loads((folder / "result.json").read_text())["values"]) == 2

    again = hpcqc("run", script, "-p", "points=2", "-p", "shots=300", *options)
    assert again.code == 0, again.err
    assert "2 shares" in again.out
    assert "4 stages (4 finished before) and 2 quantum jobs" in again.out
    assert " over 2 attempts" in again.out
    assert str(folder / "report.html") in again.out
    second = json.loads((folder / "run.json").read_text())
    assert len(second["attempts"]) == 2
    assert second["jobs"] == record["jobs"]
    assert second["stages"] == record["stages"]


@pytest.mark.usefixtures("prefect_server", "script")
@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("refused", 2, "Refused: for a reason"),
        ("value", 1, "ValueError: for a reason"),
        ("runtime", 1, "RuntimeError: for a reason"),
    ],
)
def test_a_flow_that_fails_says_so_in_one_paragraph(hpcqc, kind, code, message) -> None:
    said = hpcqc("run", "failing.py:failing", "-p", f"kind={kind}", "--verbose", "--out", "o")
    assert said.code == code
    assert f"Error: {message}\n" in said.err
    record = json.loads(Path("o/run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", message)
    assert not Path("o/result.json").exists()
    assert message in Path("o/report.html").read_text()
    assert "Traceback" in Path("o/run.log").read_text()


@pytest.mark.usefixtures("prefect_server", "script")
def test_an_async_flow(hpcqc) -> None:
    said = hpcqc("run", "failing.py:waiting", "-p", "seconds=0.5", "--verbose", "--json")
    assert said.code == 0, said.err
    assert said.document["result"] == 0.5


@pytest.mark.usefixtures("prefect_server", "script")
def test_a_flow_with_positional_parameters(hpcqc) -> None:
    given = ("-p", "first=1", "-p", "third=5")
    said = hpcqc("run", "failing.py:ordered", *given, "--verbose", "--json")
    assert said.code == 0, said.err
    assert said.document["result"] == [1, 2, 5]


@pytest.mark.usefixtures("prefect_server")
def test_what_a_stage_refuses_is_the_user_s_to_change(hpcqc, script) -> None:
    said = hpcqc("run", script, "-p", "points=1", "-p", "shots=0", "--verbose", "--json")
    assert said.code == 2
    assert said.document["error"]["kind"] == "mistake"
    assert "shots 0" in said.document["error"]["message"]
    assert said.document["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "pionts=3"], ["no parameter 'pionts'", "mean 'points'"]),
        (["-p", "points=x"], ["-p points=x: expected int"]),
        (["-p", "points"], ["expected name=value"]),
        (["--qpu", "vql"], ["no QPU 'vql'", "mean 'vlq'"]),
        (["--set", "qpu.aer.backend=vendor"], ["backend 'vendor'", "installed are: aer"]),
        (["--qpu", "vlq", "--set", "qpu.vlq.profile=none"], ["no profile 'none'"]),
        (["--set", "qpu.aer.optoins.x=1"], ["'optoins'", "mean 'options'"]),
        (["--site", "none.toml"], ["'none.toml'"]),
        (["--out", "parts.py/o"], ["cannot write the output folder"]),
        (["--run-id", "../up"], ["'../up'"]),
    ],
)
@pytest.mark.usefixtures("prefect_server")
def test_mistakes_are_found_before_anything_starts(hpcqc, script, arguments, words) -> None:
    before = sorted(Path.cwd().rglob("*.json"))
    said = hpcqc("run", script, *arguments)
    assert said.code == 2
    assert said.out == ""
    assert all(word in said.paragraph for word in words), said.paragraph
    assert sorted(Path.cwd().rglob("*.json")) == before
    assert not Path("hpcqc-runs").exists()


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_pinned_to_what_is_not_there(hpcqc, script) -> None:
    Path(script).write_text(FLOW.replace("@quantum\n", '@quantum(qpu="star")\n'))
    said = hpcqc("run", script)
    assert said.code == 2
    assert "stage 'share' is pinned: no QPU 'star'" in said.paragraph


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_that_asks_for_what_its_compute_lacks(hpcqc, script) -> None:
    text = FLOW.replace("@classical\n", "@classical(gpus=2)\n")
    assert text != FLOW
    Path(script).write_text(text)
    said = hpcqc("run", script)
    assert said.code == 2
    assert "asks for gpus = 2, which compute 'local' of kind 'local' cannot give" in said.paragraph
    assert not Path("hpcqc-runs").exists()


def test_a_ledger_of_a_newer_version_stops_a_run(hpcqc, script, isolated_state) -> None:
    import sqlite3

    from orchestrator.broker.ledger import Ledger

    isolated_state.mkdir()
    Ledger.open(isolated_state / "ledger.sqlite").close()
    connection = sqlite3.connect(isolated_state / "ledger.sqlite")
    with connection:
        connection.execute("update meta set value = '999' where key = 'schema_version'")
    connection.close()
    said = hpcqc("run", script)
    assert said.code == 2
    assert "schema 999" in said.paragraph
    assert "newer hpcqc" in said.paragraph


def test_a_folder_in_the_way_is_explained(hpcqc, script) -> None:
    Path("backends").mkdir()
    Path("backends/mine.py").write_text("")
    said = hpcqc("run", script)
    assert said.code == 2
    assert "has the name of an hpcqc package" in said.paragraph


@pytest.mark.usefixtures("prefect_server")
def test_a_folder_of_another_run_is_left_alone(hpcqc, script) -> None:
    Path("o").mkdir()
    text = RECORD.read_text().replace('"id": "coin-1"', '"id": "other"')
    Path("o/run.json").write_text(text)
    said = hpcqc("run", script, "--out", "o")
    assert said.code == 2
    assert "holds run 'other'" in said.paragraph
    assert Path("o/run.json").read_text() == text
