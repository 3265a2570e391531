"""What an operator's machines read: metrics in Prometheus's format, and one log line an event."""

from __future__ import annotations

import io
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast, get_args

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.api import Usage
from backends.shapes import ItemShape
from orchestrator.broker.api import logs
from orchestrator.broker.api.logs import LineWriter, json_line, log_entries, text_line
from orchestrator.broker.api.metrics import BrokerMetrics
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.ledger import LedgerError
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.event_loop import Commit
from orchestrator.identity import JobId
from tests.patience import PATIENCE_S, until
from tests.service.calls import bell, call
from tests.service.conftest import Service, Start

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def token(service: Service, role: Any) -> dict[str, str]:
    _, secret = service.tokens.add("eve", role, ["default"], now=datetime.now(UTC))
    return {"Authorization": f"Bearer {secret}"}


def scrape(service: Service, headers: dict[str, str]) -> Samples:
    answer = httpx.get(f"{service.url}/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.mark.slow
def test_metrics_tell_what_waits_runs_and_was_used(start_service: Start) -> None:
    service = start_service(
        options="run_s = 0.2, coalesces = false, max_concurrent_tasks = 1, fail = [2]"
    )
    headers = token(service, "operator")
    client = service.client()
    first, second = client.submit(call(), bell()), client.submit(call(1), bell())
    waiting = scrape(service, headers)
    assert value(waiting, "hpcqc_open_tasks", qpu="fake") == 1
    assert value(waiting, "hpcqc_queue_length", qpu="fake") == 1
    assert value(waiting, "hpcqc_jobs", qpu="fake", state="running") == 1
    assert value(waiting, "hpcqc_jobs", qpu="fake", state="queued") == 1
    client.result(first)
    until(lambda: client.view(second).state.is_final)
    httpx.get(f"{service.url}/nothing/here", headers=headers)
    over = scrape(service, headers)
    assert value(over, "hpcqc_submissions_total", qpu="fake", project="default") == 2
    assert value(over, "hpcqc_jobs_ended_total", qpu="fake", state="completed") == 1
    assert value(over, "hpcqc_jobs_ended_total", qpu="fake", state="failed") == 1
    assert value(over, "hpcqc_jobs", qpu="fake", state="running") == 0
    assert value(over, "hpcqc_task_starts_total", qpu="fake", how="started") == 2
    used = value(over, "hpcqc_qpu_seconds_total", qpu="fake", project="default")
    assert used == pytest.approx(client.view(first).usage.qpu_seconds)
    assert value(over, "hpcqc_qpu_state", qpu="fake", state="online") == 1
    assert value(over, "hpcqc_commit_duration_seconds_count") >= 4
    assert value(over, "hpcqc_event_loop_lag_seconds_count") > 0
    count = {"method": "POST", "route": "/v1/jobs", "status": "201"}
    assert value(over, "hpcqc_http_requests_total", **count) == 2
    lost = {"method": "GET", "route": "unmatched", "status": "404"}
    assert value(over, "hpcqc_http_requests_total", **lost) == 1
    client.close()


def test_metrics_are_for_operators(service: Service) -> None:
    address = f"{service.url}/metrics"
    assert httpx.get(address).status_code == 401
    refused = httpx.get(address, headers=token(service, "user"))
    assert refused.status_code == 403
    assert refused.json()["error_type"] == "Forbidden"


@pytest.mark.slow
def test_the_service_logs_each_turn_of_a_job_as_a_line_of_json(start_service: Start) -> None:
    service = start_service(options="fail = [2]", broker='project = "default"')
    headers = token(service, "operator")
    client = service.client()
    first = client.submit(call(run="night"), bell())
    client.result(first)
    second = client.submit(call(1), bell())
    until(lambda: client.view(second).state.is_final)
    httpx.post(f"{service.url}/v1/qpus/aer/drain", json={"reason": "a b"}, headers=headers)
    client.close()
    service.stop()
    lines = [json.loads(line) for line in service.log if line.startswith("{")]
    mine = [line for line in lines if line.get("job") == first]
    assert [line["event"] for line in mine] == ["accepted", "started", "ended"]
    assert {(line["run"], line["qpu"], line["level"]) for line in mine} == {
        ("night", "fake", "info")
    }
    assert mine[1]["tag"] == f"{first}.0"
    assert mine[2]["state"] == "completed"
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    failed = next(line for line in lines if line.get("state") == "failed")
    assert (failed["job"], failed["level"]) == (second, "warning")
    drained = next(line for line in lines if line["event"] == "drained")
    assert (drained["qpu"], drained["by"], drained["reason"]) == ("aer", "eve", "a b")
    secret = headers["Authorization"].split()[1]
    assert not any(secret in line for line in service.log)


def told(*events: ev.Event, error: LedgerError | None = None) -> list[dict[str, Any]]:
    state = BrokerState()
    for event in events:
        state.apply(event, NOW)
    return list(log_entries(Commit(events=events, at=NOW, duration_s=0.0, error=error), state))


def submitted(job: str = "j1", **changes: Any) -> ev.JobSubmitted:
    values: dict[str, Any] = {
        "job": JobId(job),
        "run": "r",
        "stage": "s",
        "call": 0,
        "qpu": "vlq",
        "backend": "aer",
        "payload_kind": "sampler",
        "digest": "d",
        "pubs": (ItemShape(points=1, shots=10),),
        "num_qubits": 1,
        "seed": None,
        "project": "p",
        "user": "u",
    }
    return ev.JobSubmitted(**values | changes)


def planned(*jobs: str) -> ev.TaskPlanned:
    parts = tuple(
        ev.Part(job=JobId(job), pub=0, first_point=0, end_point=1, first_shot=0, end_shot=10)
        for job in jobs
    )
    return ev.TaskPlanned(tag="t", qpu="vlq", parts=parts)


def test_a_task_of_several_jobs_has_a_line_for_each() -> None:
    entries = told(
        submitted("j1"),
        submitted("j2"),
        planned("j1", "j2"),
        ev.TaskStarted(tag="t", qpu_task="q1"),
        ev.TaskCompleted(tag="t", usage=Usage(qpu_seconds=4.0)),
    )
    assert [(e["event"], e["job"]) for e in entries] == [
        ("accepted", "j1"),
        ("accepted", "j2"),
        ("started", "j1"),
        ("started", "j2"),
        ("ended", "j1"),
        ("ended", "j2"),
    ]
    assert entries[-1]["qpu_seconds"] == 2.0
    names = ("run", "stage", "job", "qpu", "user", "project", "tag")
    assert [entries[-1][name] for name in names] == ["r", "s", "j2", "vlq", "u", "p", "t"]


def test_doubt_and_its_end_are_told() -> None:
    entries = told(
        submitted(),
        planned("j1"),
        ev.TaskUncertain(tag="t", reason="no answer"),
        ev.TaskResolved(tag="t", verdict="failed", by="olga", reason="looked"),
        ev.JobCancelRequested(job=JobId("j1")),
    )
    told_of = [(e["level"], e["event"]) for e in entries[1:]]
    assert told_of == [("warning", "uncertain"), ("warning", "resolved"), ("info", "cancelled")]
    assert entries[2] == entries[2] | {"verdict": "failed", "by": "olga", "reason": "looked"}


def test_a_ledger_that_fails_is_told_and_what_was_not_written_is_not() -> None:
    (entry,) = told(submitted(), error=LedgerError("the disk is full"))
    assert (entry["level"], entry["event"]) == ("error", "ledger-failed")
    assert entry["reason"] == "the disk is full"


def test_what_users_write_cannot_forge_a_line() -> None:
    (entry,) = told(submitted(run='x\n{"event": "drained"} \x1b[31m'))
    for line in (json_line(entry), text_line(entry)):
        assert line.count("\n") == 1
        assert "\x1b" not in line
    assert text_line(entry).startswith('2026-05-04 12:00:00.000 INFO    accepted run="x\\n')


def test_a_reader_that_does_not_read_costs_lines_and_no_time() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, os.fdopen(read) as reader:
        log = LineWriter(stream, "json")
        for number in range(30_000):
            log.write({"time": "", "level": "info", "event": "e", "number": number})
        lines: list[str] = []
        drain = threading.Thread(target=lambda: lines.extend(reader))
        drain.start()
        log.close()
        stream.close()
        drain.join(PATIENCE_S)
    numbers = [json.loads(line).get("number") for line in lines if '"e"' in line]
    lost = [json.loads(line)["number"] for line in lines if "log-lines-dropped" in line]
    assert lost
    assert sum(lost) + len(numbers) == 30_000
    assert numbers == sorted(numbers)


def test_a_stream_that_is_gone_stops_the_log_alone() -> None:
    stream = io.StringIO()
    stream.close()
    log = LineWriter(stream, "text")
    for _ in range(3):
        log.write({"time": "", "level": "info", "event": "e"})
    log.close()


def test_what_is_about_a_qpu_or_an_account_is_logged_with_its_facts() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    events = (
        ev.LeaseOpened(
            lease="ada/loop", qpu="q", run="r", project="p", user="ada", until=now, idle_s=2.0
        ),
        ev.LeaseClosed(lease="ada/loop", qpu="q", reason="idle", at=now, held_s=3.0, used_s=1.0),
        ev.BudgetSet(account="project:p", unit="qpu-s", amount=5.0, by="olga"),
    )
    commit = Commit(events=events, at=now, duration_s=0.001)
    opened, closed, budget = (json.loads(json_line(e)) for e in log_entries(commit, BrokerState()))
    assert (opened["event"], opened["user"], opened["idle_s"]) == ("lease-opened", "ada", 2.0)
    assert (closed["event"], closed["reason"], closed["held_s"]) == ("lease-closed", "idle", 3.0)
    assert (budget["event"], budget["account"], budget["amount"]) == ("budget-set", "project:p", 5)


def test_every_event_has_a_line_of_its_own_or_is_logged_whole_on_purpose() -> None:
    assert {*logs._LINES, *logs._WHOLE, *logs._OWN} == set(get_args(ev.Event))


def test_jobs_that_end_without_a_task_are_counted() -> None:
    state = BrokerState()
    room = SimpleNamespace(qpus=(), events=SimpleNamespace(state=state))
    metrics = BrokerMetrics(cast("Broker", room))

    def happens(event: ev.Event, second: int) -> None:
        now = NOW + timedelta(seconds=second)
        effects = state.handle(event, now)
        metrics.observe(Commit(events=effects.events, at=now, duration_s=0.0))

    def ended(how: str) -> float | None:
        return metrics.registry.get_sample_value(
            "hpcqc_jobs_ended_total", {"qpu": "vlq", "state": how}
        )

    reuse = ev.Reuse(key="k", calibration="c1", source=JobId("j0"))
    happens(submitted("j1", reuse=reuse), 0)
    assert ended("completed") == 1
    happens(submitted("j2", calibration="c1"), 1)
    assert ended("failed") is None
    happens(ev.QpuRecalibrated(qpu="vlq", calibration="c2", before="c1"), 2)
    assert ended("failed") == 1
    assert ended("completed") == 1
