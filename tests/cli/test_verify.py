"""`hpcqc broker verify`: a ledger, or a copy of it, that is whole, damaged or not there."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backends.shapes import ItemShape
from orchestrator.application.jobs import ledger_path
from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Entries, Ledger
from orchestrator.identity import JobId

NOW = datetime(2026, 11, 2, tzinfo=UTC)


@pytest.fixture
def ledger(isolated_state: Path) -> Path:
    """Two runs with many jobs each."""
    isolated_state.mkdir(parents=True, exist_ok=True)
    path = ledger_path(isolated_state)
    with closing(Ledger.open(path)) as opened:
        for run in ("a", "b"):
            jobs = [
                ev.JobSubmitted(
                    job=JobId(f"j{run}{number:019x}"),
                    run=run,
                    stage=None,
                    call=number,
                    qpu="q",
                    backend="aer",
                    payload_kind="sampler",
                    digest=str(number),
                    pubs=(ItemShape(points=1, shots=9),),
                    num_qubits=2,
                    seed=None,
                )
                for number in range(200)
            ]
            opened.append(run, Entries(events=[(job, NOW) for job in jobs]))
    return path


def damage(path: Path) -> None:
    """Overwrite a page in the middle, which a look at the head does not find."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)


def test_a_whole_ledger_and_its_copy(hpcqc, ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    assert hpcqc("broker", "backup", str(copy)).code == 0
    before = copy.read_bytes()
    assert hpcqc("broker", "verify", "--json").document == {"file": None, "runs": 2}
    assert hpcqc("broker", "verify", str(copy), "--json").document["runs"] == 2
    assert copy.read_bytes() == before
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy.sqlite"]


def test_damage_is_found_and_its_file_named(hpcqc, ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    assert hpcqc("broker", "backup", str(copy)).code == 0
    for file in (copy, ledger):
        damage(file)
    for words, file in (([str(copy)], copy), ([], ledger)):
        found = hpcqc("broker", "verify", *words)
        assert found.code != 0
        assert str(file) in found.err.replace("\n", "")
        assert "Traceback" not in found.err


def test_a_ledger_that_is_not_there_is_not_made(hpcqc, isolated_state: Path) -> None:
    assert hpcqc("broker", "verify").code == 2
    assert hpcqc("broker", "verify", "absent.sqlite").code == 2
    assert not ledger_path(isolated_state).exists()
    assert not Path("absent.sqlite").exists()
