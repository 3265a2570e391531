"""What the reconciler's thread does when Slurm does not answer, refuses, or is not there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.compute import reconciliation
from orchestrator.compute.reconciler import Reconciler
from orchestrator.compute.worker_jobs import JobFolder, allocation
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.slurm.errors import SlurmRefused, SlurmUnavailable
from orchestrator.slurm.options import worker_options
from orchestrator.slurm.states import SlurmState
from tests.forgetful_slurm import ForgetfulSlurm
from tests.patience import until


class Room:
    """A reconciler on a forgetful Slurm. failed: the pools that were given up, with the errors."""

    def __init__(self, place, **options) -> None:
        settings = ComputeSettings(name="c", kind="slurm", options=options)
        self.slurm = ForgetfulSlurm()
        self.folder = JobFolder(run="r", path=place, options=worker_options(settings))
        self.folder.prepare()
        self.failed: dict[str, Exception] = {}
        self.notices: list[str] = []
        self.reconciler = Reconciler(
            slurm=self.slurm,
            folder=self.folder,
            on_failure=self.failed.__setitem__,
            on_notice=self.notices.append,
        )

    def tag(self, purpose: str, number: int) -> str:
        return str(self.folder.owner.tag(purpose, number))

    def want(self, jobs: int, *, held: bool = False) -> None:
        self.reconciler.want(allocation(self.folder.options), jobs, held=held)
        self.reconciler.start()


@pytest.fixture
def room(tmp_path) -> Iterator[Room]:
    opened = Room(tmp_path / "r")
    yield opened
    opened.reconciler.close()


def away(times: int = 1) -> list[Exception]:
    return [SlurmUnavailable("it is away") for _ in range(times)]


def test_a_job_that_could_not_be_cancelled_is_cancelled_later(room) -> None:
    room.want(2)
    until(lambda: len(room.reconciler.jobs()) == 2)
    room.slurm.faults["cancel"] = away(2)
    room.want(0)
    until(lambda: not room.slurm.waiting())
    assert not room.slurm.faults["cancel"]


def test_a_dropped_pools_job_that_could_not_be_cancelled_is_cancelled_later(room) -> None:
    room.want(1)
    until(room.slurm.waiting)
    room.slurm.faults["cancel"] = away()
    room.reconciler.drop("shared")
    until(lambda: not room.slurm.waiting())


def test_a_dropped_pools_job_is_cancelled_before_slurm_is_asked_anything(room, monkeypatch) -> None:
    room.reconciler.want(allocation(room.folder.options), 1)
    room.reconciler._step()
    (job,) = room.slurm.waiting()
    calls = []
    monkeypatch.setattr(room.slurm, "jobs", lambda ids=None: calls.append(("jobs", ids)) or {})
    monkeypatch.setattr(room.slurm, "cancel", lambda ids: calls.append(("cancel", ids)))
    room.reconciler.drop("shared")
    room.reconciler._step()
    assert calls == [("cancel", [job])]


@pytest.mark.parametrize(("verb", "before"), [("release", True), ("hold", False)])
def test_a_hold_or_release_that_failed_is_made_again(room, verb, before) -> None:
    room.want(1, held=before)
    until(room.reconciler.jobs)
    room.slurm.faults[verb] = away(2)
    room.want(1, held=not before)
    until(lambda: [job.held for job in room.slurm.queue.values()] == [not before])


def test_without_slurms_programs_the_pools_fail_and_no_number_is_lost(room) -> None:
    room.slurm.faults["submit"] = [SlurmUnavailable("no sbatch", retryable=False)]
    room.want(1)
    until(lambda: "shared" in room.failed)
    assert room.slurm.tries == 1
    room.want(1)
    until(lambda: room.slurm.tags)
    assert room.slurm.tags == [room.tag("worker", 0)]


def test_a_submission_that_is_tried_again_has_its_number(room) -> None:
    room.slurm.faults["submit"] = away(3)
    room.want(2)
    until(lambda: len(room.slurm.tags) == 2)
    assert room.slurm.tags == [room.tag("worker", 0), room.tag("worker", 1)]
    assert not room.failed


def test_a_limit_on_the_number_of_jobs_is_waited_for_and_said_once(room) -> None:
    room.slurm.faults["submit"] = [SlurmRefused("too many jobs", passes=True) for _ in range(3)]
    room.want(2)
    until(lambda: len(room.slurm.tags) == 2)
    assert room.slurm.tags == [room.tag("worker", 0), room.tag("worker", 1)]
    assert not room.failed
    assert len(room.notices) == 1
    assert "too many jobs" in room.notices[0]


def test_a_limit_on_the_number_of_jobs_is_not_waited_for_for_ever(room, monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.compute.reconciler.LONGEST_REFUSAL_S", 0.0)
    room.slurm.faults["submit"] = [SlurmRefused("too many jobs", passes=True) for _ in range(9)]
    room.want(1)
    until(lambda: "shared" in room.failed)
    assert room.slurm.tries == 1


def test_a_script_that_cannot_be_written_is_said_and_the_thread_goes_on(tmp_path) -> None:
    room = Room(tmp_path / "r", extra=["--wrap=true"])
    room.want(1)
    until(lambda: "shared" in room.failed)
    assert "--wrap" in str(room.failed["shared"])
    assert "cannot be submitted" in str(room.failed["shared"])
    room.reconciler.close()


def test_an_adoption_that_failed_is_made_before_anything_is_submitted(room) -> None:
    shared = allocation(room.folder.options)
    room.folder.remember(shared, room.folder.next_number("worker"))
    earlier = room.slurm.put(room.tag("worker", 0))
    useless = room.slurm.put(room.tag("stage", 0))
    room.slurm.faults["jobs"] = away(2)
    room.slurm.faults["cancel"] = away(1)
    room.want(1)
    until(lambda: room.reconciler.jobs() and useless not in room.slurm.waiting())
    assert [job.id for job in room.reconciler.jobs()] == [earlier]
    assert room.slurm.tries == 0


def test_an_adoption_that_slurm_refuses_fails_the_pools(room) -> None:
    room.slurm.faults["jobs"] = [SlurmRefused("not you")]
    room.want(1)
    until(lambda: "shared" in room.failed)
    room.want(1)  # the thread lives
    until(lambda: room.slurm.tags)


def test_what_a_silent_slurm_leaves_in_the_end_is_said_with_how_to_end_it(room) -> None:
    room.want(2)
    until(lambda: len(room.reconciler.jobs()) == 2)
    room.slurm.faults |= {"jobs": away(100), "cancel": away(100)}
    room.reconciler.close()
    first, second = sorted(room.slurm.waiting())
    assert f"scancel {first} {second}" in room.notices[-1]
    assert "hpcqc cancel r" in room.notices[-1]


def test_jobs_that_are_known_are_cancelled_where_the_queue_cannot_be_read(room) -> None:
    room.want(2)
    until(lambda: len(room.reconciler.jobs()) == 2)
    room.slurm.faults["jobs"] = away(100)
    room.reconciler.close()
    assert room.slurm.waiting() == []


def test_an_end_that_left_nothing_says_nothing(room) -> None:
    room.want(1)
    until(lambda: len(room.reconciler.jobs()) == 1)
    room.reconciler.close()
    assert not any("scancel" in notice for notice in room.notices)


def test_slurm_is_asked_once_for_all_jobs_each_time(room, monkeypatch) -> None:
    room.reconciler.want(allocation(room.folder.options), 200)
    room.reconciler._step()
    assert len(room.reconciler.jobs()) == 200
    asked = []
    answer = room.slurm.jobs
    monkeypatch.setattr(room.slurm, "jobs", lambda ids=None: asked.append(ids) or answer(ids))
    for _ in range(3):
        room.reconciler._step()
    assert [len(ids) for ids in asked] == [200] * 3


@pytest.mark.parametrize(
    ("shared", "own", "reports"),
    [
        ("classical", "classical", [True, False]),
        (None, "classical", [True, False]),
        ("classical,big", "big,small", [True, False]),
        ("classical", "gpu", []),
    ],
)
def test_an_allocation_that_waits_for_nodes_of_its_partition_is_reported(
    tmp_path, monkeypatch, shared, own, reports
) -> None:
    monkeypatch.setattr(reconciliation, "_MOMENT_S", 0.0)
    room, said = Room(tmp_path / "r"), []
    room.reconciler.on_own_waiting = said.append
    options = room.folder.options
    for pool, partition in (("shared", shared), ("stage-1", own)):
        there = options.model_copy(update={"partition": partition})
        room.reconciler.want(allocation(there, pool=pool), 1)
    room.reconciler._step()
    job = next(one.id for one in room.reconciler.jobs() if one.pool == "stage-1")
    room.slurm.change(job, reason="Resources")
    room.reconciler._step()
    room.reconciler._step()
    room.slurm.change(job, state=SlurmState.RUNNING, reason="None")
    room.reconciler._step()
    assert said == reports
