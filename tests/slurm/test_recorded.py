"""What three versions of Slurm print about the same jobs is read as the same jobs.

The records were made by `tests/slurm/record.py` on the Slurm of Debian 12, 13 and unstable.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.identity import SlurmTag
from orchestrator.slurm.inventory import parse_licences, parse_partitions, parse_reservations
from orchestrator.slurm.states import SlurmState, parse_accounting, parse_queue, tres_of

SEPARATOR, END = "\x1fSEP", "\x1eEND"
FOLDER = Path(__file__).parent / "recorded" / "same-jobs"
STATES = {
    "done": "COMPLETED",
    "failed": "FAILED",
    "timeout": "TIMEOUT",
    "cancelled": "CANCELLED",
    "running": "RUNNING",
    'a b|"é\x1f': "RUNNING",
    "two\nlines": "PENDING",
    "array": "PENDING",
    "gpu": "RUNNING",
    "qpu": "RUNNING",
    "second-qpu": "PENDING",
    "later": "PENDING",
    "never": "PENDING",
    "hetjob": "PENDING",
    "suspended": "SUSPENDED",
}


class Record:
    """What one version printed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        facts = json.loads((folder / "record.json").read_text())
        self.version: str = facts["version"]
        self.ids: dict[str, int] = facts["jobs"]
        self.queue = {
            job.id: job
            for job in parse_queue(self.text("squeue.txt"), separator=SEPARATOR, end=END)
        }
        self.accounted = parse_accounting(self.text("sacct.txt"), separator=SEPARATOR)

    def text(self, name: str) -> str:
        return (self._folder / name).read_bytes().decode()

    def job(self, name: str):
        return self.queue[self.ids[name]]

    def attempts(self, name: str):
        return [job for job in self.accounted if job.id == self.ids[name]]


@pytest.fixture(scope="module", params=["22.05", "24.11", "26.05"])
def record(request) -> Record:
    return Record(FOLDER / request.param)


def test_the_record_is_of_its_version(record: Record, request) -> None:
    year, month = request.node.callspec.params["record"].split(".")
    assert record.version.startswith(f"{year}.{int(month)}.")


def test_every_job_is_in_its_state_and_has_its_name(record: Record) -> None:
    assert {name: record.job(name).state.value for name in STATES} == STATES
    for name in STATES:
        assert record.job(name).name == name
        if name != "hetjob":
            assert record.job(name).tag == SlurmTag("r:1", "worker", 0)


def test_times_nodes_and_what_was_allocated(record: Record) -> None:
    running = record.job("running")
    assert running.node_count == len(running.nodes) == 2
    assert running.licenses == "qpu_lab:1"
    assert running.ends_by is not None
    assert running.started_at is not None
    assert (running.ends_by - running.started_at).total_seconds() == 600
    assert tres_of(running.tres)["license/qpu_lab"] == 1
    assert tres_of(record.job("qpu").tres)["gres/qpu"] == 1
    assert tres_of(record.job("gpu").tres)["gres/gpu"] == 1
    assert record.job("two\nlines").held
    assert record.job("timeout").ended_at is not None
    assert record.job("later").reason == "BeginTime"
    assert record.job("never").reason == "DependencyNeverSatisfied"


def test_a_heterogeneous_job_has_two_components(record: Record) -> None:
    leader = record.ids["hetjob"]
    parts = [job for job in record.queue.values() if job.leader == leader]
    assert [(job.id, job.component) for job in parts] == [(leader, 0), (leader + 1, 1)]


def test_jobs_that_run_again_have_an_attempt_for_each_time(record: Record) -> None:
    for name, first in (("requeued", "REQUEUED"), ("preempted", "PREEMPTED")):
        assert record.job(name).restarts == 1
        states = [job.state.value for job in record.attempts(name)]
        assert states[0] == first
        assert len(states) <= 2
        assert not record.job(name).state.is_over


def test_accounting_agrees_with_the_queue(record: Record) -> None:
    (done,) = record.attempts("done")
    assert (done.state, done.node_seconds, done.exit_code) == (
        SlurmState.COMPLETED,
        done.elapsed_s,
        0,
    )
    (failed,) = record.attempts("failed")
    assert failed.exit_code == 3
    (cancelled,) = record.attempts("cancelled")
    assert cancelled.state is SlurmState.CANCELLED
    (timeout,) = record.attempts("timeout")
    assert timeout.elapsed_s >= 60
    assert timeout.tag == SlurmTag("r:1", "worker", 0)
    (qpu,) = record.attempts("qpu")
    assert qpu.tres["gres/qpu"] == 1
    for job in record.accounted:
        assert job.state is not SlurmState.UNKNOWN
        assert job.account == "chemistry"


def test_what_the_cluster_has(record: Record) -> None:
    found = parse_partitions(
        record.text("partitions.txt"), record.text("sinfo.txt"), separator=SEPARATOR
    )
    assert {name: partition.nodes for name, partition in found.items()} == {
        "classical": ("c1", "c2", "c3", "c4"),
        "gpu": ("g1",),
        "quantum": ("q1",),
        "scavenge": ("c1", "c2", "c3", "c4"),
    }
    assert [name for name in found if found[name].is_default] == ["classical"]
    assert found["gpu"].gres == {"gpu": 2}
    licence = parse_licences(record.text("licenses.txt"))["qpu_lab"]
    assert (licence.total, licence.used, licence.free) == (2, 1, 1)
    by_name = {one.name: one for one in parse_reservations(record.text("reservations.txt"))}
    assert by_name["maintenance"].is_maintenance
    assert by_name["maintenance"].nodes == ("c1",)
    assert by_name["licence"].licenses == {"qpu_lab": 1}
