"""`[qpu.NAME.slurm]`: read, shown, and refused where it is wrong."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.durations import duration, duration_text
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.slurm_access import SlurmAccess
from tests.errors import naming


def read(tmp_path: Path, table: str) -> SlurmAccess | None:
    file = tmp_path / "site.toml"
    file.write_text(f'[qpu.aer]\nbackend = "aer"\n[qpu.aer.slurm]\n{table}\n')
    return load_site(file, environ={}, folder=tmp_path).qpu("aer").slurm


def test_the_table_is_read(tmp_path) -> None:
    found = read(
        tmp_path,
        'gres = "qpu:vlq:1"\npartition = "quantum"\nlicense = "qpu_vlq:1"\nreservation = "r"\n'
        'account = "a"\nqos = "q"\nwalltime = "1 h 30 min"\nmaintenance = false',
    )
    assert found == SlurmAccess(
        gres="qpu:vlq:1",
        partition="quantum",
        license="qpu_vlq:1",
        reservation="r",
        account="a",
        qos="q",
        walltime=timedelta(minutes=90),
        maintenance=False,
    )


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ('gres = "qpu:1"\ngrse = "x"', "grse"),
        ('gres = "qpu:1; rm -rf /"', "gres"),
        ('partition = "--help"', "partition"),
        ('license = "a b"', "license"),
        ('gres = "qpu:1"\nwalltime = "soon"', "walltime"),
        ('gres = "qpu:1"\nwalltime = 10', "walltime"),
        ('gres = "qpu:1"\ncheck_s = 0.0', "check_s"),
        ('account = "chem"', "qpu.aer.slurm"),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(table, named, tmp_path) -> None:
    with pytest.raises(ConfigError, match=naming(named)):
        read(tmp_path, table)


@given(st.integers(1, 10**7).map(lambda s: timedelta(seconds=s)))
def test_a_time_reads_back_as_it_is_shown(time) -> None:
    assert duration(duration_text(time)) == time


@pytest.mark.parametrize(
    "text", ["", "0 s", "10", "ten min", "-5 min", "1-", "9" * 30 + " d", "٣ min", "99999999 d"]
)
def test_what_is_not_a_time_is_refused(text) -> None:
    with pytest.raises(ValueError, match=naming(text) if text else None):
        duration(text)
