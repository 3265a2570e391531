"""What no worker job or driver job can have is refused before the start, without Slurm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.application import slurm_check
from orchestrator.application.slurm_check import check_options, check_python
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.errors import ConfigError
from orchestrator.config.site import Site
from tests.errors import naming


def site(folder: Path, **options: object) -> tuple[Site, list[ComputeSettings]]:
    compute = ComputeSettings(name="c", kind="slurm", options=options)
    found = Site(
        name="test",
        default_qpu="q",
        default_compute="c",
        qpus={},
        computes={"c": compute},
        state_dir=folder,
        source="test",
    )
    return found, [compute]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"extra": ["--wrap=true"]}, "--wrap=true"),
        ({"extra": ["nice"]}, "nice"),
        ({"modules": ["a b"]}, "a b"),
        ({"interface": "no-such0"}, "no-such0"),
        ({"python": "bin/python"}, "bin/python"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options, named, tmp_path) -> None:
    found, computes = site(tmp_path, **options)
    with pytest.raises(ConfigError, match=naming(named, "[compute.c.options]")):
        check_options(found, computes, starts_here=True)


def test_the_interface_of_another_machine_is_not_looked_for_here(tmp_path) -> None:
    found, computes = site(tmp_path, interface="no-such0")
    check_options(found, computes, starts_here=False)
    found, computes = site(tmp_path, interface="lo", extra=["--nice=5"])
    check_options(found, computes, starts_here=True)


def test_a_python_that_all_nodes_would_see_must_exist(tmp_path, monkeypatch) -> None:
    there = tmp_path / "python"
    with pytest.raises(ConfigError, match=naming(there)):
        check_python("python", str(there), tmp_path / "not" / "yet")
    with pytest.raises(ConfigError):  # an error of the system other than that it is missing
        check_python("python", str(tmp_path / ("x" * 300)), tmp_path)
    there.touch()
    with pytest.raises(ConfigError, match=naming(there)):
        check_python("python", str(there), tmp_path)
    there.chmod(0o700)
    check_python("python", str(there), tmp_path)
    for name in (None, "python3"):
        check_python("python", name, tmp_path)
    # A path on a file system that the nodes may have otherwise.
    monkeypatch.setattr(slurm_check, "_device", {there.parent / "other": 1}.get)
    check_python("python", str(there.parent / "other"), Path(os.sep))
