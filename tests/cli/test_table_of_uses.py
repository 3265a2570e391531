"""The table of uses is made from what a run leaves, without what belongs to one machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from docs.reference import table_of_uses as uses
from flows._comparison import Comparison, Figure, Way
from tests.errors import naming

ROOT = Path(__file__).resolve().parents[2]

FLOW = """
from prefect import flow

@flow
def own(data: str = "/private/rocks.csv") -> dict:
    return {result!r}
"""


def compared(quantum: float, data: str) -> dict:
    ways = [
        Way(name="kernel", figure=Figure(value=quantum, error=0.012), is_quantum=True),
        Way(name="a weak rule", figure=Figure(value=9.0, error=0.0)),
        Way(name="a strong rule", figure=Figure(value=2.5, error=0.0)),
    ]
    return Comparison(ways=ways, measure="cost", data=data, higher_is_better=False).as_record()


@pytest.fixture
def recorded(hpcqc, tmp_path: Path):
    def run(result: object) -> Path:
        script = tmp_path / "script.py"
        script.write_text(FLOW.format(result=result))
        out = tmp_path / "out"
        assert hpcqc("run", f"{script}:own", "--out", str(out)).code == 0
        return out

    return run


@pytest.mark.usefixtures("prefect_server")
def test_a_run_becomes_a_row_for_each_comparison(
    recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recorded({"comparisons": [compared(2.0, "rocks"), compared(3.0, "mines")]})
    made = uses.entry(folder)
    text = json.dumps(made)
    assert "private" not in text
    assert str(tmp_path) not in text
    (tmp_path / "one.json").write_text(text)
    (tmp_path / "texts.toml").write_text(
        '["flows.own"]\nsection = "x.md"\nquantum = "a kernel"\npublished = { rocks = "1.9" }\n'
    )
    monkeypatch.setattr(uses, "_ENTRIES", tmp_path)
    head, _, *rows = uses.table().splitlines()
    assert head.count("|") == 8
    ours = "cost: kernel {} ± 0.012; a strong rule 2.5"
    start = "| [`flows.own`](x.md), ideal"
    assert rows == [
        f"{start} | rocks | a kernel | a strong rule | 1.9 | {ours.format('2.000')} | quantum |",
        f"{start} | mines | a kernel | a strong rule | – | {ours.format('3.000')} | classical |",
    ]
    (tmp_path / "texts.toml").write_text("")
    with pytest.raises(ValueError, match=naming("one.json", "flows.own", "texts.toml")):
        uses.table()


def _entered(parameters: dict, comparison: Comparison) -> str:
    run = {"flow": "flows.own", "parameters": parameters, "profile": "vlq"}
    return json.dumps(run | {"comparisons": [comparison.as_record()]})


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the entries of the table are, with the text of a flow."""
    monkeypatch.setattr(uses, "_ENTRIES", tmp_path)
    (tmp_path / "texts.toml").write_text(
        '["flows.own"]\nsection = "x.md"\nquantum = "none"\npublished = "none"\n'
    )
    return tmp_path


def test_a_row_has_the_best_of_each_side_and_the_bound(entries: Path) -> None:
    def way(group: str, name: str, value: float) -> Way:
        return Way(name=name, figure=Figure(value=value, error=0.01), group=group)

    ways = [
        way("net", "a", 0.8),
        way("rule", "b", 0.5),
        way("net", "c", 0.9),
        way("rule", "d", 0.6),
    ]
    compared = Comparison(ways=ways, measure="hits", data="x", bound=way("", "all", 1.0))
    (entries / "one.json").write_text(_entered({}, compared))
    (row,) = uses.table().splitlines()[2:]
    assert row.endswith(
        "| d | none | hits: c 0.900 ± 0.010; d 0.600 ± 0.010; bound: all 1.000 ± 0.010 | c |"
    )


def test_runs_on_the_same_data_are_told_apart_by_their_parameters(entries: Path) -> None:
    compared = Comparison(ways=[Way(name="a", figure=Figure(value=1, error=0))], measure="cost")
    (entries / "one.json").write_text(_entered({"privacy": None, "seed": 1}, compared))
    (entries / "two.json").write_text(_entered({"privacy": 3.0, "seed": 1}, compared))
    rows = [row.split(" | ")[0] for row in uses.table().splitlines()[2:]]
    start = "| [`flows.own`](x.md), with the noise of vlq"
    assert rows == [start, f"{start}, privacy = 3.0"]
    (entries / "three.json").write_text((entries / "two.json").read_text())
    with pytest.raises(ValueError, match=naming("three.json", "same")):
        uses.table()


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_compares_nothing_is_refused(recorded) -> None:
    script = ROOT / "docs" / "reference" / "table_of_uses.py"
    done = subprocess.run(
        [sys.executable, script, recorded({"summary": []}), "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "comparisons" in done.stderr
    assert "Traceback" not in done.stderr
