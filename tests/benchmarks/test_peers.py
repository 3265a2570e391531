"""What we are measured against may fail; the rest of the table is written all the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import bell, environments, stages, startup
from benchmarks.environments import PATIENT, PeerFailed, run_other


@pytest.mark.parametrize(
    ("module", "row"),
    [
        (bell, lambda: bell._beside_prefect_qiskit(0.5)),
        (stages, lambda: stages._beside_prefect_dask(9.0)),
    ],
)
def test_a_peer_that_fails_is_a_row_that_says_so(monkeypatch, module, row) -> None:
    def fail(*_: str) -> None:
        raise PeerFailed("RuntimeError: timed out")

    monkeypatch.setattr(module, "run_other", fail)
    told = row()
    assert (told.against, told.ratio, told.met) == ("failed", None, None)
    assert "timed out" in told.what


def test_a_script_that_fails_names_its_last_line(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(environments, "other_interpreter", lambda *_: Path(sys.executable))
    with pytest.raises(PeerFailed, match="no_such_script"):
        run_other("no_such_script.py")


def test_plain_prefect_that_fails_leaves_our_time() -> None:
    told = startup._row("cold", [(2.0, None), (3.0, None)], "plain", 0.5)
    assert (told.ours, told.against) == ("2.50 s", "failed")
    assert startup._row("cold", [(2.0, None), (3.0, 6.0)], "plain", 0.5).ratio == pytest.approx(0.5)


def test_prefect_knows_the_time_that_peers_are_given() -> None:
    from prefect.settings import get_current_settings

    name = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
    assert get_current_settings().server.ephemeral.startup_timeout_seconds < int(PATIENT[name])
