"""`hpcqc clean`: a list first, and nothing goes unless that is said."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest


@pytest.fixture
def results(isolated_state):
    folder = isolated_state / "results"
    folder.mkdir(parents=True)
    for run, age_days in (("old", 31), ("new", 1)):
        path = folder / f"hpcqc-{run}-0123456789abcdef-0"
        path.write_bytes(b"x" * 2048)
        at = datetime.now(UTC).timestamp() - age_days * 86400
        os.utime(path, (at, at))
    return folder


def test_it_lists_and_removes_when_told(hpcqc, results) -> None:
    said = hpcqc("clean")
    assert said.code == 0
    assert "2 KiB would go" in said.out
    assert len(list(results.iterdir())) == 2
    said = hpcqc("clean", "--remove")
    assert "removed 2 KiB" in said.out
    assert [path.name for path in results.iterdir()] == ["hpcqc-new-0123456789abcdef-0"]


def test_limits_of_the_site_and_of_the_command(hpcqc, results, tmp_path) -> None:
    site = "[site]\nkeep_days = 0.5\nkeep_gib = 1\n[qpu.aer]\nbackend = 'aer'\n"
    (tmp_path / "hpcqc.toml").write_text(site)
    fates = {run["run"]: run["beyond_limits"] for run in hpcqc("clean", "--json").document["runs"]}
    assert fates == {"old": True, "new": True}
    said = hpcqc("clean", "--days", "7", "--json").document["runs"]
    assert {run["run"]: run["beyond_limits"] for run in said} == {"old": True, "new": False}
    assert "keep_days = 0.5" in hpcqc("config", "show").out


def test_nothing_stored(hpcqc) -> None:
    assert "no run has stored anything" in hpcqc("clean").out
