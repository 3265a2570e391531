"""Checkpoints in a real ledger: all questions have the answers they had without any."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.api import Usage
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.packing import TaskLimits
from orchestrator.broker.core.policies import Fifo
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.state import BrokerState, replay
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import Entries, JobFilter, Ledger, LedgerError
from orchestrator.identity import JobId
from tests.broker.histories import NOW, History, histories, submitted
from tests.errors import naming

LATER = NOW + timedelta(hours=1)


def append(ledger: Ledger, scope: str, history: History) -> None:
    for event, at in history:
        ledger.append(scope, Entries(events=[(event, at)]))


class Service:
    """The least that a broker does: state, ledger, and now and then a checkpoint."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.state = ledger.restore("service")
        unlimited = TaskLimits(max_concurrent_tasks=None)
        for qpu in "pq":
            self.state.configure(qpu, QpuRules(limits=unlimited, policy=Fifo()))
        self.now = NOW

    def feed(self, event: ev.Event) -> None:
        self.now += timedelta(seconds=1)
        self.ledger.recall_for("service", self.state, event)
        outcome = self.state.handle(event, self.now)
        append(self.ledger, "service", [(one, self.now) for one in outcome.events])

    def run(self, number: int) -> None:
        self.feed(submitted(number, [(1, 10)]))
        self.feed(ev.TaskStarted(tag=f"j{number}.0", qpu_task=str(number)))
        self.feed(ev.TaskCompleted(tag=f"j{number}.0", usage=Usage(qpu_seconds=2.0, tasks=1)))

    def checkpoint(self, **options: object) -> list[JobId]:
        gone = self.ledger.checkpoint("service", self.state, **options)  # type: ignore[arg-type]
        self.state.forget(gone)
        return gone


@pytest.fixture
def service(where: Path | str) -> Iterator[Service]:
    ledger = Ledger.open(where)
    yield Service(ledger)
    ledger.close()


@settings(max_examples=15)
@given(history=histories(), cuts=st.lists(st.integers(0, 150), max_size=3))
def test_checkpoints_change_no_answer(history: History, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = Ledger.open(Path(folder) / "whole.sqlite")
        append(whole, "service", history)
        ledger, done = Ledger.open(Path(folder) / "cut.sqlite"), 0
        for cut in sorted(cuts):
            append(ledger, "service", history[done:cut])
            done = max(done, min(cut, len(history)))
            ledger.checkpoint("service", ledger.restore("service"))
        append(ledger, "service", history[done:])
        assert ledger.jobs() == whole.jobs()
        for limit in (1, 3, 1000):
            assert ledger.jobs(limit=limit) == whole.jobs()[-limit:]
            assert ledger.jobs(limit=limit) == whole.jobs(limit=limit)
        for job in whole.jobs():
            assert ledger.job(job.id) == job
        for ledger_at in (ledger, whole):
            ledger_at.checkpoint("service", ledger_at.restore("service"))
        for run in ("r0", "r1"):
            assert ledger.jobs(run) == [job for job in whole.jobs() if job.run == run]
            assert ledger.jobs(run, 2) == ledger.jobs(run)[-2:]
        past = {name: use.jobs for name, use in ledger.restore("service").past.items()}
        assert past == {name: use.jobs for name, use in whole.restore("service").past.items()}
        ledger.close()
        whole.close()


def test_a_service_forgets_what_has_ended_and_still_knows_it(service: Service) -> None:
    for number in range(5):
        service.run(number)
    service.feed(submitted(5, [(1, 10)]))
    before = service.ledger.jobs()
    assert service.checkpoint() == [f"j{number}" for number in range(5)]
    assert list(service.state.jobs) == ["j5"]
    assert list(service.state.tasks) == ["j5.0"]
    assert service.ledger.jobs() == before
    again = Service(service.ledger)
    assert again.state.jobs == service.state.jobs
    assert again.state.past == service.state.past
    assert service.state.past["project0"].usage.qpu_seconds == 6.0
    assert service.checkpoint() == []


def test_jobs_that_have_ended_are_found_by_what_they_are_of(service: Service) -> None:
    for number in range(6):
        service.run(number)
    service.checkpoint()

    def ids(**wanted: object) -> list[str]:
        return [job.id for job in service.ledger.ended(JobFilter(**wanted))]  # type: ignore[arg-type]

    assert ids() == ["j0", "j1", "j2", "j3", "j4", "j5"]
    assert ids(run="r1") == ["j1", "j3", "j5"]
    assert ids(projects=("project0",), limit=2) == ["j2", "j4"]
    assert ids(scope="other") == []
    assert ids(since=NOW + timedelta(seconds=13)) == ["j4", "j5"]
    assert [job.id for job in service.ledger.jobs("r0", 2)] == ["j2", "j4"]


def test_a_failed_job_that_was_forgotten_is_taken_up_again(service: Service) -> None:
    service.feed(submitted(1, [(1, 10)]))
    service.feed(ev.TaskErred(tag="j1.0", error="broke", error_type="TaskFailed"))
    service.checkpoint()
    assert not service.ledger.recall("service", service.state, JobId("j9"))
    service.feed(ev.JobResumed(job=JobId("j1")))
    assert service.ledger.job("j1").state is JobState.RUNNING  # its row says failed
    assert [job.state for job in service.ledger.jobs(limit=5)] == [JobState.RUNNING]
    assert Service(service.ledger).state.jobs == service.state.jobs
    service.checkpoint()
    service.feed(ev.TaskCompleted(tag="j1.1", usage=Usage(tasks=1)))
    service.checkpoint()
    view = service.ledger.job("j1")
    assert (view.state, [task.state for task in view.tasks]) == (
        JobState.COMPLETED,
        ["failed", "completed"],
    )
    assert service.state.past["project1"].jobs == 1


def test_a_late_word_about_a_shared_task_reaches_all_its_jobs(service: Service) -> None:
    service.state.configure("q", QpuRules(limits=TaskLimits(coalesces=True), policy=Fifo()))
    for number in (1, 2, 3):
        service.feed(submitted(number, [(1, 10)]))
    service.feed(ev.TaskCompleted(tag="j1.0", usage=Usage()))
    service.feed(ev.TaskUncertain(tag="j2.0", reason="no answer"))
    service.feed(ev.TaskResolved(tag="j2.0", verdict="failed", by="op", reason="looked"))
    for _ in range(3):
        service.checkpoint(most=1)
    assert service.state.jobs == service.state.tasks == {}
    service.feed(ev.TaskCompleted(tag="j2.0", usage=Usage(qpu_seconds=4.0, shots=20, tasks=1)))
    assert sorted(service.state.jobs) == ["j2", "j3"]
    service.checkpoint()
    views: list[JobView] = [service.ledger.job(job) for job in ("j2", "j3")]
    assert [view.usage.qpu_seconds for view in views] == [2.0, 2.0]
    assert all(task.late for view in views for task in view.tasks)
    assert service.state.past["project0"].usage.qpu_seconds == 2.0


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path)
    service = Service(ledger)
    service.run(1)
    before = ledger.jobs()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TRIGGER full BEFORE INSERT ON ended_jobs "
                "BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            )
        )
    with pytest.raises(LedgerError, match="full"):
        service.checkpoint()
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT * FROM snapshots")).all() == []
        connection.execute(sa.text("DROP TRIGGER full"))
    engine.dispose()
    service.run(2)
    assert service.checkpoint() == ["j1", "j2"]
    assert ledger.jobs()[:1] == before
    ledger.close()


