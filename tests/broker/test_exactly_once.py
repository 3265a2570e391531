"""The embedded broker on a QPU that goes wrong: one start per task, and a clear end."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backends.api import PayloadRejected, TaskFailed, UnknownSession, Usage
from backends.metering import Charge
from orchestrator.broker.client.protocol import JobUncertain
from orchestrator.broker.client.status import JobUnknown
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.metered import Metered, MeteredRefused
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Ledger, LedgerError
from orchestrator.broker.runtime.pacing import Pacing
from tests.broker.embedded_rooms import Open, bell, call, counts_of, die, fake_of, starts
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.postgres import PostgresServer


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([], id="nothing goes wrong"),
        pytest.param([{"call": "status", "on": [1, 2]}], id="status polls fail"),
        pytest.param([{"call": "result", "on": [1]}], id="the result fetch fails"),
        pytest.param([{"call": "start", "kind": "lost", "on": [1]}], id="started, answer lost"),
        pytest.param([{"call": "start", "on": [1]}], id="start refused, unreachable"),
        pytest.param([{"call": "start", "kind": "busy", "on": [1, 2]}], id="busy twice"),
        pytest.param([{"call": "start", "kind": "error", "on": [1]}], id="error said, yet started"),
        pytest.param(
            [{"call": "start", "kind": "throttled", "on": [1]}], id="429 with Retry-After"
        ),
        pytest.param([{"call": "status", "kind": "throttled", "on": [1]}], id="503 on a poll"),
        pytest.param([{"call": "acquire", "kind": "busy", "on": [1]}], id="no session at first"),
        pytest.param(
            [{"call": "start", "kind": "lost", "on": [1]}, {"call": "find", "on": [1, 2]}],
            id="answer lost, then the look-up fails",
        ),
    ],
)
def test_each_fault_leads_to_one_start_and_a_result(
    opened: Open, faults: list[dict[str, Any]]
) -> None:
    broker = opened(faults=faults)
    job = broker.submit(call(), bell())
    assert sum(counts_of(broker, job).values()) == 100
    assert starts(broker) == {f"{job}.0": 1}
    assert [task.starts for task in broker.view(job).tasks] == [1]


def test_the_same_call_is_the_same_job(opened: Open) -> None:
    broker = opened()
    first = broker.submit(call(), bell())
    counts = counts_of(broker, first)
    again = broker.submit(call(), bell())
    assert again == first
    assert counts_of(broker, again) == counts
    assert sum(starts(broker).values()) == 1
    other = broker.submit(call(1), bell())
    assert other != first
    counts_of(broker, other)
    assert sum(starts(broker).values()) == 2


def test_a_backend_that_cannot_look_up_leaves_an_uncertain_job(opened: Open) -> None:
    broker = opened(faults=[{"call": "start", "kind": "lost", "on": [1]}], can_find=False)
    job = broker.submit(call(), bell())
    with pytest.raises((JobUncertain, TaskFailed), match="tag"):
        broker.result(job, PATIENCE_S)
    assert broker.view(job).state is JobState.UNCERTAIN
    assert sum(starts(broker).values()) == 1


@pytest.mark.parametrize("verdict", ["not-started", "failed"])
def test_an_uncertain_job_is_settled_by_hand_and_tried_again(opened: Open, verdict: str) -> None:
    broker = opened(faults=[{"call": "start", "kind": "lost", "on": [1]}], can_find=False)
    job = broker.submit(call(), bell())
    with pytest.raises(JobUncertain, match=naming(f"broker resolve {job}", "--run-id run")):
        broker.result(job, PATIENCE_S)
    (task,) = broker.view(job).tasks
    assert (task.starts, task.start_in_doubt) == (0, True)
    broker.close()
    later = opened(can_find=False)
    later.resolve(job, verdict, "asked the site")
    assert later.view(job).state.is_final
    assert later.submit(call(), bell()) == job
    assert sum(counts_of(later, job).values()) == 100
    first, second = later.view(job).tasks
    assert (first.starts, first.start_in_doubt) == (0, verdict == "failed")
    assert (second.starts, second.start_in_doubt) == (1, False)
    assert starts(later)[f"{job}.1"] == 1


def test_an_uncertain_task_bars_nobody_from_the_qpu(opened: Open) -> None:
    broker = opened(faults=[{"call": "start", "kind": "lost", "on": [1]}], can_find=False)
    doubtful = broker.submit(call(0), bell())
    with pytest.raises(JobUncertain):
        broker.result(doubtful, PATIENCE_S)
    next_one = broker.submit(call(1), bell())
    assert sum(counts_of(broker, next_one).values()) == 100
    assert broker.view(doubtful).state is JobState.UNCERTAIN


def test_a_task_that_cannot_be_read_is_uncertain_until_an_answer_comes(opened: Open) -> None:
    pacing = Pacing(unread_looks=3, doubtful_s=0.05)
    broker = opened(pacing=pacing, faults=[{"call": "status", "on": list(range(1, 9))}])
    job = broker.submit(call(), bell())
    with pytest.raises(JobUncertain, match="state"):
        broker.result(job, PATIENCE_S)
    until(lambda: broker.view(job).state is JobState.COMPLETED)
    assert sum(counts_of(broker, job).values()) == 100
    assert sum(starts(broker).values()) == 1


def test_lost_access_is_told_and_leaves_no_doubt(
    opened: Open, where: Path | str, caplog: pytest.LogCaptureFixture
) -> None:
    pacing = Pacing(unread_looks=3, doubtful_s=0.05)
    faults = [{"call": "status", "kind": "denied", "on": list(range(2, 12))}]
    broker = opened(pacing=pacing, faults=faults, run_s=0.2)
    job = broker.submit(call(), bell())
    heard: set[str] = set()

    def is_over() -> bool:
        heard.update(broker.why(job).waits_for)
        return broker.view(job).state is JobState.COMPLETED

    until(is_over)
    assert sum(counts_of(broker, job).values()) == 100
    (reason,) = heard
    assert "QPU q" in reason
    assert "UTC: status number 2 has no valid token" in reason
    assert not broker.why(job).waits_for
    with closing(Ledger.open(where)) as ledger:
        kinds = [event.kind for event, _ in ledger.events("run")]
    assert "task-uncertain" not in kinds
    assert [kind for kind in kinds if "access" in kind] == ["access-lost", "access-regained"]
    assert reason in caplog.text
    assert "accepts" in caplog.text


def test_a_stuck_task_is_in_doubt_after_its_time(opened: Open) -> None:
    broker = opened(pacing=Pacing(doubtful_s=0.05), stuck=[1], rules={"longest_task_s": 0.2})
    job = broker.submit(call(), bell())
    with pytest.raises(JobUncertain, match=naming("0.2 s")):
        broker.result(job, PATIENCE_S)
    assert sum(starts(broker).values()) == 1


def test_by_rule_a_doubtful_task_fails_and_its_late_end_is_only_recorded(
    opened: Open, tmp_path: Path
) -> None:
    broker = opened(
        pacing=Pacing(doubtful_s=0.05),
        run_s=0.6,
        rules={"longest_task_s": 0.2, "uncertain": "fail"},
    )
    job = broker.submit(call(), bell())
    with pytest.raises(TaskFailed, match=naming("0.2 s")):
        broker.result(job, PATIENCE_S)
    until(lambda: broker.view(job).tasks[0].late)
    view = broker.view(job)
    assert view.state is JobState.FAILED
    assert view.usage.shots == 100  # the device did work, and will bill it
    assert sum(starts(broker).values()) == 1


def test_by_rule_the_client_waits_until_a_doubtful_task_is_found(opened: Open) -> None:
    broker = opened(
        pacing=Pacing(doubtful_s=0.05),
        run_s=0.6,
        rules={"longest_task_s": 0.2, "uncertain": "adopt-wait"},
    )
    job = broker.submit(call(), bell())
    until(lambda: broker.view(job).state is JobState.UNCERTAIN)
    assert sum(counts_of(broker, job).values()) == 100
    assert sum(starts(broker).values()) == 1


def test_two_tasks_of_one_id_are_not_taken_for_each_other(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = opened(run_s=0.5, max_concurrent_tasks=2)
    fake, first = fake_of(broker), None
    start = fake.start

    def confused(session: Any, payload: Any, tag: str) -> Any:
        nonlocal first
        task = start(session, payload, tag)
        first = first or task
        return first

    monkeypatch.setattr(fake, "start", confused)
    jobs = [broker.submit(call(n), bell(seed=n)) for n in range(2)]
    states = []
    for job in jobs:
        try:
            broker.result(job, PATIENCE_S)
            states.append(JobState.COMPLETED)
        except JobUncertain:
            states.append(JobState.UNCERTAIN)
    assert states == [JobState.COMPLETED, JobState.UNCERTAIN]
    assert sorted(starts(broker).values()) == [1, 1]


def test_a_clock_that_jumps_changes_no_outcome(opened: Open) -> None:
    broker = opened(max_shots=30)
    service = broker._broker.events
    assert service is not None
    days = iter([0, -400, 900, -1, 5000] * 20)
    service.clock = lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=next(days))
    jobs = [broker.submit(call(n), bell(seed=n)) for n in range(3)]
    assert all(sum(counts_of(broker, job).values()) == 100 for job in jobs)
    assert set(starts(broker).values()) == {1}
    broker.close()
    again = opened(max_shots=30)
    assert [again.submit(call(n), bell(seed=n)) for n in range(3)] == jobs
    assert all(again.view(job).state is JobState.COMPLETED for job in jobs)


def test_sessions_that_never_hold_end_in_a_failure(opened: Open) -> None:
    broker = opened()

    def forgotten(session: Any, payload: Any, tag: str) -> Any:
        raise UnknownSession(f"session {session!r} is not open")

    fake_of(broker).start = forgotten  # type: ignore[method-assign]
    job = broker.submit(call(), bell())
    with pytest.raises(UnknownSession):
        broker.result(job, PATIENCE_S)
    assert broker.view(job).state is JobState.FAILED


def test_a_failed_task_is_tried_again_only_when_the_client_asks(opened: Open) -> None:
    broker = opened(fail=[1])
    job = broker.submit(call(), bell())
    with pytest.raises(TaskFailed):
        broker.result(job, PATIENCE_S)
    assert sum(starts(broker).values()) == 1
    assert broker.submit(call(), bell()) == job
    assert sum(counts_of(broker, job).values()) == 100
    assert [task.state for task in broker.view(job).tasks] == ["failed", "completed"]
    assert set(starts(broker).values()) == {1}


def test_what_the_target_can_never_run_is_no_job(opened: Open) -> None:
    broker = opened(num_qubits=1)
    with pytest.raises(PayloadRejected, match="qubit"):
        broker.submit(call(), bell())
    with pytest.raises(JobUnknown):
        broker.view(call().job_id(bell().digest))
    assert sum(starts(broker).values()) == 0


def test_a_finished_result_is_returned_after_its_qpu_became_smaller(opened: Open) -> None:
    broker = opened()
    job = broker.submit(call(), bell())
    found = counts_of(broker, job)
    broker.close()
    again = opened(num_qubits=1)
    assert again.submit(call(), bell()) == job
    assert counts_of(again, job) == found


@pytest.mark.slow
def test_a_task_of_a_dead_broker_is_adopted(opened: Open, where: Path | str) -> None:
    slow = {"durable": True, "run_s": 1.5}
    first = opened(**slow)
    job = first.submit(call(), bell())
    until(lambda: starts(first))
    die(first)
    second = opened(**slow)
    assert second.submit(call(), bell()) == job
    assert sum(counts_of(second, job).values()) == 100
    assert [task.starts for task in second.view(job).tasks] == [1]
    ledger = Ledger.open(where)
    kinds = [event.kind for event, _ in ledger.events("run")]
    ledger.close()
    assert kinds.count("task-planned") == 1
    assert "task-adopted" in kinds


def test_a_ledger_that_cannot_be_written_stops_everything_and_says_so(opened: Open) -> None:
    broker = opened(run_s=0.3)
    job = broker.submit(call(), bell())
    service = broker._broker.events
    assert service is not None

    def full(scope: str, entries: object) -> None:
        raise LedgerError("ledger cannot be written: database or disk is full")

    service.ledger.append = full  # type: ignore[method-assign]
    with pytest.raises(LedgerError, match="full"):
        broker.result(job, PATIENCE_S)
    with pytest.raises(LedgerError, match="full"):
        broker.submit(call(1), bell())
    assert len(starts(broker)) == 1


def test_events_reach_the_ledger_before_their_effect(opened: Open, where: Path | str) -> None:
    broker = opened()
    seen: list[list[str]] = []
    fake = fake_of(broker)
    start = fake.start

    def watched(session: Any, payload: Any, tag: str) -> Any:
        ledger = Ledger.open(where)
        planned = [e for e, _ in ledger.events("run") if isinstance(e, ev.TaskPlanned)]
        seen.append([event.tag for event in planned])
        ledger.close()
        return start(session, payload, tag)

    fake.start = watched  # type: ignore[method-assign]
    job = broker.submit(call(), bell())
    broker.result(job, PATIENCE_S)
    assert seen == [[f"{job}.0"]]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["postgresql"], indirect=True)
def test_restarts_of_postgresql_lose_and_double_nothing(
    opened: Open, where: Path | str, postgres_server: PostgresServer
) -> None:
    broker = opened(run_s=0.05)
    jobs = []
    for number in range(6):
        jobs.append(broker.submit(call(number), bell()))
        if number % 2:
            postgres_server.restart()
    assert [sum(counts_of(broker, job).values()) for job in jobs] == [100] * 6
    assert starts(broker) == {f"{job}.0": 1 for job in jobs}
    ledger = Ledger.open(where)
    kinds = Counter(event.kind for event, _ in ledger.events("run"))
    assert kinds["job-submitted"] == kinds["task-planned"] == kinds["task-completed"] == 6
    ledger.close()


def test_what_the_site_metered_for_a_lost_task_is_in_its_accounts(opened: Open) -> None:
    broker = opened(faults=[{"call": "start", "kind": "lost", "on": [1]}], can_find=False)
    job = broker.submit(call(), bell())
    with pytest.raises(JobUncertain):
        broker.result(job, PATIENCE_S)
    with pytest.raises(MeteredRefused, match=naming("12.5", "failed")):
        broker.resolve(job, "not-started", "asked the site", Metered(used_s=12.5))
    assert broker.view(job).state is JobState.UNCERTAIN
    broker.close()
    later = opened(can_find=False)
    later.resolve(job, "failed", "on the site's meter", Metered(used_s=12.5))
    charged = (Charge(amount=12.5, unit="qpu-s"),)
    metered = Usage(qpu_seconds=12.5, tasks=1, charges=charged)
    assert later.view(job).usage == metered
    assert [(one.starts, one.start_in_doubt) for one in later.view(job).tasks] == [(1, False)]
    later.close()
    assert opened(can_find=False).view(job).usage == metered, "it is in the ledger"
