"""What a client of hpcqc meets when Pasqal's cloud, rehearsed, misbehaves: exactly one start."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import httpx
import pytest

from backends.analog.devices import shipped_device
from backends.api import (
    AccessDenied,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskFailed,
    TaskState,
    UnknownTask,
)
from backends.latest import LatestTasks
from backends.pasqal_cloud import create
from backends.pasqal_cloud.server import DEVICE_TYPE, PROJECT
from backends.payloads import AnalogPayload
from backends.plugins import PluginUnusable
from orchestrator.broker.core.views import JobState
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.rehearsed import rehearsed
from tests.vendors.analog_flows import AnalogRun, far_pair, most_frequent, sent
from tests.vendors.environments import interpreter_or_skip, judge

pytestmark = pytest.mark.slow

LOST = ("lost", "504", "error", "garbage", "partial", "unsent")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with rehearsed("pasqal-cloud", tmp_path_factory.mktemp("cloud")) as server:
        yield server


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """The rehearsed cloud shows a batch as soon as it is stored."""
    monkeypatch.setattr("backends.analog.remote._SETTLE_S", 0.0)


@pytest.fixture
def flow(cloud, tmp_path):
    entered = []

    def enter(*faults, **rules):
        made = AnalogRun(cloud, tmp_path, rules, "pasqal-cloud")
        cloud.misbehave(*faults)
        entered.append(made.__enter__())
        return made

    yield enter
    for one in entered:
        one.__exit__()
    cloud.behave()


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("429:submit:1,2",),
        ("503:submit:1",),
        ("slow:submit:1", "slow:result:1"),
        ("error:status:1", "garbage:status:2", "partial:status:3"),
        ("lost:result:1", "partial:result:2", "429:result:3", "garbage:result:4"),
        ("renew:submit:1", "renew:status:1", "renew:result:1"),
    ],
    ids=lambda faults: "+".join(faults) or "none",
)
def test_a_job_survives_what_may_be_tried_again(flow, faults) -> None:
    run = flow(*faults)
    job = sent(run)
    assert most_frequent(job) == "11"
    assert run.starts == 1
    assert job.view().usage.qpu_seconds == pytest.approx(run.qpu_seconds)


@pytest.mark.parametrize("kind", LOST)
def test_a_start_without_an_answer_is_found_by_its_tag(flow, kind) -> None:
    run = flow(f"{kind}:submit:1")
    job = sent(run)
    assert most_frequent(job) == "11"
    assert job.view().state is JobState.COMPLETED
    assert run.starts == 1


def test_a_search_that_fails_is_repeated(flow) -> None:
    run = flow("lost:submit:1", "503:find:1", "garbage:find:2")
    assert most_frequent(sent(run)) == "11"
    assert run.starts == 1


@pytest.fixture
def backend(cloud, tmp_path):
    cloud.behave()
    made = create(cloud.options, state_dir=tmp_path)
    yield made
    made.close()
    cloud.behave()


def payload() -> AnalogPayload:
    return AnalogPayload.coerce([far_pair(shipped_device("analog"))], shots=10)


def duplicate(cloud, tag) -> None:
    """Send a batch again, as a gateway or an SDK that repeats requests does."""
    token = json.loads((cloud.rehearsal.folder / "token.json").read_text())["access_token"]
    body = {
        "sequence_builder": payload().items[0].data.decode(),
        "jobs": [{"runs": 10}],
        "device_type": DEVICE_TYPE,
        "project_id": PROJECT,
        "tags": [tag],
    }
    url = f"{cloud.rehearsal.url}/core-fast/api/v1/batches"
    answer = httpx.post(
        url, json=body, headers={"Authorization": f"Bearer {token}"}, trust_env=False
    )
    answer.raise_for_status()


def test_surplus_batches_of_a_tag_are_cancelled_and_the_oldest_is_kept(cloud, backend) -> None:
    before = cloud.meter()
    cloud.misbehave("504:submit:1", "stuck:submit:1,2")
    with pytest.raises(QpuUnavailable):
        backend.start(backend.acquire(), payload(), "twice")
    duplicate(cloud, "twice")
    task = backend.find("twice")
    assert task is not None
    assert backend.find("twice") == task
    until(
        lambda: (
            cloud.meter()["states"].get("cancelled", 0) == 1 + before["states"].get("cancelled", 0)
        )
    )
    assert backend.status(task) is TaskState.RUNNING
    assert backend.start(backend.acquire(), payload(), "twice") == task
    backend.stop(task)
    until(lambda: backend.status(task) is TaskState.CANCELLED)
    backend.stop(task)
    assert cloud.meter()["starts"]["twice"] == 2


def test_a_batch_that_does_not_show_yet_is_not_taken_for_one_that_never_was(
    cloud, backend, monkeypatch
) -> None:
    monkeypatch.setattr("backends.analog.remote._SETTLE_S", 1000.0)
    cloud.misbehave("unsent:submit:1")
    with pytest.raises(QpuUnavailable):
        backend.start(backend.acquire(), payload(), "late")
    with pytest.raises(QpuUnavailable) as caught:
        backend.find("late")
    assert caught.value.retry_after_s == pytest.approx(1000.0, abs=100)
    with pytest.raises(QpuUnavailable):
        backend.start(backend.acquire(), payload(), "late")
    monkeypatch.setattr("backends.analog.remote._SETTLE_S", 0.0)
    assert backend.find("late") is None
    task = backend.start(backend.acquire(), payload(), "late")
    assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
    assert cloud.meter()["starts"]["late"] == 1


def test_a_batch_of_another_machine_is_found_by_its_tag(cloud, backend, tmp_path) -> None:
    """Where its result cannot be read; it must not be taken for one that never was."""
    task = backend.start(backend.acquire(), payload(), "elsewhere")
    options = {k: v for k, v in cloud.options.items() if k != "device"}
    other = create(options, state_dir=tmp_path / "other")
    assert other.find("elsewhere") == task
    with pytest.raises(UnknownTask):
        other.status(task)
    other.close()


def test_a_tag_that_was_never_sent_is_not_known(backend) -> None:
    assert backend.find("never") is None
    with pytest.raises(UnknownTask):
        backend.status("pasqal:00000000-0000-4000-8000-000000000009:never")


def test_a_failed_job_states_its_errors(flow) -> None:
    run = flow("failed:submit:1")
    with pytest.raises(TaskFailed, match="electronics"):
        sent(run).result(PATIENCE_S)
    assert (run.starts, run.qpu_seconds) == (1, 0)


def test_a_batch_is_not_unpacked_beyond_what_is_taken(cloud, monkeypatch) -> None:
    monkeypatch.setattr("backends.pasqal_cloud.server._MOST_BYTES", 1 << 20)
    token = json.loads((cloud.rehearsal.folder / "token.json").read_text())["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(1 << 27))
    tracemalloc.start()
    try:
        for body, status in ((bomb, 413), (b"no gzip", 400)):
            url = f"{cloud.options['url']}/api/v1/batches"
            sent = httpx.post(url, content=body, headers=headers, trust_env=False)
            assert sent.status_code == status
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 26


def test_a_revoked_token_is_one_clear_error(flow, cloud) -> None:
    run = flow("revoke:submit:1")
    job = sent(run)
    with pytest.raises(AccessDenied, match="401"):
        job.result(PATIENCE_S)
    assert run.starts == 0
    cloud.control.post("token").raise_for_status()
    assert most_frequent(sent(run, 101)) == "11"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"project": "c10d0000-0000-4000-8000-00000000ffff"}, AccessDenied),
        ({"device_type": "EMU_SV"}, QpuBusy),
    ],
    ids=["project", "device"],
)
def test_what_is_not_there_is_one_clear_error(cloud, tmp_path, changed, error) -> None:
    options = {k: v for k, v in cloud.options.items() if k != "device"}
    other = create({**options, **changed}, state_dir=tmp_path)
    with pytest.raises(error, match=naming("FRESNEL") if "device_type" in changed else "403"):
        other.start(other.acquire(), payload(), "tag")
    assert other.find("tag") is None
    other.close()


def test_what_the_cloud_refuses_is_rejected(backend, monkeypatch) -> None:
    monkeypatch.setattr("backends.analog.remote.check", lambda *_: None)
    wrong = far_pair(shipped_device("analog")).replace('"rydberg_level":60', '"rydberg_level":70')
    with pytest.raises(PayloadRejected, match=naming(60, 70)):
        backend.start(backend.acquire(), AnalogPayload.coerce([wrong], shots=10), "tag")


@pytest.mark.parametrize(
    "link", ["http://10.0.0.1/x", "file:///etc/passwd", 3, None, "http://[::1"]
)
def test_results_are_read_from_safe_places_alone(backend, monkeypatch, link) -> None:
    task = backend.start(backend.acquire(), payload(), "tag")
    assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED

    monkeypatch.setattr(backend, "_ended", LatestTasks())
    read = backend._site._data

    def data(answer, what):
        found = read(answer, what)
        return {"results_link": link} if what.startswith("the results") else found

    monkeypatch.setattr(backend._site, "_data", data)
    with pytest.raises(QpuUnavailable):
        backend.result(task)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, ["project"]),
        ({"project": "p"}, ["device_type"]),
        ({"project": "p", "device_type": "a b"}, ["device_type"]),
        ({"project": "p", "device_type": "F"}, ["token"]),
        ({"project": "p", "device_type": "F", "url": "http://10.0.0.1"}, ["10.0.0.1"]),
        ({"project": "p", "device_type": "F", "device": "nowhere"}, ["nowhere"]),
        ({"project": "p", "device_type": "F", "projekt": "x"}, ["projekt", "project"]),
        ({"project": "p", "device_type": "F", "time_scale": "1"}, ["time_scale"]),
    ],
)
def test_options_are_checked(tmp_path, options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        create(options, state_dir=tmp_path)


@pytest.mark.vendor
@pytest.mark.parametrize("faults", [(), ("504:submit:1",)], ids=["plain", "504"])
def test_pasqals_own_client_runs_against_the_rehearsed_cloud(tmp_path, request, faults) -> None:
    """It sends a batch again after a 504, which then runs twice; a backend of hpcqc does not."""
    python = interpreter_or_skip(request.config.cache, "pasqal-cloud==0.22.0")
    sequence = tmp_path / "sequence.json"
    sequence.write_text(far_pair(shipped_device("analog")))
    with rehearsed("pasqal-cloud", tmp_path / "server", faults=faults) as site:
        found = judge(
            python,
            "pasqal_cloud_runs.py",
            site.options["url"],
            PROJECT,
            DEVICE_TYPE,
            str(site.rehearsal.folder / "token.json"),
            str(sequence),
        )
        meter = site.meter()
    assert found["devices"] == [DEVICE_TYPE]
    assert [len(found["one"]), len(found["ten"])] == [1, 10]
    for counter in (*found["one"], *found["ten"]):
        assert sum(counter.values()) == 100
        assert counter.get("11", 0) > 85
    assert meter["starts"] == {"one": 2 if faults else 1, "ten": 10}
