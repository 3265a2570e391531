"""What users get wrong: exit code 2, one paragraph on stderr, never a traceback."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.application.jobs import check_ledger, jobs_of
from orchestrator.broker.ledger import Ledger, LedgerError
from orchestrator.config.loading import load_site
from orchestrator.provenance.folder import FolderError, RunFolder
from tests.errors import naming

QELIB = 'OPENQASM 2.0;\ninclude "qelib1.inc";\n'
STD = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'
BELL = QELIB + "qreg q[2];\ncreg c[2];\nh q[0];\ncx q[0],q[1];\nmeasure q->c;\n"
WIDE = QELIB + "qreg q[21];\ncreg c[21];\nh q;\nmeasure q->c;\n"  # piast-q has 20

# It writes what it may only write if it ran; every test here sees that it did not.
FLOW = """
from pathlib import Path
from prefect import flow

@flow
def tiny(points: int = 3) -> int:
    Path("it-ran").touch()
    return points

number = 7
"""


@pytest.fixture
def refused(hpcqc, tmp_path):
    """Call a command that must be refused; return the paragraph it says."""
    (tmp_path / "tiny.py").write_text(FLOW)
    (tmp_path / "bell.qasm").write_text(BELL)

    def call(*arguments):
        said = hpcqc(*arguments)
        assert said.code == 2, said
        assert said.out == ""
        assert not (tmp_path / "it-ran").exists()
        return said.paragraph

    return call


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ("[site]\ndefualt_qpu = 'a'\n[qpu.a]\nbackend = 'aer'\n", ["defualt_qpu", "default_qpu"]),
        ("[qpu.a]\nbackend = 'aer'\ntime_scal = 1\n", ["time_scal", "mean 'time_scale'"]),
        ("[compute.here]\nkind = 'local'\nwokers = 2\n", ["wokers", "mean 'workers'"]),
        ("[qpus.a]\nbackend = 'aer'\n", ["qpus", "mean 'qpu'"]),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("config", "check"), ("sample", "bell.qasm"), ("run", "tiny.py"), ("qpu", "list"), ("jobs",)],
    ids=lambda command: command[0],
)
def test_an_unknown_key_of_the_site_names_the_nearest(
    refused, tmp_path, site, words, command
) -> None:
    (tmp_path / "hpcqc.toml").write_text(site)
    told = refused(*command)
    assert "hpcqc.toml" in told
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    "command",
    [
        ("run", "tiny.py", "--qpu", "vql"),
        ("sample", "bell.qasm", "--qpu", "vql"),
        ("qpu", "show", "vql"),
    ],
)
def test_an_unknown_qpu_lists_those_there_are(refused, command) -> None:
    told = refused(*command)
    for word in ("no QPU 'vql'", "aer", "piast-q", "vtt-q50", "mean 'vlq'"):
        assert word in told, told


@pytest.mark.parametrize("command", [("run", "tiny.py"), ("sample", "bell.qasm")])
def test_the_variable_that_names_a_qpu_is_heeded(refused, monkeypatch, command) -> None:
    monkeypatch.setenv("HPCQC_QPU", "vql")
    assert "no QPU 'vql'" in refused(*command)


@pytest.mark.parametrize("command", [("run", "tiny.py"), ("sample", "bell.qasm")])
def test_an_unknown_backend_lists_those_installed(refused, tmp_path, command) -> None:
    (tmp_path / "hpcqc.toml").write_text("[qpu.real]\nbackend = 'vendor'\n")
    told = refused(*command)
    assert "'vendor'" in told
    assert "installed are: aer" in told


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("flows.dissociatoin", ["no flow 'flows.dissociatoin'", "path/to/file.py:flow"]),
        ("nowhere.py:tiny", ["no file 'nowhere.py'", "path/to/file.py:flow"]),
        ("tiny.py:tinny", ["no 'tinny'", "its flows are: tiny", "mean 'tiny'"]),
        ("tiny.py:number", ["tiny.py:number is int, not a flow", "@prefect.flow"]),
        ("empty.py", ["empty.py holds no flow", "@prefect.flow"]),
        ("broken.py", ["broken.py", "line 2"]),
        ("needy.py", ["'no_such_module_here'", "check its spelling"]),
        ("raising.py", ["(line 1)", "ZeroDivisionError"]),
    ],
)
def test_an_unknown_flow(refused, tmp_path, target, words) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("x = 1\ndef (:\n")
    (tmp_path / "needy.py").write_text("import no_such_module_here\n")
    (tmp_path / "raising.py").write_text("1 / 0\n")
    told = refused("run", target)
    assert all(word in told for word in words), told
    assert not (tmp_path / "hpcqc-runs").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("pionts=3", ["no parameter 'pionts'", "it takes: points", "mean 'points'"]),
        ("points=many", ["-p points=many", "expected int"]),
        ("points", ["-p 'points'", "expected name=value"]),
    ],
)
def test_an_unknown_parameter(refused, tmp_path, given, words) -> None:
    told = refused("run", "tiny.py", "-p", given)
    assert all(word in told for word in words), told
    assert not (tmp_path / "hpcqc-runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (QELIB + "qreg q[2];\nh q[0]\ncx q[0],q[1];\n", ["OpenQASM 2", "line 5, column 1"]),
        (QELIB + "qreg q[2];\n  hh q[0];\n", ["OpenQASM 2", "line 4, column 3", "'hh'"]),
        (STD + "qubit[2] q;\nh q[0]\ncx q[0],q[1];\n", ["OpenQASM 3", "line 5, column 1", "'cx'"]),
        (STD + "qubit q;\n  hh q;\n", ["OpenQASM 3", "line 4, column 3", "'hh'"]),
        (QELIB + "qreg q[1];\ncreg c[1];\nh q;\n", ["measures nothing", "measure_all"]),
    ],
)
def test_a_circuit_that_cannot_be_sampled(refused, tmp_path, text, words) -> None:
    (tmp_path / "c.qasm").write_text(text)
    told = refused("sample", "c.qasm")
    assert "c.qasm" in told
    assert all(word in told for word in words), told


def test_a_circuit_wider_than_the_qpu(refused, tmp_path) -> None:
    (tmp_path / "wide.qasm").write_text(WIDE)
    told = refused("sample", "wide.qasm", "--qpu", "piast-q")
    for word in ("wide.qasm", "21 qubits", "20", "piast-q"):
        assert word in told, told


@pytest.mark.parametrize("shots", [0, -1, -(2**70)])
def test_shots_that_are_none(refused, shots) -> None:
    told = refused("sample", "bell.qasm", "--shots", shots)
    assert f"shots {shots}:" in told
    assert "at least 1" in told


@pytest.mark.parametrize("command", [("jobs",), ("sample", "bell.qasm"), ("run", "tiny.py")])
def test_a_ledger_from_a_newer_version(refused, hpcqc, isolated_state, command) -> None:
    assert hpcqc("sample", "bell.qasm", "--shots", 1).code == 0
    path = isolated_state / "ledger.sqlite"
    with sqlite3.connect(path) as ledger:
        changed = ledger.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
        assert changed.rowcount == 1
    ledger.close()
    told = refused(*command)
    for word in (str(path), "999", "newer hpcqc", "Upgrade"):
        assert word in told, told


def test_a_folder_that_cannot_be_written(refused, tmp_path) -> None:
    (tmp_path / "regular").write_text("a file, and no folder\n")
    told = refused("run", "tiny.py", "--out", "regular/below")
    assert "regular" in told
    assert (tmp_path / "regular").read_text() == "a file, and no folder\n"


@contextmanager
def nobody() -> Iterator[None]:
    """Take root, which may enter every folder, its rights."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_user_s_own_files_in_the_output_folder_stop_a_run_before_its_start(
    hpcqc, tmp_path
) -> None:
    (tmp_path / "exist").mkdir()
    own = tmp_path / "exist" / "report.html"
    own.write_text("mine")
    said = hpcqc("run", "flows.maxcut", "--no-agent", "--out", "exist")
    assert said.code == 2
    assert re.search(naming(own.parent, own.name, "choose another"), said.paragraph)
    assert own.read_text() == "mine"
    assert list(own.parent.iterdir()) == [own]


