"""The broker as a service, in its own process: the same results, one start per task, come what may."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import typer
from qiskit import QuantumCircuit

from backends.api import PayloadRejected, TaskCancelled, TaskFailed
from backends.payloads import SamplerPayload
from orchestrator.application.jobs import JobsOfRun
from orchestrator.broker.client.http import BrokerRefused, BrokerUnreachable, RemoteBroker
from orchestrator.broker.client.protocol import JobUncertain
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState
from orchestrator.cli.broker.jobs import queue
from orchestrator.cli.broker.qpus import broker_status
from orchestrator.config.loading import load_site
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.service.calls import bell, call, counts
from tests.service.conftest import Service, ServiceEnded, Start

pytestmark = pytest.mark.slow  # each test starts a service; what is inside has quick tests


def test_a_repeated_submission_is_the_same_job(service: Service) -> None:
    client = service.client()
    first = client.submit(call(), bell())
    assert client.submit(call(), bell()) == first
    again = service.client()  # as a process that takes the run up again
    assert again.submit(call(), bell()) == first
    assert counts(again.result(first)) == counts(client.result(first))
    assert client.submit(call(1), bell()) != first
    until(lambda: len(service.starts()) == 2)
    assert set(service.starts().values()) == {1}
    client.close()
    again.close()
    assert service.stop() == 0


def test_shots_are_sliced_and_merged_as_in_the_flow_s_own_process(start_service: Start) -> None:
    service = start_service(options="max_shots = 30")
    client = service.client()
    job = client.submit(call(), bell(100))
    assert sum(counts(client.result(job)).values()) == 100
    view = client.view(job)
    assert sorted(task.shots for task in view.tasks) == [10, 30, 30, 30]
    assert view.project == "default"
    assert view.user
    client.close()


def test_what_cannot_run_is_refused_with_its_class(service: Service) -> None:
    client = service.client()
    wide = QuantumCircuit(30)
    wide.measure_all()
    with pytest.raises(PayloadRejected, match=naming(29, "fake", 10)):
        client.submit(call(), SamplerPayload.coerce([wide], shots=1))
    with pytest.raises(BrokerRefused, match=naming("nowhere", "fake", "aer", "vlq")):
        client.submit(call(qpu="nowhere"), bell())
    client.close()


def test_a_failed_task_says_why_and_is_tried_again_when_asked(start_service: Start) -> None:
    service = start_service(options="fail = [1]")
    client = service.client()
    job = client.submit(call(), bell())
    with pytest.raises(TaskFailed, match="script"):
        client.result(job)
    assert client.submit(call(), bell()) == job
    assert sum(counts(client.result(job)).values()) == 100
    assert set(service.starts().values()) == {1}
    client.close()


def test_cancelling_reaches_the_qpu_and_says_when_it_was_too_late(start_service: Start) -> None:
    service = start_service(options="run_s = 60.0")
    client = service.client()
    job = client.submit(call(), bell())
    until(service.starts)
    assert client.cancel(job)
    with pytest.raises(TaskCancelled):
        client.result(job)
    assert client.view(job).tasks[0].state == "cancelled"
    assert not client.cancel(job)
    client.close()


def test_a_client_that_closes_takes_its_open_jobs_with_it(start_service: Start) -> None:
    service = start_service(options="run_s = 60.0")
    client, other = service.client(), service.client()
    job = client.submit(call(), bell())
    client.close()
    until(lambda: other.view(job).state is JobState.CANCELLED)
    other.close()


def test_a_broker_killed_under_a_waiting_client_costs_only_time(start_service: Start) -> None:
    service = start_service(options="run_s = 1.0")
    client = service.client()
    jobs = [client.submit(call(n), bell(seed=n)) for n in range(3)]
    results: list[dict[str, int]] = []
    waiter = threading.Thread(
        target=lambda: results.extend(counts(client.result(job)) for job in jobs)
    )
    waiter.start()
    until(service.starts)
    service.kill()
    service.start()
    waiter.join(PATIENCE_S)
    assert [sum(found.values()) for found in results] == [100, 100, 100]
    assert service.starts() == {f"{job}.0": 1 for job in jobs}
    assert all(client.view(job).tasks[0].starts == 1 for job in jobs)
    client.close()
    assert service.stop() == 0


def test_a_stopped_service_leaves_running_tasks_to_the_next_one(start_service: Start) -> None:
    service = start_service(options="run_s = 1.5")
    client = service.client()
    job = client.submit(call(), bell())
    until(service.starts)
    assert service.stop() == 0
    service.start()
    assert sum(counts(client.result(job)).values()) == 100
    assert service.starts() == {f"{job}.0": 1}
    client.close()


def test_two_services_on_one_ledger_are_one_too_many(service: Service) -> None:
    second = Service(state=service.state, site=service.site)
    with pytest.raises(ServiceEnded, match=r"Error: .*process \d+"):
        second.start()
    client = service.client()
    assert sum(counts(client.result(client.submit(call(), bell()))).values()) == 100
    client.close()


def test_a_drained_qpu_starts_nothing_until_it_is_resumed(service: Service) -> None:
    http = httpx.Client(
        transport=httpx.HTTPTransport(uds=str(service.state / "broker.sock")),
        base_url="http://localhost",
    )
    drained = http.post("/v1/qpus/fake/drain", json={"reason": "warm-up"}).json()
    assert (drained["state"], drained["reason"]) == ("drained", "warm-up")
    client = service.client()
    job = client.submit(call(), bell())
    with pytest.raises(TimeoutError, match=naming(job)):
        client.result(job, 0.5)
    assert service.starts() == {}
    assert http.post("/v1/qpus/fake/resume").json()["state"] == "online"
    assert sum(counts(client.result(job)).values()) == 100
    client.close()
    http.close()


def test_who_waits_while_a_qpu_is_closed_is_told_until_when(
    start_service: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closure = 'start = 2026-01-01T00:00:00Z\nend = 2999-01-01T00:00:20Z\ntitle = "cables"'
    service = start_service(rules=f"[[qpu.fake.schedule.window]]\n{closure}")
    client = service.client()
    job = client.submit(call(), bell())
    words = "fake is closed for maintenance (cables) until 2999-01-01 00:00:20 UTC"
    assert client.why(job).waits_for == (f"QPU {words}",)
    _, secret = service.tokens.add("bob", "user", ["optics"], now=datetime.now(UTC))
    monkeypatch.setenv("HPCQC_BROKER_URL", service.url)
    monkeypatch.setenv("HPCQC_BROKER_TOKEN", secret)
    told = JobsOfRun(load_site(service.site), "r")
    assert told.standstills(["fake", "aer"]) == [words]
    told.close()
    queue(site=service.site)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "no job of your projects waits or runs; of all users: 1 queued, 0 running",
        words,
    ]
    with pytest.raises(typer.Exit) as caught:
        broker_status(site=service.site)
    assert caught.value.exit_code == 0
    assert "closed until 2999-01-01 00:00:20 UTC" in capsys.readouterr().out
    client.close()


@pytest.mark.parametrize(
    ("verdict", "ends"), [("failed", JobState.FAILED), ("not-started", JobState.COMPLETED)]
)
def test_an_operator_resolves_what_is_uncertain(
    start_service: Start, verdict: str, ends: JobState
) -> None:
    options = 'can_find = false, faults = [{ call = "start", kind = "refused", on = [1] }]'
    service = start_service(options=options)
    client = service.client()
    job = client.submit(call(), bell())
    with pytest.raises(JobUncertain, match="tag"):
        client.result(job)
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(service.state / "broker.sock")),
        base_url="http://localhost",
    ) as http:
        body: dict[str, Any] = {"verdict": verdict, "reason": "the device's log says so"}
        for wrong in ({"used_s": -1}, {"verdict": "not-started", "used_s": 1, "charged": 1}):
            refused = http.post(f"/v1/jobs/{job}/resolve", json=body | wrong)
            assert refused.status_code == 422, refused.text
        if verdict == "failed":
            body |= {"used_s": 101.28, "charged": 7.5}
        answer = http.post(f"/v1/jobs/{job}/resolve", json=body)
        assert answer.status_code == 200, answer.text
        until(lambda: client.view(job).state is ends)
        assert http.post(f"/v1/jobs/{job}/resolve", json=body).status_code == 409
    if verdict == "failed":
        (use,) = client.projects()
        assert (use.qpu_seconds, use.charges) == (101.28, {"qpu-s": 7.5})
        (line,) = client.statement()
        assert (line.qpu_seconds, line.charged, line.tasks) == (101.28, 7.5, 1)
        (row,) = [one for one in use.budgets if one.unit == "qpu-s"]
        assert row.spent == 7.5
    client.close()


def test_no_service_is_told_in_one_sentence(tmp_path: Any) -> None:
    with pytest.raises(
        BrokerUnreachable, match=naming(f"unix:{tmp_path / 'nothing.sock'}", "start")
    ):
        RemoteBroker(f"unix:{tmp_path / 'nothing.sock'}", patience_s=0.2).open()


def test_a_result_is_used_again(service: Service) -> None:
    asked = [JobRequest(run="r", stage=None, call=n, qpu="fake", may_reuse=True) for n in range(3)]
    client = service.client()
    first = client.submit(asked[0], bell())
    found = counts(client.result(first))
    again = client.submit(asked[1], bell())
    assert counts(client.result(again)) == found
    view = client.view(again)
    assert (view.source, view.usage.shots, view.state) == (first, 0, JobState.COMPLETED)
    assert client.view(client.submit(asked[2], bell(seed=2))).source is None
    client.close()
