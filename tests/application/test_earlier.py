"""Which earlier run another one's times are taken from."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.application.earlier import earlier_run
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from tests.application.ran import job, leave, record, stage

SITE = """
[site]
name = "lab"
default_qpu = "aer"
[qpu.aer]
backend = "aer"
[qpu.other]
backend = "aer"
"""


def site_of(file: Path, *settings: str) -> Site:
    """Return a site with the state folder that all sites of a user share."""
    state_dir = file.parent.parent / "state"
    return load_site(file, settings).model_copy(update={"state_dir": state_dir})


def found(file: Path, *settings: str, qpu: str | None = None, target: str = "flows.maxcut"):
    site = site_of(file, *settings)
    return earlier_run(site, file, target=target, parameters={}, qpu=qpu)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the file of a site where a run was."""
    file = tmp_path / "here" / "lab.toml"
    file.parent.mkdir()
    file.write_text(SITE)
    site = site_of(file)
    made = record(site, [stage("solve", "quantum", 0, 9)], jobs=(job("solve-0", 5),))
    leave(site, file, made, tmp_path / "run")
    return file


def test_the_same_run_at_the_same_site_is_taken(file: Path) -> None:
    made = found(file)
    assert made is not None
    assert made.id == "r1"
    assert found(file, qpu="aer") == made
    assert found(file, "qpu.other.longest_task_s=7") == made


def test_a_run_on_another_qpu_is_not_taken(file: Path) -> None:
    assert found(file, qpu="other") is None
    assert found(file, "site.default_qpu=other") is None


def test_a_run_whose_qpu_had_other_options_is_not_taken(file: Path) -> None:
    assert found(file, "qpu.aer.profile=helmi") is None


def test_a_run_of_another_site_file_is_not_taken(file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "there" / "lab.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(SITE)
    assert found(elsewhere) is None


def test_another_flow_is_not_taken(file: Path) -> None:
    assert found(file, target="flows.vqe") is None
