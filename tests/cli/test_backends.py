"""``hpcqc backends``, and QPUs whose backend runs in an environment of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from backends.child import managed

BELL = (
    'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[2];\ncreg c[2];\n'
    "h q[0];\ncx q[0],q[1];\nmeasure q -> c;\n"
)


@pytest.fixture
def bell(tmp_path) -> Path:
    path = tmp_path / "bell.qasm"
    path.write_text(BELL)
    return path


def site(tmp_path, **keys) -> None:
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    (tmp_path / "hpcqc.toml").write_text(f'[qpu.q]\nbackend = "fake"\n{lines}')


def made(state, mode=0o700) -> None:
    """Make what counts as the managed environment of ``fake``: a link to this Python."""
    folder = Path(os.environ["HPCQC_STATE_DIR"]) / "environments" / "fake"
    (folder / "made" / "bin").mkdir(parents=True, mode=0o700)
    (folder / "made" / "bin" / "python").symlink_to(sys.executable)
    (folder / managed.CURRENT).symlink_to("made")
    for place in (folder.parent, folder, folder / "made", folder / "made" / "bin"):
        place.chmod(mode)


def test_list_is_what_the_noun_alone_prints(hpcqc) -> None:
    listed = hpcqc("backends", "list", "--json").document
    assert listed == hpcqc("backends", "--json").document
    assert {"aer", "fake"} <= {entry["name"] for entry in listed}
    assert all(entry["environment"] is None for entry in listed)
    assert "aer" in hpcqc("backends").out


@pytest.mark.parametrize("environment", [sys.executable, [sys.executable, "-m", "backends.child"]])
def test_a_circuit_runs_in_an_environment_of_its_own(hpcqc, tmp_path, bell, environment) -> None:
    site(tmp_path, environment=repr(environment).replace("'", '"'))
    said = hpcqc("sample", bell, "--shots", 100, "--json")
    assert said.code == 0
    assert sum(said.document["counts"].values()) == 100
    assert set(said.document["counts"]) <= {"00", "11"}


def test_a_relative_interpreter_lies_beside_the_site_file(hpcqc, tmp_path, bell) -> None:
    (tmp_path / "sdk").symlink_to(Path(sys.executable).parent)
    site(tmp_path, environment=f'"sdk/{Path(sys.executable).name}"')
    said = hpcqc("config", "show", "--json").document
    assert said["qpu"]["q"]["environment"] == f"{tmp_path}/sdk/{Path(sys.executable).name}"


def test_a_managed_environment_must_be_made_first(hpcqc, tmp_path, bell) -> None:
    site(tmp_path, environment='"managed"')
    said = hpcqc("sample", bell)
    assert said.code == 2
    assert "hpcqc backends install fake" in said.paragraph


def test_a_managed_environment_that_others_can_write_is_refused(
    hpcqc, tmp_path, bell, monkeypatch
) -> None:
    site(tmp_path, environment='"managed"')
    made(tmp_path, 0o777)
    said = hpcqc("sample", bell)
    assert said.code == 2
    assert "0777" in said.paragraph


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ('"/no/such/python"', "/no/such/python"),
        ('"/bin/false"', "exit code 1"),
        ('["echo", "hello"]', "hello"),
    ],
)
def test_an_environment_that_cannot_be_used_is_one_sentence(
    hpcqc, tmp_path, bell, environment, named
) -> None:
    site(tmp_path, environment=environment)
    said = hpcqc("sample", bell)
    assert said.code == 2
    assert named in said.paragraph


def test_an_interpreter_that_all_can_replace_is_refused(hpcqc, tmp_path, bell) -> None:
    top = tmp_path / "open"
    folder = top / "bin"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    site(tmp_path, environment=f'"{folder}/python"')
    said = hpcqc("sample", bell)
    assert said.code == 2
    assert "0777" in said.paragraph
    folder.chmod(0o755)
    assert hpcqc("sample", bell).code == 0
    top.chmod(0o777)  # another folder can be put in the place of "bin"
    assert hpcqc("sample", bell).code == 2


def test_a_command_of_the_path_may_be_used_in_a_folder_that_all_can_write(
    hpcqc, tmp_path, bell, monkeypatch
) -> None:
    tmp_path.chmod(0o777)
    site(tmp_path, environment='["sh", "-c", "exit 3"]')
    said = hpcqc("sample", bell)
    assert "exit code 3" in said.paragraph
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "0777" in hpcqc("sample", bell).paragraph
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("environment", ["3", '""', '"python"', "[]", '["a", 3]', '[""]', "true"])
def test_what_is_no_environment_is_refused(hpcqc, tmp_path, environment) -> None:
    site(tmp_path, environment=environment)
    said = hpcqc("config", "check")
    assert said.code == 2
    assert "environment" in said.paragraph
    assert "managed" in said.paragraph


@pytest.mark.parametrize(("name", "code"), [("nosuch", 2), ("aer", 2)])
def test_what_has_no_environment_cannot_be_installed(hpcqc, name, code) -> None:
    said = hpcqc("backends", "install", name)
    assert said.code == code
    assert name in said.paragraph


def test_one_lock_file_is_for_one_backend(hpcqc) -> None:
    assert hpcqc("backends", "install", "aer", "fake", "--lock", "lock.txt").code == 2
