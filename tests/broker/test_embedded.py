"""The embedded broker on a QPU that works: slices, shared tasks, and every way to end."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest

from backends.api import Charge, TaskCancelled, TaskFailed, Usage
from backends.fake import FakeBackend
from orchestrator.broker.core.views import JobState
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.broker.runtime.pacing import Pacing
from orchestrator.identity import JobId
from tests.broker.embedded_rooms import Open, bell, call, counts_of, fake_of, starts
from tests.patience import PATIENCE_S, until


def test_shots_beyond_the_limit_are_sliced_and_merged(opened: Open) -> None:
    broker = opened(max_shots=30, max_circuits=1)
    job = broker.submit(call(), bell(shots=100))
    assert sum(counts_of(broker, job).values()) == 100
    view = broker.view(job)
    assert sorted(task.shots for task in view.tasks) == [10, 30, 30, 30]
    assert view.usage.shots == 100
    assert set(starts(broker).values()) == {1}


def test_the_shortest_task_starts_before_it_ends(opened: Open) -> None:
    """Both are written in one commit; each keeps its own time."""
    broker = opened()
    for number in range(5):
        job = broker.submit(call(number), bell(seed=number))
        counts_of(broker, job)
        view = broker.view(job)
        assert view.started_at is not None
        assert view.ended_at is not None
        assert view.submitted_at <= view.started_at < view.ended_at


def test_calls_that_arrive_together_share_a_task_where_that_pays(opened: Open) -> None:
    broker = opened(coalesces=True, run_s=1.0)
    jobs = [broker.submit(call(n), bell(seed=n)) for n in range(6)]
    results = [counts_of(broker, job) for job in jobs]
    assert all(sum(counts.values()) == 100 for counts in results)
    assert len(starts(broker)) == 2  # the first went at once, the rest together
    assert sum(broker.view(job).usage.tasks for job in jobs) == 2
    assert sum(broker.view(job).usage.shots for job in jobs) == 600


@pytest.mark.parametrize(
    "usage",
    [
        Usage(qpu_seconds=math.nan),
        Usage(qpu_seconds=-5.0),
        Usage(shots=-1),
        Usage(charges=(Charge(amount=math.inf, unit="EUR"),)),
    ],
)
def test_a_usage_that_cannot_be_is_not_counted(opened: Open, monkeypatch, usage) -> None:
    broker = opened()
    read = FakeBackend.result
    monkeypatch.setattr(
        FakeBackend, "result", lambda self, task: replace(read(self, task), usage=usage)
    )
    job = broker.submit(call(), bell())
    with pytest.raises(TaskFailed, match="usage"):
        broker.result(job, PATIENCE_S)
    assert 0 <= broker.view(job).usage.qpu_seconds < math.inf
    assert broker.view(job).usage.charges == ()


def test_a_cancelled_job_is_stopped_on_the_backend(opened: Open) -> None:
    broker = opened(run_s=60)
    running = broker.submit(call(0), bell())
    waiting = broker.submit(call(1), bell())
    until(lambda: broker.view(running).state is JobState.RUNNING and starts(broker))
    assert broker.cancel(waiting)
    assert broker.cancel(running)
    for job in (running, waiting):
        with pytest.raises(TaskCancelled):
            broker.result(job, PATIENCE_S)
    assert len(starts(broker)) == 1
    assert not broker.cancel(running)


def test_all_jobs_are_cancelled_while_others_arrive(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: dict[str, Arriving] = {}

    class Arriving:
        """A job's record: when it is read, the next job arrives."""

        @property
        def held(self) -> bool:
            jobs.setdefault("later", self)
            return True

    jobs["first"] = Arriving()
    broker = opened()
    with monkeypatch.context() as patched:
        patched.setattr(broker._running.events.state, "jobs", jobs)
        assert broker.cancel_all() == 0
    assert set(jobs) == {"first", "later"}


def freed_by_closing(broker: EmbeddedBroker, job: JobId) -> bool:
    """Close the broker while a thread waits for the job; return whether it learns of that."""
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            broker.result(job)
        except TaskCancelled as error:
            ended.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: starts(broker))
    broker.close()
    waiter.join(PATIENCE_S)
    return len(ended) == 1


def test_closing_cancels_what_is_open_and_frees_those_who_wait(opened: Open) -> None:
    broker = opened(run_s=60)
    assert freed_by_closing(broker, broker.submit(call(), bell()))


def test_those_who_wait_are_freed_even_if_the_backend_does_not_stop(opened: Open) -> None:
    broker = opened(pacing=Pacing(close_s=0.2), run_s=60)
    fake_of(broker).stop = lambda task: None  # type: ignore[method-assign]
    assert freed_by_closing(broker, broker.submit(call(), bell()))


def test_a_closed_broker_says_so(opened: Open) -> None:
    broker = opened()
    job = broker.submit(call(), bell())
    broker.result(job, PATIENCE_S)
    broker.close()
    broker.close()
    for late in (
        lambda: broker.submit(call(1), bell()),
        lambda: broker.result(job),
        lambda: broker.cancel(job),
        lambda: broker.backend("another"),
    ):
        with pytest.raises(TaskCancelled, match="closed"):
            late()


def test_results_survive_the_broker(opened: Open) -> None:
    first = opened()
    job = first.submit(call(), bell())
    counts = counts_of(first, job)
    first.close()
    second = opened()
    assert second.submit(call(), bell()) == job
    assert counts_of(second, job) == counts
    assert starts(second) == {}
