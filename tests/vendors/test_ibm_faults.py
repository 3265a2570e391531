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
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import resolve_secrets
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


@pytest.fixture
def with_sessions(site, tmp_path):
    """Make backends on one folder whose leases are sessions of IBM's, and whose rest are batches."""
    site.behave()
    made = []

    def make(**options):
        named = {"session_s": 600, **options}
        made.append(registry.create("ibm", {**site.options, **named}, state_dir=tmp_path))
        return made[-1]

    yield make
    site.behave()
    for backend in made:
        backend.close()


def at_ibm(backend, task) -> dict | None:
    """Return what the service says of the session that a task is in, None if it is in none."""
    session = backend._look(task)["session_id"]
    if session is None:
        return None
    return backend._service.asking(backend._service.client.session_details, session)


def sessions_opened(site) -> int:
    return site.meter()["requests"].get("session", 0)


def test_starts_at_the_same_time_share_a_session_of_ibms(with_sessions, site) -> None:
    made = with_sessions()
    session, work = made.acquire_lease("at-once", 60.0), payload(made)
    site.misbehave("slow:session:1")
    opened = sessions_opened(site)
    with ThreadPoolExecutor(2) as threads:
        starts = [threads.submit(made.start, session, work, f"at-once{n}") for n in range(2)]
    tasks = [start.result() for start in starts]
    assert sessions_opened(site) == opened + 1
    assert at_ibm(made, tasks[0])["id"] == at_ibm(made, tasks[1])["id"]


def test_tasks_of_a_lease_run_in_a_session_of_ibms_and_others_alone(with_sessions, site) -> None:
    made = with_sessions()
    alone, leased, work = made.acquire(), made.acquire_lease("loop", 42.5), payload(made)
    opened = sessions_opened(site)
    tasks = [made.start(leased, work, f"in-session{number}") for number in range(2)]
    assert at_ibm(made, made.start(alone, work, "alone")) is None
    assert sessions_opened(site) == opened + 1
    first = at_ibm(made, tasks[0])
    assert first["mode"] == "dedicated"
    assert 0 < first["max_ttl"] <= 43, "the lease's time, not the option's"
    assert at_ibm(made, tasks[1])["id"] == first["id"]
    assert until(lambda: all(made.status(task).is_final for task in tasks))
    made._service.asking(made._service.client.close_session, first["id"])  # as IBM does
    task = made.start(leased, work, "in-another")
    assert at_ibm(made, task)["id"] != first["id"]
    made.release(leased)
    assert not at_ibm(made, task)["accepting_jobs"]
    assert until(lambda: made.status(task) is TaskState.COMPLETED)


@pytest.mark.parametrize(
    ("type_", "variables"),
    [
        ("ibm-quantum-compute-service", "QRMI_IBM_QCS"),
        ("qiskit-runtime-service", "QRMI_IBM_QRS"),
    ],
)
def test_what_qrmis_plugin_acquired_for_a_job_is_used_and_left_open(
    with_sessions, site, tmp_path, monkeypatch, type_, variables
) -> None:
    theirs = with_sessions()
    first = theirs.start(theirs.acquire_lease(type_, 60.0), payload(theirs), f"first-{type_}")
    session = at_ibm(theirs, first)["id"]
    stated = {
        f"{variables}_ENDPOINT": site.options["url"],
        f"{variables}_IAM_ENDPOINT": site.options["iam_url"],
        f"{variables}_SERVICE_CRN": site.options["instance"],
        f"{variables}_IAM_APIKEY": theirs._service._tokens.get(),  # the key itself, when rehearsed
        "QRMI_JOB_ACQUISITION_TOKEN": session,
    }
    monkeypatch.setenv("QRMI_JOB_QPU_RESOURCES", "ibm_fez")
    monkeypatch.setenv("QRMI_JOB_QPU_TYPES", type_)
    for name, value in stated.items():
        monkeypatch.setenv(f"ibm_fez_{name}", value)
    monkeypatch.chdir(tmp_path)
    qpu = load_site(None).qpu("ibm_fez")

    def of_the_job():
        return registry.create("ibm", resolve_secrets(qpu.options), state_dir=tmp_path / "job")

    assert qpu.backend == "ibm"
    ours = of_the_job()
    opened = ours.acquire()
    task = ours.start(opened, payload(ours), f"in-theirs-{type_}")
    assert at_ibm(ours, task)["id"] == session
    ours.release(opened)
    ours.close()
    assert at_ibm(theirs, task)["accepting_jobs"], "who opened it closes it"
    theirs._service.asking(theirs._service.client.close_session, session)
    late = of_the_job()
    with pytest.raises(AccessDenied, match=session):
        late.start(late.acquire(), payload(late), f"late-{type_}")
    late.close()


