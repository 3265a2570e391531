"""Run records are read back, also those of earlier versions; other files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.provenance.schema import VERSION, RecordError, read_record
from orchestrator.provenance.values import json_value
from tests.errors import naming

EARLIER = Path(__file__).parent / "records" / "version-1.json"
# Added to version 1 after the first records of it were written.
ADDED = {
    "stages": ["worker", "ran_from", "ran_until", "cores", "worked_s", "waited_s"],
    "jobs": ["error_type", "project", "user", "provisional", "source"],
    "tasks": ["late", "saved", "provisional", "worked_s"],
    "site": ["keep_days", "keep_gib", "broker"],
    "qpu": ["uncertain", "longest_task_s", "schedule"],
}


def earlier() -> dict:
    return json.loads(EARLIER.read_text())


def written(folder: Path, document: object) -> Path:
    path = folder / "run.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_record_of_version_1_keeps_its_content() -> None:
    record = read_record(EARLIER)
    document = earlier()
    assert document.pop("schema") == "hpcqc-run/1"
    for attempt in document["attempts"]:
        attempt.update(host=None, slurm_job=None, reason=None)
    for qpu in document["site"]["qpu"].values():
        qpu.update(slurm=None, environment=None, accepts=[], jurisdictions=[])
    document["site"].update(batch={}, coupling=None, labels=[], choice={}, project={}, link={})
    for job in document["jobs"]:
        job.update(flow="", coupling="", labels=[], failover="", failover_reason="", worked_s=None)
    tasks = [task for job in document["jobs"] for task in job["tasks"]]
    for part in (*document["stages"], *document["jobs"], *tasks):
        part["slurm_job"] = None
    for task in tasks:
        task.update(qpu="", start_in_doubt=False)
    for stage in document["stages"]:
        stage.update(asked_at=None, after=None, choice=None, leftover=0)
    later = dict.fromkeys(("outcome", "slurm", "coupling", "broker_link"))
    assert json_value(record) == {"version": VERSION, **later, **document}


def test_a_folder_stands_for_its_record(tmp_path) -> None:
    written(tmp_path, earlier())
    assert read_record(tmp_path) == read_record(EARLIER)


def test_the_first_records_are_read(tmp_path) -> None:
    document = earlier()
    parts = {
        "stages": document["stages"],
        "jobs": document["jobs"],
        "tasks": [task for job in document["jobs"] for task in job["tasks"]],
        "site": [document["site"]],
        "qpu": list(document["site"]["qpu"].values()),
    }
    for name, keys in ADDED.items():
        for part in parts[name]:
            for key in keys:
                del part[key]
    record = read_record(written(tmp_path, document))
    assert record.site.broker_url is None
    assert record.jobs[0].tasks[0].worked_s is None


def test_unknown_keys_are_ignored(tmp_path) -> None:
    document = json_value(read_record(EARLIER))
    document["mood"] = document["jobs"][0]["mood"] = "good"
    assert read_record(written(tmp_path, document)) == read_record(EARLIER)


def test_a_record_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_record(EARLIER).status = "failed"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file"),
        ("not a record", "is not JSON (Expecting value: line 1"),
        ("[" * 200_000, "is not JSON"),
        ("[1, 2]", "is not a run record"),
        ({"id": "r", "target": "t"}, "is not a run record"),
        ({"version": True}, "is not a run record"),
        ({"version": VERSION}, "is a damaged run record: id: Field required"),
        ({**earlier(), "jobs": [{}]}, "is a damaged run record: jobs.0."),
        ({**earlier(), "status": "happy"}, "is a damaged run record: status: "),
        ({"version": 99}, f"reads versions up to {VERSION}; read it with a newer hpcqc"),
        ({"version": 99, "versions": {"hpcqc": "7.0"}}, "read it with hpcqc 7.0, which wrote it"),
    ],
)
def test_other_files_are_refused(tmp_path, content, told) -> None:
    if content is not None:
        written(tmp_path, content)
    with pytest.raises(RecordError) as caught:
        read_record(tmp_path)
    assert told in str(caught.value)
    assert str(tmp_path / "run.json") in str(caught.value)


def test_binary_files_are_refused(tmp_path) -> None:
    (tmp_path / "run.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(RecordError, match=naming("run.json", "UTF-8")):
        read_record(tmp_path)