def test_a_folder_below_one_that_may_not_be_entered(tmp_path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    with nobody(), pytest.raises(FolderError, match="Permission denied"):
        RunFolder(closed / "below" / "run").check()
    with nobody(), pytest.raises(LedgerError, match=naming("Permission denied", closed / "state")):
        check_ledger(closed / "state")
    site = load_site().model_copy(update={"state_dir": closed / "state"})
    with nobody(), pytest.raises(LedgerError, match=naming("Permission denied", closed / "state")):
        jobs_of(site)
    closed.chmod(0o700)


def test_a_folder_whose_name_is_too_long(refused, hpcqc, monkeypatch) -> None:
    told = refused("run", "tiny.py", "--out", f"{'x' * 300}/below")
    assert "File name too long" in told
    monkeypatch.setenv("HPCQC_STATE_DIR", f"/tmp/{'x' * 300}")
    for command in (("run", "tiny.py"), ("jobs",), ("jobs", "j0"), ("sample", "bell.qasm")):
        assert "File name too long" in refused(*command)
    said = hpcqc("doctor")
    assert said.code == 1
    assert "File name too long" in said.out + said.err


def test_a_folder_of_something_else_is_left_alone(refused, tmp_path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "run.json").write_text("not a record of a run")
    told = refused("run", "tiny.py", "--out", "thesis")
    assert "thesis" in told
    assert (folder / "run.json").read_text() == "not a record of a run"


@pytest.mark.parametrize("run_id", ["../up", "a b", "x" * 201, "service"])
def test_a_run_id_that_is_no_name(refused, run_id) -> None:
    assert "run id" in refused("run", "tiny.py", "--run-id", run_id)


def test_a_setting_that_is_none(refused) -> None:
    told = refused("run", "tiny.py", "--set", "qpu.vlq.time_scal=1")
    assert "time_scal" in told
    assert "mean 'time_scale'" in told


def test_a_flow_refuses_its_parameters_before_anything_is_there(refused, tmp_path) -> None:
    (tmp_path / "checked.py").write_text(
        """
from pathlib import Path
from prefect import flow
from hpcqc import checked_by

class NotEven(ValueError):
    pass

def even(given):
    if given["number"] % 2:
        raise NotEven(f"number {given['number']}: expected an even one")

@flow
@checked_by(even)
def halve(number: int = 3) -> float:
    Path("it-ran").touch()
    return number / 2
"""
    )
    assert "number 3: expected an even one" in refused("run", "checked.py")
    assert not (tmp_path / "hpcqc-runs").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["flows.dissociation", "-p", "xyz=tiny.py"], "expected the number of atoms"),
        (["flows.dissociation", "-p", "fcidump=none"], "no such file"),
        (["flows.maxcut", "-p", "layers=0"], "expected a whole number ≥ 1"),
        (["flows.maxcut", "-p", "graph=tiny.py"], "tiny.py"),
    ],
)
def test_a_ready_flow_refuses_its_input_at_once(refused, tmp_path, given, words) -> None:
    assert words in refused("run", *given)
    assert not (tmp_path / "hpcqc-runs").exists()


