"""What backends store of the jobs that they started at a vendor's server."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from unittest.mock import Mock

import pytest

from backends.api import (
    AccessDenied,
    Calibration,
    CalibrationChanged,
    PayloadRejected,
    QpuBusy,
    QpuTaskId,
    QpuUnavailable,
    Target,
    TaskState,
    UnknownTask,
)
from backends.metering import Metering
from backends.started_jobs import StartedJob, StartedJobs
from tests.errors import naming


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
    found = StartedJobs(tmp_path).read("tag")
    assert found is not None
    assert found.started_at_s == 0.0


@pytest.mark.parametrize("error", [AccessDenied, CalibrationChanged, PayloadRejected, QpuBusy])
def test_a_start_that_started_nothing_leaves_no_record(error, tmp_path) -> None:
    records, refusal = StartedJobs(tmp_path), Mock(side_effect=error("no"))
    with pytest.raises(error):
        records.send(started("tag", None), refusal)
    assert records.read("tag") is None


@pytest.mark.parametrize("error", [AccessDenied, CalibrationChanged, PayloadRejected, QpuBusy])
def test_a_refused_repetition_leaves_the_record_of_the_start_before(error, tmp_path) -> None:
    """Its answer was lost, so its job may run: without the record, nobody would look for it."""
    records = StartedJobs(tmp_path)
    with pytest.raises(QpuUnavailable):
        records.send(started("tag", None), Mock(side_effect=QpuUnavailable("lost")))
    again = replace(started("tag", None), started_at_s=8.0)
    with pytest.raises(error):
        records.send(again, Mock(side_effect=error("no")))
    assert records.read("tag") == started("tag", None)
    with pytest.raises(QpuUnavailable, match=naming("tag")):
        records.arrived("tag")


@pytest.mark.parametrize(
    "outcome", [[QpuUnavailable("lost")], [KeyError("a bug")], [None], [7], [""], ["../1"]]
)
def test_a_start_whose_outcome_is_unknown_leaves_its_record(outcome, tmp_path) -> None:
    records = StartedJobs(tmp_path)
    with pytest.raises((QpuUnavailable, KeyError)):
        records.send(started("tag", None), Mock(side_effect=outcome))
    assert records.read("tag") == started("tag", None)


def test_a_record_is_on_disk_before_its_start(tmp_path) -> None:
    records = StartedJobs(tmp_path)

    def submit() -> str:
        assert StartedJobs(tmp_path).read("tag") == started("tag", None)
        return "job-1"

    assert records.send(started("tag", None), submit) == started("tag", "job-1")
    assert StartedJobs(tmp_path).of_task("iqm:job-1:tag", "iqm") == started("tag", "job-1")
    for other in ("aqt:job-1:tag", "iqm:job-2:tag", "iqm::tag", "iqm:job-1:../tag", "iqm", ""):
        with pytest.raises(UnknownTask):
            records.of_task(other, "iqm")


def test_a_tag_is_started_by_one_thread_at_a_time(tmp_path) -> None:
    records = StartedJobs(tmp_path)
    with records.starting("tag"), pytest.raises(QpuBusy), records.starting("tag"):
        raise AssertionError("two calls start it")
    with records.starting("tag"):
        pass


def test_starts_at_the_same_time_count_as_tasks(tmp_path) -> None:
    records = StartedJobs(tmp_path)
    two = Target(
        name="q",
        num_qubits=1,
        payload_kinds=frozenset({"sampler"}),
        max_concurrent_tasks=2,
        calibration=Calibration(id="c", taken_at=datetime.now(UTC)),
        metering=Metering(),
    )
    ended, running, forgotten = map(QpuTaskId, ("ended", "running", "forgotten"))

    def state_of(task: QpuTaskId) -> TaskState:
        if task == forgotten:
            raise UnknownTask("the server does not know it")
        return TaskState.RUNNING if task == running else TaskState.COMPLETED

    with records.starting("one"):
        records.check_room(two, [running], Mock(side_effect=AssertionError("it is not asked")))
        records.check_room(two, [running, ended, forgotten], state_of)
        with records.starting("another"):
            records.check_room(two, [ended], state_of)
            with pytest.raises(QpuBusy):
                records.check_room(two, [running], state_of)


def test_a_record_of_another_version_hinders_no_start(tmp_path) -> None:
    records = StartedJobs(tmp_path)
    for name, content in (("newer", '{"fields": 1}'), ("damaged", "{")):
        path = tmp_path / f"{name}.json"
        path.write_text(content)
        os.utime(path, (1, 1))
    assert records.send(started("tag", None), lambda: "1").job == "1"
    assert {path.name for path in tmp_path.iterdir()} == {
        "newer.json", "damaged.json", "tag.json",
    }  # fmt: skip
