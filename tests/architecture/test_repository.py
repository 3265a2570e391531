"""The repository belongs to the project: nothing in it points at one machine."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.architecture.source import ROOT

# A path below a folder that only one person or one machine has. Written without an example that
# would match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~*{}\-/])/(?:home|Users|root|work|farm|mnt|scratch)/[\w.]+")
TEXT = {".cff", ".cfg", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}


def test_no_absolute_machine_paths() -> None:
    found = []
    for path in _tracked():
        if path.suffix not in TEXT or path.name == "uv.lock":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_the_pattern_sees_machine_paths() -> None:
    assert MACHINE_PATH.search("see " + "/".join(["", "home", "ada", "x"]))
    assert MACHINE_PATH.search('"' + "/".join(["", "root", "y"]) + '"')
    assert not MACHINE_PATH.search("https://example.org/home/page and docs/work/notes")


def test_constraints_name_no_index() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--" not in text
    assert re.search(r"(?m)^prefect==3\.8\.", text)


def test_constraints_are_those_of_the_lock_file() -> None:
    import tomllib

    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    locked = {(p["name"], p["version"]) for p in lock["package"] if p["name"] != "hpcqc"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {
        tuple(line.split(";")[0].strip().split("=="))
        for line in lines
        if line and not line.startswith("#")
    }
    assert pinned == locked, "run `make constraints`"


def _tracked():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file()]


def test_what_tests_share_is_in_no_test_module() -> None:
    importing = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(
            r"^\s*(from|import) tests\.[\w.]*\btest_", path.read_text("utf-8"), re.MULTILINE
        )
    ]
    assert importing == []