def test_a_state_folder_that_cannot_be_made(refused, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "tiny.py" / "state"))
    assert "HPCQC_STATE_DIR" in refused("run", "tiny.py")
    assert not (tmp_path / "hpcqc-runs").exists()


def test_a_backup_of_nothing_and_one_to_nowhere(refused, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "mistyped"))
    assert "there is no ledger at" in refused("broker", "backup", "copy.sqlite")
    assert not (tmp_path / "mistyped").exists()
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "state"))
    Ledger.open(tmp_path / "state" / "ledger.sqlite").close()
    assert "make it first" in refused("broker", "backup", "backups/copy.sqlite")


def test_a_statement_has_one_form(hpcqc) -> None:
    said = hpcqc("broker", "statement", "--csv", "--json")
    assert said.code == 2
    assert "--csv and --json both set the form; give one of them" in said.paragraph


@pytest.mark.slow
def test_a_machine_without_loopback_is_told_so_before_the_flow_begins(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a network of its own takes root and unshare(1)")
    (tmp_path / "mine.py").write_text("from prefect import flow\n@flow\ndef mine(): print('ran')\n")
    command = [sys.executable, "-m", "orchestrator.cli", "run", "mine.py"]
    done = subprocess.run(
        ["unshare", "-n", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "127.0.0.1 cannot be reached" in done.stderr
    assert "ip link set lo up" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ran" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vlqq"], ["vlqq", "vlq"]),
        (["vlq", "--listen", "0.0.0.0:0"], ["0.0.0.0:0", "127.0.0.1"]),
        (["vlq", "--fault", "losst:submit"], ["losst", "lost"]),
        (["vlq", "--fault", "lost:submit:0"], ["lost:submit:0", "KIND:CALL"]),
    ],
)
def test_a_rehearsal_that_cannot_be(refused, arguments, words) -> None:
    assert re.search(naming(*words), refused("rehearse", *arguments))
