"""Times of stages as texts, and what cannot be planned."""

from __future__ import annotations

import pytest

import hpcqc
from orchestrator.application.plan import stage_times
from orchestrator.config.errors import ConfigError


@pytest.mark.parametrize("text", ["C", "C=", "C=x", "=3", "C=1.2.3", "C=-1", "C=3@0", "C=3@x"])
def test_a_time_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--time"):
        stage_times([text])


def test_a_later_time_replaces_an_earlier_one() -> None:
    assert stage_times(["C=1", "C=3@2", "C=2@4"]) == {"C": {2: 3.0, 4: 2.0}}
    assert stage_times(["C=2@2", "C=1"]) == {"C": 1.0}


def test_times_that_grow_with_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match="100"):
        stage_times(["C=10@2", "C=100@3"])


def test_without_slurm_there_is_nothing_to_choose(tmp_path) -> None:
    site = tmp_path / "site.toml"
    site.write_text("[qpu.aer]\nbackend = 'aer'\n")
    with pytest.raises(ConfigError, match="slurm"):
        hpcqc.plan("flows.maxcut", site=site)