def test_the_latest_jobs_come_from_the_scopes_they_are_in(where: Path | str) -> None:
    ledger = Ledger.open(where)
    for number in range(6):
        append(ledger, f"run{number}", [(submitted(number, [(1, 1)]), _at(number))])
    # An older scope that makes no sense does not matter to whoever does not ask for it.
    append(ledger, "run0", [(ev.TaskStopped(tag="never planned"), _at(9))])
    assert [job.id for job in ledger.jobs(limit=3)] == ["j3", "j4", "j5"]
    assert ledger.runs() == [f"run{number}" for number in range(6)]
    with pytest.raises(LedgerError, match="damaged"):
        ledger.jobs("run0")
    append(ledger, "run1", [(ev.BudgetSet(account="chem", unit="s", amount=1.0, by="o"), _at(9))])
    with pytest.raises(LedgerError, match="damaged"):
        ledger.jobs("run1")
    ledger.close()


def test_a_job_is_found_by_the_start_of_its_id(service: Service) -> None:
    for number in (12, 13, 21):
        service.run(number)
    service.checkpoint()
    service.run(1)
    assert service.ledger.job("j2").id == "j21"
    assert service.ledger.job("j1").id == "j1"  # exactly, though others begin so
    with pytest.raises(LedgerError, match=naming("j", "j1", "j12", "j13", "j21")):
        service.ledger.job("j")
    for nothing in ("j3", "j1%", "J2"):
        with pytest.raises(LedgerError, match=naming(nothing)):
            service.ledger.job(nothing)


def test_a_state_can_be_followed_while_it_is_written(where: Path | str) -> None:
    writer, reader = Ledger.open(where), Ledger.open(where)
    service = Service(writer)
    followed = reader.follow("service")
    assert followed.state == BrokerState()
    service.run(1)
    assert reader.follow("service", followed) is followed
    assert followed.state.jobs == service.state.jobs
    service.checkpoint()
    service.feed(submitted(2, [(1, 1)]))
    reader.follow("service", followed)
    assert list(followed.state.jobs) == ["j1", "j2"]
    assert followed.seq == 6
    assert followed.state.tasks == replay(writer.events("service")).tasks
    for ledger in (writer, reader):
        ledger.close()


def _at(number: int) -> datetime:
    return LATER + timedelta(seconds=number)
