"""The folder of a run: its owner, and its content after a kill."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.config.loading import load_site
from orchestrator.provenance.folder import FolderError, RunFolder
from orchestrator.provenance.record import run_record, site_document
from orchestrator.provenance.schema import RecordedSite, RecordedUsage, RunRecord, RunUsage
from orchestrator.runs import StageSpan
from tests.errors import naming

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
RECORD = run_record(
    RunRecord(
        id="r1",
        target="t",
        flow="f",
        parameters={},
        qpu="aer",
        site=RecordedSite.model_validate(site_document(load_site(environ={"HOME": "/nowhere"}))),
        status="running",
        started_at=START,
        usage=RunUsage(total=RecordedUsage(), per_qpu={}),
        stages=(),
        jobs=(),
        attempts=(),
        versions={},
        machine={},
    ),
    [],
    [],
)


def span(key: str, start_s: float, end_s: float | None, state: str = "completed") -> StageSpan:
    return StageSpan(
        key=key,
        name=f"{key}-a1b",
        kind="classical",
        state=state if end_s is not None else "running",
        started_at=START + timedelta(seconds=start_s),
        ended_at=None if end_s is None else START + timedelta(seconds=end_s),
        where="local",
    )


def test_a_folder_belongs_to_one_run_and_one_process(tmp_path) -> None:
    first = RunFolder(tmp_path / "out")
    assert first.open("r1", "t") is None
    with pytest.raises(FolderError, match=naming(tmp_path / "out")):
        RunFolder(tmp_path / "out").open("r1", "t")
    first.write_record(RECORD)
    first.close()
    with pytest.raises(FolderError, match=naming("'r1'")):
        RunFolder(tmp_path / "out").open("r2", "t")
    with pytest.raises(FolderError, match=naming("'t'", "'u'")):
        RunFolder(tmp_path / "out").open("r1", "u")
    again = RunFolder(tmp_path / "out")
    assert again.open("r1", "t") == RECORD
    again.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "run.json").write_text("[1, 2]")
    with pytest.raises(FolderError, match=naming("run.json")):
        RunFolder(tmp_path).open("r1", "t")
    assert (tmp_path / "run.json").read_text() == "[1, 2]"


@pytest.mark.parametrize(
    "name", ["result.json", "report.html", "plot.png", "plot.svg", "gantt.png"]
)
def test_a_file_that_no_run_wrote_is_not_replaced(tmp_path, name) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).check()
    (tmp_path / name).write_text("mine")
    with pytest.raises(FolderError, match=naming(tmp_path, name, "choose another")):
        RunFolder(tmp_path).check()


def test_a_folder_with_a_run_of_ours_is_written_again(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.open("r1", "t")
    folder.write_record(RECORD)
    folder.write_result(1)
    folder.close()
    RunFolder(tmp_path).check()


def test_a_folder_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "out")
    for attempt in (folder.check, lambda: folder.open("r", "t")):
        with pytest.raises(FolderError, match=naming(tmp_path / "file" / "out")):
            attempt()


def test_stages_survive_a_kill_in_the_middle_of_a_line(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.open("r1", "t")
    folder.note_stage(span("a", 0, None))
    folder.note_stage(span("a", 0, 1))
    folder.note_stage(span("b", 1, 1, state="cached"))
    folder.close()
    with (tmp_path / "stages.jsonl").open("a") as file:
        file.write('{"key": "c", "sta')
    again = RunFolder(tmp_path)
    again.open("r1", "t")
    assert [stage.key for stage in again.noted_stages()] == ["a"]
    again.note_stage(span("d", 2, 3))
    again.close()
    assert [stage.key for stage in again.noted_stages()] == ["a", "d"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is a small one that root mounts")
def test_a_full_disk_under_the_folder_is_one_sentence(tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        folder = RunFolder(disk / "out")
        folder.open("r1", "t")
        folder.write_record(RECORD)
        with pytest.raises(FolderError, match=naming("result.json", "No space left on device")):
            folder.write_result("x" * 200_000)
        folder.write_record(RECORD)  # what did not fit was removed
        folder.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
