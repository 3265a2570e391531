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