def test_tasks_outside_leases_run_in_a_batch_if_asked_for(with_sessions) -> None:
    made = with_sessions(session_s=None, batch_s=300)
    session, work = made.acquire(), payload(made)
    one, two = (made.start(session, work, f"in-batch{number}") for number in range(2))
    assert at_ibm(made, one)["id"] == at_ibm(made, two)["id"]
    assert (at_ibm(made, one)["mode"], at_ibm(made, one)["max_ttl"]) == ("batch", 300)
    made.release(session)
    assert not at_ibm(made, one)["accepting_jobs"]


def test_a_session_of_a_process_that_died_is_used_on_by_its_lease(with_sessions, site) -> None:
    dead, later = with_sessions(), with_sessions()
    work = payload(dead)
    one = dead.start(dead.acquire_lease("goes-on", 600.0), work, "before-death")
    opened = sessions_opened(site)
    session = later.acquire_lease("goes-on", 500.0)
    other = later.start(later.acquire_lease("other", 500.0), work, "of-another")
    two = later.start(session, work, "after-death")
    assert at_ibm(later, two)["id"] == at_ibm(later, one)["id"] != at_ibm(later, other)["id"]
    assert sessions_opened(site) == opened + 1
    later.release(session)
    assert not at_ibm(later, one)["accepting_jobs"]
    assert at_ibm(later, other)["accepting_jobs"]


def test_a_session_whose_lease_is_over_is_closed_by_any_later_process(with_sessions) -> None:
    dead, later = with_sessions(), with_sessions()
    task = dead.start(dead.acquire_lease("short", 0.1), payload(dead), "short")
    assert at_ibm(dead, task)["accepting_jobs"]
    assert until(lambda: later.acquire() and not at_ibm(later, task)["accepting_jobs"])


@pytest.mark.parametrize("again", ["acquire", "close"])
def test_a_session_of_ibms_that_could_not_be_closed_is_closed_later(
    with_sessions, monkeypatch, again
) -> None:
    made, other = with_sessions(), with_sessions()
    session, client = made.acquire_lease(f"left-{again}", 600.0), made._service.client
    task = made.start(session, payload(made), f"left-open-{again}")
    assert until(lambda: made.status(task).is_final)
    with monkeypatch.context() as patch:
        patch.setattr(client, "close_session", _unreachable)
        with pytest.raises(QpuUnavailable):
            made.release(session)
    assert at_ibm(other, task)["accepting_jobs"]
    getattr(made, again)()
    assert not at_ibm(other, task)["accepting_jobs"]


def test_a_lease_of_a_run_is_a_session_of_ibms(site, tmp_path) -> None:
    site.behave()
    with rehearsed_flow(site, tmp_path, "ibm", session_s=600) as flow:
        opened = sessions_opened(site)
        assert most_frequent(flow.sampler.run([flipped()], shots=50)) == "001"
        assert sessions_opened(site) == opened
        with flow.qpu.lease(longest_s=60, idle_s=60):
            for shots in (51, 52):
                assert most_frequent(flow.sampler.run([flipped()], shots=shots)) == "001"
        assert sessions_opened(site) == opened + 1
        backend = flow.qpu.broker.backend("rehearsed")
        tasks = [one["id"] for one in backend._tagged("hpcqc")]
        sessions = [at_ibm(backend, f"ibm:{job}:tag") for job in tasks[:3]]
        assert [found is None for found in sessions] == [False, False, True]
        assert until(lambda: not at_ibm(backend, f"ibm:{tasks[0]}:tag")["accepting_jobs"])
        assert set(flow.starts.values()) == {1}


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
