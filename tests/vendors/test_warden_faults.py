"""What a client of hpcqc meets when a rehearsed Warden misbehaves: never a second start."""

from __future__ import annotations

import json

import pytest

from backends.api import (
    AccessDenied,
    BackendError,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskFailed,
    TaskState,
)
from backends.latest import LatestTasks
from backends.payloads import AnalogPayload
from backends.plugins import PluginUnusable
from backends.warden import create
from orchestrator.broker.client.protocol import JobUncertain
from orchestrator.broker.core.views import JobState
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.rehearsed import rehearsed
from tests.vendors.analog_flows import AnalogRun, far_pair, most_frequent, sent

pytestmark = pytest.mark.slow

LOST = ("lost", "504", "error", "garbage", "partial", "unsent")


@pytest.fixture(scope="module")
def warden(tmp_path_factory):
    with rehearsed("warden", tmp_path_factory.mktemp("warden")) as server:
        yield server


@pytest.fixture
def flow(warden, tmp_path):
    entered = []

    def enter(*faults, **rules):
        made = AnalogRun(warden, tmp_path, rules, "warden")
        warden.misbehave(*faults)
        entered.append(made.__enter__())
        return made

    yield enter
    for one in entered:
        one.__exit__()
    warden.behave()


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("429:submit:1,2",),
        ("503:submit:1",),
        ("slow:submit:1", "slow:status:1"),
        ("error:status:1", "garbage:status:2", "partial:status:3", "lost:status:4"),
        ("renew:submit:1", "renew:status:1"),
    ],
    ids=lambda faults: "+".join(faults) or "none",
)
def test_a_job_survives_what_may_be_tried_again(flow, faults) -> None:
    run = flow(*faults)
    job = sent(run)
    assert most_frequent(job) == "11"
    assert run.starts == 1
    assert job.view().usage.qpu_seconds == pytest.approx(run.qpu_seconds)
    assert job.view().usage.shots == 100


@pytest.mark.parametrize("kind", LOST)
def test_a_start_without_an_answer_is_uncertain_and_never_repeated(flow, kind) -> None:
    run = flow(f"{kind}:submit:1")
    job = sent(run)
    with pytest.raises(JobUncertain):
        job.result(PATIENCE_S)
    assert job.view().state is JobState.UNCERTAIN
    assert most_frequent(sent(run, 101)) == "11", "others go on"
    assert run.starts == (1 if kind == "unsent" else 2)


def test_a_job_of_several_sequences_is_one_job_each_there(flow) -> None:
    run = flow()
    device = run.sampler.qpu.target.rydberg
    job = run.sampler.run([far_pair(device), (far_pair(device, 2000), 3000)], shots=100)
    first, second = job.result(PATIENCE_S)
    assert (first.shots, second.shots) == (100, 3000)
    assert run.starts == 3  # the machine takes 2000 shots at once
    assert max(second.counts, key=second.counts.__getitem__) == "00"  # a turn of 2π


def test_a_revoked_token_is_one_clear_error(flow, warden) -> None:
    run = flow("revoke:submit:1")
    job = sent(run)
    with pytest.raises(AccessDenied, match="401"):
        job.result(PATIENCE_S)
    assert run.starts == 0
    warden.control.post("token").raise_for_status()
    assert most_frequent(sent(run, 101)) == "11"


def test_a_failed_job_states_what_the_log_says(flow) -> None:
    run = flow("failed:submit:1")
    with pytest.raises(TaskFailed, match="electronics"):
        sent(run).result(PATIENCE_S)
    assert (run.starts, run.qpu_seconds) == (1, 0)


def test_work_waits_for_the_end_of_a_maintenance(flow, warden) -> None:
    run = flow("maintenance:submit:1")
    job = sent(run)
    until(lambda: warden.meter()["requests"]["submit"] > 2)
    assert run.starts == 0
    warden.behave()
    assert most_frequent(job) == "11"
    assert run.starts == 1


def test_a_stuck_job_is_in_doubt_and_can_be_cancelled(flow, warden) -> None:
    run = flow("stuck:submit:1", longest_task_s=0.5)
    job = sent(run)
    with pytest.raises((JobUncertain, BackendError)):
        job.result(PATIENCE_S)
    job.cancel()
    until(lambda: "cancelled" in warden.meter()["states"])
    assert run.starts == 1


@pytest.fixture
def backend(warden, tmp_path):
    warden.behave()
    made = create(warden.options, state_dir=tmp_path)
    yield made
    made.close()
    warden.behave()


def payload(backend) -> AnalogPayload:
    return AnalogPayload.coerce([far_pair(backend.target().rydberg)], shots=10)


def test_what_is_asked_before_a_start_leaves_no_doubt_about_it(warden, tmp_path, backend) -> None:
    known = payload(backend)
    options = {name: value for name, value in warden.options.items() if name != "device"}
    fresh = create(options, state_dir=tmp_path / "fresh")
    warden.misbehave("error:target")
    with pytest.raises(QpuUnavailable):
        fresh.target()
    with pytest.raises(QpuBusy):
        fresh.start(fresh.acquire(), known, "tag")
    warden.behave()
    task = fresh.start(fresh.acquire(), known, "tag")
    until(lambda: fresh.status(task) is TaskState.COMPLETED)
    assert fresh.target().rydberg == backend.target().rydberg
    fresh.close()


