"""`hpcqc accounting` without a Slurm: the ledger alone, and what cannot be meant."""

from __future__ import annotations

import csv
import io
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backends.api import Usage
from backends.metering import Charge
from backends.shapes import ItemShape
from orchestrator.application.jobs import ledger_path
from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Entries, Ledger
from orchestrator.identity import JobId

DAY = datetime(2026, 11, 2, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No program of Slurm's is on the PATH, and days are those of UTC."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def ledger(isolated_state: Path) -> None:
    """Two runs: one took 3 QPU-seconds on each of two days, one with an odd name took 4."""
    isolated_state.mkdir(parents=True, exist_ok=True)
    uses = [("scan", 0, 3.0), ("scan", 1, 3.0), ("=1+1", 1, 4.0)]
    with closing(Ledger.open(ledger_path(isolated_state))) as opened:
        for number, (run, day, seconds) in enumerate(uses):
            name = JobId(f"j{number:020x}")
            part = ev.Part(job=name, pub=0, first_point=0, end_point=1, first_shot=0, end_shot=9)
            usage = Usage(
                qpu_seconds=seconds, tasks=1, charges=(Charge(amount=seconds, unit="credits"),)
            )
            submitted = ev.JobSubmitted(
                job=name,
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
            happened = [
                submitted,
                ev.TaskPlanned(tag=f"{name}.0", qpu="q", parts=(part,)),
                ev.TaskCompleted(tag=f"{name}.0", usage=usage),
            ]
            at = DAY + timedelta(days=day)
            opened.append(run, Entries(events=[(event, at) for event in happened]))


NOVEMBER = ("--from", "2026-11-01T00:00Z", "--to", "2026-12-01T00:00Z")


def test_figures_of_slurm_are_empty_and_those_of_the_ledger_are_there(hpcqc, ledger) -> None:
    said = hpcqc("accounting", "--by", "run", *NOVEMBER, "--json")
    assert said.code == 0, said.err
    rows = {row["group"]: row for row in said.document["rows"]}
    assert {run: row["qpu_used_s"] for run, row in rows.items()} == {"scan": 6.0, "=1+1": 4.0}
    assert {row["node_s"] for row in rows.values()} == {None}
    assert said.document["total"]["charges"] == {"credits": 10.0}
    assert said.document["differences"] == []


def test_a_period_has_what_ended_in_it(hpcqc, ledger) -> None:
    second_day = ("--from", "2026-11-03T00:00Z", "--to", "2026-11-04T00:00Z")
    document = hpcqc("accounting", *second_day, "--json").document
    assert (document["total"]["qpu_used_s"], document["total"]["quantum_jobs"]) == (7.0, 2)


def test_a_spreadsheet_finds_no_formula_and_no_zero_for_nothing(hpcqc, ledger) -> None:
    said = hpcqc("accounting", "--by", "run", *NOVEMBER, "--csv")
    rows = [*csv.DictReader(io.StringIO(said.out))]
    assert [row["run"] for row in rows] == ["'=1+1", "scan"]
    assert [row["qpu_used_s"] for row in rows] == ["4", "6"]
    assert {row["node_hours"] for row in rows} == {""}


def test_without_jobs_nothing_was_used(hpcqc) -> None:
    said = hpcqc("accounting")
    assert (said.code, said.err) == (0, "")
    assert "nothing was used" in said.out


def test_a_site_that_uses_slurm_is_told_that_it_does_not_answer(hpcqc, ledger, tmp_path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[compute.cluster]\nkind = "slurm"\n[qpu.q]\nbackend = "aer"\n')
    said = hpcqc("accounting", "--site", str(site), *NOVEMBER)
    assert said.code == 0
    assert "sacct" in said.err


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--from", "yesterday"], "'yesterday'"),
        (["--from", "2026-11-02", "--to", "2026-11-01"], "2026-11-02"),
        (["--by", "group"], "'group'"),
        (["--csv", "--json"], "--csv"),
        (["--plot", "used.txt"], "used.txt"),
        (["--plot", "nowhere/used.png"], "nowhere"),
    ],
)
def test_mistakes_are_named(hpcqc, arguments, value) -> None:
    said = hpcqc("accounting", *arguments)
    assert said.code == 2
    assert value in said.err
    assert "Traceback" not in said.err
