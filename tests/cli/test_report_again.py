"""`hpcqc report` makes the report of an earlier run from its record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import hpcqc as public
from tests.architecture.source import ROOT

RECORD = ROOT / "tests" / "orchestrator" / "records" / "version-1.json"
RESULT = {
    "summary": ["every <i>coin</i> was tossed"],
    "plot": {"title": "tosses", "x": ["00", "11"], "series": [{"y": [29, 71]}]},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of a run that an earlier version recorded."""
    made = tmp_path / "run"
    made.mkdir()
    shutil.copy(RECORD, made / "run.json")
    (made / "result.json").write_text(json.dumps(RESULT))
    (made / "plot.png").write_bytes(b"the plot of then")
    return made


@pytest.mark.parametrize("named", ["run", "run/run.json"])
def test_the_report_is_written_beside_the_record(hpcqc, folder, named) -> None:
    said = hpcqc("report", named)
    assert said.code == 0, said.err
    assert said.out.strip() == str(Path(named.removesuffix("/run.json")) / "report.html")
    page = (folder / "report.html").read_text()
    assert "coin-1" in page
    assert "every &lt;i&gt;coin&lt;/i&gt; was tossed" in page
    assert page.count("<svg") == 2
    assert (folder / "plot.png").read_bytes() == b"the plot of then"
    assert (folder / "run.json").read_bytes() == RECORD.read_bytes()


def test_a_record_alone_is_enough(hpcqc, tmp_path) -> None:
    shutil.copy(RECORD, tmp_path / "copy.json")
    said = hpcqc("report", "copy.json", "--out", "page.html", "--json")
    assert said.document == {"report": "page.html"}
    page = (tmp_path / "page.html").read_text()
    assert "the rest of the result is not shown: result.json: no such file" in page
    assert page.count("<svg") == 1


def test_a_damaged_result_is_a_note(hpcqc, folder) -> None:
    (folder / "result.json").write_text('{"summary": ["cut')
    assert hpcqc("report", "run").code == 0
    assert (
        "the rest of the result is not shown: Unterminated string"
        in (folder / "report.html").read_text()
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file"),
        ("a thesis", "is not JSON"),
        ('{"title": "a thesis"}', "give the run.json that hpcqc run wrote"),
        ('{"version": 3}', "read it with a newer hpcqc"),
        ('{"version": 2, "id": "r"}', "restore it, or continue the run"),
    ],
)
def test_other_files_are_refused_with_a_remedy(hpcqc, tmp_path, content, told) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    said = hpcqc("report", "run.json")
    assert said.code == 2
    assert told in said.paragraph
    assert not (tmp_path / "report.html").exists()


def test_a_place_that_cannot_be_written_is_told(hpcqc, folder) -> None:
    said = hpcqc("report", "run", "--out", "none/page.html")
    assert said.code == 2
    assert "cannot write none/page.html: No such file" in said.paragraph


def test_from_python_the_record_and_the_report(folder) -> None:
    record = public.read_record(folder)
    assert isinstance(record, public.RunRecord)
    assert record.jobs[0].usage.charges == {"qpu-s": pytest.approx(2.70445)}
    assert public.report(folder) == folder / "report.html"
    with pytest.raises(public.RecordError):
        public.report(folder / "plot.png")
