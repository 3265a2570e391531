"""What a client of hpcqc meets when IBM's service misbehaves: each task starts once."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from qiskit import QuantumCircuit

from backends import registry
from backends.api import (
    AccessDenied,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskFailed,
    TaskState,
)
from backends.lowering import NativeCompiler
from backends.payloads import SamplerPayload
from tests.answering import Raw, answering
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.rehearsed import rehearsed
from tests.rehearsed_flow import rehearsed_flow

ibm = pytest.importorskip("backends.ibm.backend", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.vendor]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with rehearsed("ibm-fez", tmp_path_factory.mktemp("ibm-fez")) as server:
        yield server


@pytest.fixture
def run(site, tmp_path):
    with rehearsed_flow(site, tmp_path, "ibm") as flow:
        yield flow


@pytest.fixture
def backend(site, tmp_path):
    site.behave()
    made = registry.create("ibm", site.options, state_dir=tmp_path)
    yield made
    site.behave()
    made.close()


def flipped() -> QuantumCircuit:
    """Three qubits, of which the first is flipped."""
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.measure_all()
    return circuit


def payload(backend, shots=10) -> SamplerPayload:
    return SamplerPayload.coerce(
        [NativeCompiler(backend.target()).compile(flipped())[0]], shots=shots
    )


def most_frequent(job) -> str:
    counts = job.result(PATIENCE_S)[0].data.meas.get_counts()
    return max(counts, key=counts.get)


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("429:submit:1,2",),
        ("503:submit:1",),
        ("slow:submit:1", "slow:result:1"),
        ("lost:submit:1",),
        ("504:submit:1",),
        ("error:submit:1",),
        ("garbage:submit:1",),
        ("partial:submit:1",),
        ("lost:submit:1", "503:find:1", "garbage:find:2"),
        ("error:status:1", "garbage:status:2", "partial:status:3"),
        ("lost:result:1", "partial:result:2", "429:result:3", "garbage:result:4"),
        ("error:usage:1", "garbage:usage:2"),
        ("renew:submit:1", "renew:status:1", "renew:result:1"),
        ("503:token:1", "lost:token:2"),
    ],
    ids=lambda faults: "+".join(faults) or "none",
)
def test_each_task_starts_once_whatever_answer_is_lost(run, site, faults) -> None:
    site.misbehave(*faults)
    job = run.sampler.run([flipped()], shots=100)
    assert most_frequent(job) == "001"
    assert list(run.starts.values()) == [1]
    usage = job.view().usage
    assert {charge.unit: charge.amount for charge in usage.charges} == pytest.approx(
        {"qpu-s": run.charged("qpu-s")}
    )


def test_a_start_that_never_arrived_is_made_again(run, site, monkeypatch) -> None:
    monkeypatch.setattr(ibm, "_SETTLES_S", 0.1)
    site.misbehave("unsent:submit:1")
    job = run.sampler.run([flipped()], shots=100)
    assert most_frequent(job) == "001"
    assert list(run.starts.values()) == [1]


def test_a_job_that_is_not_listed_yet_is_waited_for(backend, site) -> None:
    session, work = backend.acquire(), payload(backend)
    site.misbehave("unsent:submit:1")
    with pytest.raises(QpuUnavailable):
        backend.start(session, work, "late")
    with pytest.raises(QpuUnavailable) as caught:
        backend.find("late")
    assert caught.value.retry_after_s


def test_of_a_request_that_was_carried_out_twice_the_surplus_is_cancelled(backend, site) -> None:
    session, work = backend.acquire(), payload(backend)
    site.misbehave("twice:submit:1", "stuck:submit:1")
    before = site.meter()["states"].get("cancelled", 0)
    with pytest.raises(QpuUnavailable):
        backend.start(session, work, "two")
    task = backend.find("two")
    assert until(lambda: site.meter()["states"].get("cancelled", 0) == before + 1)
    assert not backend.status(task).is_final
    assert backend.start(session, work, "two") == task
    assert site.meter()["starts"]["two"] == 2, "the gateway's, not ours"
    backend.stop(task)
    assert until(lambda: backend.status(task) is TaskState.CANCELLED)


def test_what_is_asked_before_a_start_leaves_no_doubt_about_it(backend, site) -> None:
    """Only the start itself may be unknown; what fails before it started nothing."""
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    work = SamplerPayload.coerce([circuit], shots=5)
    session = backend.acquire()
    site.misbehave("error:target:1", "lost:other:1")
    for _ in range(2):
        with pytest.raises(QpuBusy):
            backend.start(session, work, "tag")
    task = backend.start(session, work, "tag")
    assert until(lambda: backend.status(task) is TaskState.COMPLETED)
    assert site.meter()["starts"]["tag"] == 1


def test_a_revoked_key_is_one_clear_error(run, site) -> None:
    site.misbehave("revoke:submit:1")
    with pytest.raises(AccessDenied, match="401"):
        run.sampler.run([flipped()], shots=100).result(PATIENCE_S)
    assert run.starts == {}
    site.control.post("token").raise_for_status()
    assert most_frequent(run.sampler.run([flipped()], shots=101)) == "001"


def test_a_failed_job_says_why_and_is_not_charged(run, site) -> None:
    site.misbehave("failed:submit:1")
    with pytest.raises(TaskFailed, match="electronics"):
        run.sampler.run([flipped()], shots=100).result(PATIENCE_S)
    assert run.charged("qpu-s") == 0


def test_open_tasks_are_asked_for_with_one_request(backend, site, monkeypatch) -> None:
    monkeypatch.setattr(ibm, "_LIST_FRESH_S", 1000.0)
    session, work = backend.acquire(), payload(backend)
    site.misbehave("stuck:submit:1,2,3")
    tasks = [backend.start(session, work, f"many{number}") for number in range(3)]
    before = site.meter()["requests"]
    for task in tasks * 4:
        assert not backend.status(task).is_final
    after = site.meter()["requests"]
    assert after.get("status", 0) == before.get("status", 0)
    assert after.get("find", 0) <= before.get("find", 0) + 1
    with pytest.raises(QpuBusy):
        backend.start(session, work, "many3")
    for task in tasks:
        backend.stop(task)


def test_an_endless_answer_of_the_identity_service_is_not_read_to_its_end(
    backend, monkeypatch
) -> None:
    monkeypatch.setattr("backends.ibm.access._LARGEST_ANSWER_BYTES", 10)
    with pytest.raises(QpuUnavailable, match=naming(10)):
        backend._service._tokens.get()


def test_threads_share_one_list_of_open_tasks(backend, site, monkeypatch) -> None:
    monkeypatch.setattr(ibm, "_LIST_FRESH_S", 1000.0)
    session, work = backend.acquire(), payload(backend)
    site.misbehave("stuck:submit:1,2,3", "slow:find:1")
    tasks = [backend.start(session, work, f"shared{number}") for number in range(3)]
    before = site.meter()["requests"].get("find", 0)
    with ThreadPoolExecutor(3) as threads:
        assert not any(state.is_final for state in threads.map(backend.status, tasks))
    assert site.meter()["requests"]["find"] == before + 1
    for task in tasks:
        backend.stop(task)


def test_starts_at_the_same_time_share_a_session_of_ibms(site, tmp_path) -> None:
    site.misbehave("slow:session:1")
    options = {**site.options, "session_s": 600}
    made = registry.create("ibm", options, state_dir=tmp_path)
    session, work = made.acquire(), payload(made)
    opened = site.meter()["requests"].get("session", 0)
    with ThreadPoolExecutor(2) as threads:
        starts = [threads.submit(made.start, session, work, f"at-once{n}") for n in range(2)]
    tasks = [start.result() for start in starts]
    assert site.meter()["requests"]["session"] == opened + 1
    assert len({made._look(task)["session_id"] for task in tasks}) == 1
    made.release(session)
    made.close()


def test_tasks_run_in_a_session_of_ibms_if_asked_for(site, tmp_path) -> None:
    site.behave()
    options = {**site.options, "session_s": 600}
    made = registry.create("ibm", options, state_dir=tmp_path)
    session, work = made.acquire(), payload(made)
    opened = site.meter()["requests"].get("session", 0)
    tasks = [made.start(session, work, f"in-session{number}") for number in range(2)]
    assert site.meter()["requests"]["session"] == opened + 1
    (first,) = made._ibm_sessions.values()
    for task in tasks:
        assert until(lambda task=task: made.status(task).is_final)
        assert made._look(task)["session_id"] == first
    made._service.asking(made._service.client.close_session, first)  # as IBM does with idle ones
    task = made.start(session, work, "in-another")
    assert until(lambda: made.status(task) is TaskState.COMPLETED)
    assert made._look(task)["session_id"] not in (None, first)
    made.release(session)
    made.close()


@pytest.mark.parametrize("again", ["acquire", "close"])
def test_a_session_of_ibms_that_could_not_be_closed_is_closed_later(
    site, tmp_path, monkeypatch, again
) -> None:
    site.behave()
    made = registry.create("ibm", {**site.options, "session_s": 600}, state_dir=tmp_path)
    session, client = made.acquire(), made._service.client
    task = made.start(session, payload(made), f"left-open-{again}")
    (opened,) = made._ibm_sessions.values()
    assert until(lambda: made.status(task).is_final)
    with monkeypatch.context() as patch:
        patch.setattr(client, "close_session", _unreachable)
        with pytest.raises(QpuUnavailable):
            made.release(session)
    assert made._accepts_jobs(opened)
    getattr(made, again)()
    other = registry.create("ibm", {**site.options, "session_s": 600}, state_dir=tmp_path)
    assert not other._accepts_jobs(opened)
    other.close()
    made.close()


def _unreachable(*_given) -> None:
    raise requests.ConnectionError("the network is down")


def test_an_unknown_device_is_named_with_those_there_are(site, tmp_path) -> None:
    site.behave()
    made = registry.create("ibm", {**site.options, "device": "ibm_fes"}, state_dir=tmp_path)
    with pytest.raises(QpuUnavailable, match=r"(?s)ibm_fes.*ibm_fez"):
        made.target()
    made.close()


def test_a_loop_that_the_device_lacks_is_refused(backend, site) -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    with circuit.while_loop((circuit.clbits[0], 1)):
        circuit.x(0)
        circuit.measure(0, 0)
    work = SamplerPayload.coerce([circuit], shots=1)
    with pytest.raises(PayloadRejected, match="while_loop"):
        backend.start(backend.acquire(), work, "loop")
    assert "loop" not in site.meter()["starts"]


def test_a_result_that_would_fill_the_memory_is_refused_unread(tmp_path) -> None:
    bomb = b64encode(zlib.compress(bytes(256 << 20))).decode()
    result = {"data": [{"results": {"meas": {"data": bomb, "shape": [1 << 32], "dtype": "bool"}}}]}
    answers = {
        "token": {"access_token": "t", "expires_in": 3600, "expiration": 2**33},
        "d8abcdefghij": {"id": "d8abcdefghij", "state": {"status": "Completed"}},
        "results": Raw(json.dumps(result).encode()),
    }
    with answering(answers) as (url, seen):
        backend = registry.create(
            "ibm",
            {
                "device": "ibm_test",
                "instance": "crn:v1:bluemix:public:quantum-computing:us-east:a/0:1::",
                "url": url,
                "iam_url": url,
                "token": "key",
            },
            state_dir=tmp_path,
        )
        with pytest.raises(TaskFailed, match="unpack to more than"):
            backend.result("ibm:d8abcdefghij:tag")
        backend.close()
    assert any(path.endswith("/results") for path in seen)