@pytest.mark.parametrize("session", ["5e551000-0000-4000-8000-00000000ffff"])
def test_a_session_that_is_not_open_is_one_clear_error(warden, tmp_path, backend, session) -> None:
    other = create({**warden.options, "session": session}, state_dir=tmp_path / "other")
    with pytest.raises(AccessDenied, match=naming("403", "session")):
        other.start(other.acquire(), payload(backend), "tag")
    assert other.find("tag") is None
    other.close()


def test_what_the_machine_refuses_is_rejected(warden, backend, monkeypatch) -> None:
    """The server checks by itself, also where the client was given another device."""
    wrong = far_pair(backend.target().rydberg).replace('"rydberg_level":60', '"rydberg_level":70')
    monkeypatch.setattr("backends.analog.remote.check", lambda *_: None)
    with pytest.raises(PayloadRejected, match=naming(60, 70)):
        backend.start(backend.acquire(), AnalogPayload.coerce([wrong], shots=10), "tag")
    assert backend.find("tag") is None


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": "FLYING"},
        {"status": "DONE", "results": None},
        {"status": "DONE", "results": "[]"},
        {"status": "DONE", "results": json.dumps({"counter": {"2": 1}})},
        {"status": "DONE", "results": json.dumps({"counter": {"11": "many"}})},
        {"status": "DONE", "results": json.dumps({"counter": {"11": -1}})},
        {"status": "DONE", "results": json.dumps({"counter": [1]})},
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_asked_for_again(backend, monkeypatch, answer) -> None:
    task = backend.start(backend.acquire(), payload(backend), "tag")
    until(lambda: backend.status(task) is TaskState.COMPLETED)
    with monkeypatch.context() as changed:
        changed.setattr("backends.warden.server._described", lambda _job: {"id": 1, **answer})
        changed.setattr(backend, "_ended", LatestTasks())
        with pytest.raises(QpuUnavailable):
            backend.result(task)
    assert backend.result(task).usage.shots == 10


@pytest.mark.parametrize("counts", [{"11": 9}, {"111": 10}])
def test_counts_of_another_job_are_a_failure(backend, monkeypatch, counts) -> None:
    task = backend.start(backend.acquire(), payload(backend), "tag")
    until(lambda: backend.status(task) is TaskState.COMPLETED)
    results = json.dumps({"counter": counts})
    described = {"id": 1, "status": "DONE", "results": results}
    monkeypatch.setattr("backends.warden.server._described", lambda _job: described)
    monkeypatch.setattr(backend, "_ended", LatestTasks())
    with pytest.raises(TaskFailed, match=naming(10, 2)):
        backend.result(task)


@pytest.mark.parametrize("accepted", [{}, {"id": None}, {"id": "../jobs"}, {"id": True}])
def test_a_job_without_a_usable_id_is_uncertain(backend, monkeypatch, accepted) -> None:
    monkeypatch.setattr("backends.warden.server._described", lambda _job: accepted)
    with pytest.raises(QpuUnavailable):
        backend.start(backend.acquire(), payload(backend), "tag")
    monkeypatch.undo()
    with pytest.raises(QpuUnavailable, match="not repeated"):
        backend.start(backend.acquire(), payload(backend), "tag")


def test_the_first_release_cannot_cancel(tmp_path, monkeypatch) -> None:
    import dataclasses

    from backends.warden import server

    old = dataclasses.replace(server.warden, can_cancel=False)
    monkeypatch.setattr("backends.rehearsal.rehearsed_site", lambda _name: old)
    with rehearsed("warden", tmp_path / "server", faults=["stuck:submit"]) as site:
        backend = create(site.options, state_dir=tmp_path)
        task = backend.start(backend.acquire(), payload(backend), "tag")
        with pytest.raises(QpuUnavailable, match="cannot be cancelled"):
            backend.stop(task)
        assert not backend.status(task).is_final
        backend.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, ["url"]),
        ({"url": "http://10.0.0.1:8006", "session": "a", "token": "t"}, ["10.0.0.1"]),
        ({"url": "ftp://10.0.0.1", "session": "a"}, ["ftp://10.0.0.1"]),
        ({"url": "http://", "session": "a"}, ["http://"]),
        ({"url": "http://127.0.0.1:1"}, ["session"]),
        ({"url": "http://127.0.0.1:1", "session": "a b"}, ["session"]),
        ({"url": "http://127.0.0.1:1", "session": "a", "devise": "x"}, ["devise", "device"]),
        ({"url": "http://127.0.0.1:1", "session": "a", "device": "nowhere"}, ["nowhere"]),
        ({"url": "http://127.0.0.1:1", "session": "a", "time_scale": -1}, ["time_scale"]),
        ({"url": "http://127.0.0.1:1", "session": "a", "munge_socket": 1}, ["munge_socket"]),
    ],
)
def test_options_are_checked(tmp_path, options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        create(options, state_dir=tmp_path)


def test_munges_credentials_may_go_over_plain_http_as_warden_speaks_it(tmp_path) -> None:
    options = {"url": "http://warden.example.org:8006", "session": "a", "device": "analog"}
    create(options, state_dir=tmp_path).close()
    assert create.describe(options).rydberg is not None
