"""Which couplings a site allows, and which one a run has."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from orchestrator.application.couplings import coupling_in_force
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.site import Coupling, Site
from orchestrator.couplings.policies import COUPLINGS

SLURM = "[compute.cluster]\nkind = 'slurm'\n"


def site(tmp_path: Path, text: str) -> Site:
    file = tmp_path / "hpcqc.toml"
    file.write_text(f"{text}[qpu.aer]\nbackend = 'aer'\n")
    return load_site(file)


def test_the_site_file_takes_what_there_is_a_policy_for() -> None:
    assert set(get_args(Coupling)) == {*COUPLINGS, "auto"}


def test_a_run_comes_before_its_site_and_multiplexed_is_usual(tmp_path: Path) -> None:
    assert coupling_in_force(site(tmp_path, SLURM), None) == "multiplexed"
    stated = site(tmp_path, "[site]\ncoupling = 'split'\n" + SLURM)
    assert coupling_in_force(stated, None) == "split"
    assert coupling_in_force(stated, "exclusive") == "exclusive"


@pytest.mark.parametrize("coupling", [None, "auto", "multiplexed"])
def test_workers_of_one_machine_are_multiplexed(tmp_path: Path, coupling: str | None) -> None:
    assert coupling_in_force(site(tmp_path, ""), coupling) == ""


@pytest.mark.parametrize("coupling", ["exclusive", "split", "malleable", "gated"])
def test_other_couplings_are_refused_there(tmp_path: Path, coupling: str) -> None:
    with pytest.raises(ConfigError, match=coupling):
        coupling_in_force(site(tmp_path, ""), coupling)


def test_an_unknown_coupling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="malleable"):
        coupling_in_force(site(tmp_path, SLURM), "maleable")
    with pytest.raises(ConfigError, match="coupling"):
        site(tmp_path, "[site]\ncoupling = 'maleable'\n")
