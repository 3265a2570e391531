"""What a QPU behind another broker makes of that broker's answers, and of its options."""

from __future__ import annotations

import json

import pytest

from backends.api import (
    AccessDenied,
    CalibrationChanged,
    InsufficientMemory,
    PayloadRejected,
    QpuBusy,
    QpuTaskId,
    QpuUnavailable,
    TaskFailed,
    TaskState,
    UnknownTask,
)
from backends.fake.script import script_target
from backends.hpcqc import create
from backends.plugins import PluginUnusable
from backends.registry import describe
from backends.targets import target_to_json
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.config.qpu_tables import QpuSettings
from tests.answering import Raw, answering
from tests.broker.embedded_rooms import bell, call

JOB = "j0123456789abcdef0123"
TASK = QpuTaskId(f"hpcqc:{JOB}")
TARGET = target_to_json(script_target())


def problem(status: int, error_type: str, **headers: str) -> Raw:
    body = {"detail": "the reason", "title": "Title", "error_type": error_type}
    return Raw(json.dumps(body).encode(), status, headers)


def opened(url: str, folder, **options):
    return create({"url": url, "token": "secret", "qpu": "far", **options}, state_dir=folder)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(401, "TokenError"), AccessDenied),
        (problem(402, "BudgetExhausted"), AccessDenied),
        (problem(403, "DataRefused"), AccessDenied),
        (problem(404, "ApiError"), AccessDenied),
        (problem(409, "CalibrationChanged"), CalibrationChanged),
        (problem(413, "ApiError"), PayloadRejected),
        (problem(422, "PayloadRejected"), PayloadRejected),
        (problem(422, "InsufficientMemory"), InsufficientMemory),
        (problem(429, "TooManyJobs", **{"Retry-After": "7"}), QpuBusy),
        (problem(503, "QpuUnavailable", **{"Retry-After": "7"}), QpuBusy),
        (problem(507, "StorageFull"), QpuUnavailable),
        (Raw(b"<html>", 502), QpuUnavailable),
        (Raw(b"[]", 201), QpuUnavailable),
        (Raw(b'{"id": "../.."}', 201), QpuUnavailable),
    ],
)
def test_a_refusal_has_the_class_that_says_what_to_do(tmp_path, answer, error) -> None:
    with answering({"target": TARGET, "jobs": answer}) as (url, _):
        backend = opened(url, tmp_path)
        with pytest.raises(error) as caught:
            backend.start(backend.acquire(), bell(), "t")
        backend.close()
    assert type(caught.value) is error
    if "Retry-After" in answer.headers:
        assert caught.value.retry_after_s == 7.0


def test_nothing_that_was_surely_refused_is_looked_for(tmp_path) -> None:
    refused = problem(422, "PayloadRejected")
    with answering({"target": TARGET, "jobs": refused}) as (url, seen):
        backend = opened(url, tmp_path)
        with pytest.raises(PayloadRejected):
            backend.start(backend.acquire(), bell(), "t")
        seen.clear()
        assert backend.find("t") is None
        assert seen == []
        backend.close()


@pytest.mark.parametrize(
    ("listed", "error", "says"),
    [
        ([{"name": "far"}], AccessDenied, "does not say"),  # a version without labels
        ([{"name": "far", "accepts": ["jurisdiction:EU"]}], AccessDenied, "embargoed"),
        ([{"name": "other", "accepts": ["embargoed"]}], QpuBusy, "cannot be read"),
        ({"accepts": ["embargoed"]}, QpuBusy, "cannot be read"),
    ],
)
def test_labelled_data_is_not_sent_to_who_does_not_accept_it(tmp_path, listed, error, says) -> None:
    with answering({"target": TARGET, "qpus": listed, "jobs": {"id": JOB}}) as (url, seen):
        backend = opened(url, tmp_path)
        with pytest.raises(error, match=says):
            backend.start_labelled(backend.acquire(), bell(), "t", ("embargoed",))
        backend.close()
    assert "/v1/jobs" not in seen


def test_a_job_that_lost_its_labels_there_is_cancelled(tmp_path) -> None:
    accepted = [{"name": "far", "accepts": ["embargoed", "personal"]}]
    taken = {"id": JOB, "labels": ["personal"]}
    answers = {"target": TARGET, "qpus": accepted, "jobs": taken, "cancel": {}}
    with answering(answers) as (url, seen):
        backend = opened(url, tmp_path, labels=["personal"])
        with pytest.raises(AccessDenied, match="embargoed"):
            backend.start_labelled(backend.acquire(), bell(), "t", ("embargoed",))
        assert backend.find("t") is None
        backend.close()
    assert seen[-2:] == ["/v1/jobs", f"/v1/jobs/{JOB}/cancel"]


