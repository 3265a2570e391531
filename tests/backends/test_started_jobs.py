"""What backends store of the jobs that they started at a vendor's server."""

from __future__ import annotations

import json
import os
import stat

from backends.started_jobs import StartedJob, StartedJobs


def started(tag: str, job: str | None) -> StartedJob:
    return StartedJob(
        tag=tag,
        job=job,
        shots=1,
        circuits=1,
        num_qubits=1,
        modelled_s=0.5,
        recipes=({"shape": [2], "registers": [["c", [0, 1]]]},),
        started_at_s=7.0,
    )


def test_old_records_go_but_those_of_a_start_without_an_answer(tmp_path) -> None:
    records = StartedJobs(tmp_path / "tasks")
    for record in (started("old", "1"), started("doubtful", None), started("new", "2")):
        records.write(record)
        assert records.read(record.tag) == record
    for tag in ("old", "doubtful"):
        os.utime(tmp_path / "tasks" / f"{tag}.json", (1, 1))
    records.purge(1000.0)
    assert records.read("old") is None
    assert records.read("doubtful") == started("doubtful", None)
    assert records.read("new") == started("new", "2")
    StartedJobs(tmp_path / "nothing").purge(1000.0)


def test_answers_are_private_and_go_with_time(tmp_path) -> None:
    records = StartedJobs(tmp_path / "tasks")
    assert records.answer("a.b") is None
    records.write_answer("a.b", {"samples": [[1, 0]]})
    assert records.answer("a.b") == {"samples": [[1, 0]]}
    assert records.read("a.b") is None
    (file,) = (tmp_path / "tasks").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    os.utime(file, (1, 1))
    records.purge(1000.0)
    assert records.answer("a.b") is None


def test_a_record_without_a_time_can_be_read(tmp_path) -> None:
    """Records of earlier versions state none."""
    records = StartedJobs(tmp_path)
    records.write(started("tag", "1"))
    path = tmp_path / "tag.json"
    stated = json.loads(path.read_text())
    del stated["started_at_s"]
    path.write_text(json.dumps(stated))
    found = records.read("tag")
    assert found is not None
    assert found.started_at_s == 0.0