@pytest.mark.parametrize(
    ("error_type", "error"),
    [
        ("CalibrationChanged", CalibrationChanged),
        ("PayloadRejected", PayloadRejected),
        ("AllocationEnded", TaskFailed),
        ("QpuBusy", TaskFailed),
        (None, TaskFailed),
    ],
)
def test_a_failed_job_has_the_class_that_says_what_to_do(tmp_path, error_type, error) -> None:
    failed = {"id": JOB, "state": "failed", "error": "the reason", "error_type": error_type}
    with answering({JOB: failed}) as (url, _):
        backend = opened(url, tmp_path)
        assert backend.status(TASK) is TaskState.FAILED
        with pytest.raises(error, match="the reason") as caught:
            backend.result(TASK)
        assert type(caught.value) is error
        backend.close()


def test_a_calibration_that_changed_there_ends_the_job_here(tmp_path) -> None:
    failed = {"id": JOB, "state": "failed", "error": "anew", "error_type": "CalibrationChanged"}
    with answering({"target": TARGET, "jobs": {"id": JOB}, JOB: failed}) as (url, _):
        broker = EmbeddedBroker(
            run="run",
            state_dir=tmp_path,
            open_backend=lambda _: opened(url, tmp_path),
            qpus={"q": QpuSettings(name="q", backend="hpcqc")},
        ).open()
        with pytest.raises(CalibrationChanged):
            broker.result(broker.submit(call(), bell()), 60.0)
        broker.close()


def test_a_job_that_waits_again_is_still_running(tmp_path) -> None:
    states = iter(["queued", "running", "queued", "completed"])
    with answering({JOB: lambda _: {"id": JOB, "state": next(states)}}) as (url, _):
        backend = opened(url, tmp_path)
        seen = [backend.status(TASK) for _ in range(4)]
        backend.close()
    assert seen == [TaskState.QUEUED, TaskState.RUNNING, TaskState.RUNNING, TaskState.COMPLETED]


@pytest.mark.parametrize("state", ["uncertain", "paused", None, 7])
def test_an_unclear_state_is_no_state(tmp_path, state) -> None:
    with answering({JOB: {"id": JOB, "state": state}}) as (url, _):
        backend = opened(url, tmp_path)
        with pytest.raises(QpuUnavailable):
            backend.status(TASK)
        backend.close()


@pytest.mark.parametrize("call_name", ["status", "result", "stop"])
def test_a_job_that_the_far_broker_forgot_is_unknown(tmp_path, call_name) -> None:
    with answering({}) as (url, _):
        backend = opened(url, tmp_path)
        with pytest.raises(UnknownTask):
            getattr(backend, call_name)(TASK)
        backend.close()


@pytest.mark.parametrize(
    ("usage", "headers", "error"),
    [
        (None, {}, TaskFailed),
        ({"charges": [{"amount": "much"}]}, {}, TaskFailed),
        ({"charges": []}, {"Content-Digest": "sha-256=:AAAA:"}, QpuUnavailable),
    ],
)
def test_a_result_that_cannot_be_read_is_refused(tmp_path, usage, headers, error) -> None:
    done = {"id": JOB, "state": "completed", "usage": usage, "shots": 100, "num_qubits": 2}
    with answering({JOB: done, "result": Raw(b"HQC1", 200, headers)}) as (url, _):
        backend = opened(url, tmp_path)
        with pytest.raises(error):
            backend.result(TASK)
        backend.close()


def test_the_target_is_the_far_one_with_this_site_s_share(tmp_path) -> None:
    with answering({"target": TARGET}) as (url, seen):
        backend = opened(url, tmp_path, tasks=3)
        target = backend.target()
        backend.target()
        backend.close()
        assert describe("hpcqc", {"url": url, "token": "s", "qpu": "far", "tasks": 3}) == target
    assert target.name == "fake"
    assert target.max_concurrent_tasks == 3
    assert target.can_find
    assert target.durable
    assert seen == ["/v1/qpus/far/target"] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"qpu": ""},
        {"qpu": 7},
        {"token": ""},
        {"url": "http://other.example.org"},
        {"url": "far"},
        {"tasks": 0},
        {"tasks": True},
        {"labels": "eu"},
        {"labels": ["a b"]},
        {"project": "a b"},
        {"colour": "red"},
    ],
)
def test_a_wrong_option_is_named(tmp_path, options) -> None:
    with pytest.raises(PluginUnusable, match=next(iter(options))):
        opened(**{"url": "http://127.0.0.1:1", "folder": tmp_path} | options)


def test_tasks_of_two_folders_are_different_jobs(tmp_path) -> None:
    from backends.hpcqc.backend import BrokerBackend

    names = set()
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        backend = opened("http://127.0.0.1:1", folder)
        assert isinstance(backend, BrokerBackend)
        assert backend._client_id() == opened("http://127.0.0.1:1", folder)._client_id()
        names.add(backend._client_id())
        backend.close()
    assert len(names) == 2
