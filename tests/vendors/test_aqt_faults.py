"""What a client of hpcqc meets when a rehearsed server of AQT misbehaves: never a second start."""

from __future__ import annotations

import threading
from collections import Counter

import httpx
import pytest
from qiskit import QuantumCircuit

from backends.api import AccessDenied, BackendError, QpuBusy, QpuUnavailable, TaskFailed, TaskState
from backends.aqt import create
from backends.lowering import NativeCompiler
from backends.payloads import SamplerPayload
from backends.profiles import profile_text
from backends.rehearsal import RehearsedDevice
from backends.site_access import Token
from hpcqc import Sampler, open_qpu
from orchestrator import resources, runs
from orchestrator.broker.client.protocol import JobUncertain
from orchestrator.broker.core.metered import Metered
from orchestrator.broker.core.views import JobState
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.patience import PATIENCE_S, until
from tests.rehearsed import RehearsedSite, rehearsed

pytestmark = pytest.mark.slow

# Few enough for the broker to send them as one task to a device that takes 0.18 s a shot.
BRIEF = 40
LOST = ("lost", "504", "error", "garbage", "partial", "unsent")


@pytest.fixture(scope="module")
def piast_q(tmp_path_factory):
    with rehearsed("piast-q", tmp_path_factory.mktemp("piast-q")) as server:
        yield server


@pytest.fixture(scope="module")
def ibex_q1(tmp_path_factory):
    with rehearsed("ibex-q1", tmp_path_factory.mktemp("ibex-q1")) as server:
        yield server


class Flow:
    """An active run on a server, and what the server's own books say of it."""

    def __init__(self, server: RehearsedSite, state_dir, rules) -> None:
        self.server, self._before = server, server.meter()
        name = server.rehearsal.site
        qpu = QpuSettings(name=name, backend="aqt", options=server.options, **rules)
        self._run = Run(
            id="faults",
            site=Site(
                name="test",
                default_qpu=name,
                default_compute="local",
                qpus={name: qpu},
                computes={"local": ComputeSettings(name="local", workers=1)},
                state_dir=state_dir,
                source="test",
            ),
        )

    def __enter__(self):
        runs.activate(self._run)
        self.sampler = Sampler(open_qpu())
        return self

    def __exit__(self, *_):
        resources.shutdown()
        runs.activate(None)

    def grown(self, name: str) -> float:
        """Return by how much a number of the meter grew since this began."""
        return self.server.meter()[name] - self._before[name]

    @property
    def starts(self) -> dict[str, int]:
        """Return how often each tag was started since this began; direct access has no tags."""
        now = Counter(self.server.meter()["starts"])
        now.subtract(self._before["starts"])
        return {label: number for label, number in now.items() if number}

    def charged(self) -> float:
        before = self._before["charges"].get("device-s", 0.0)
        return self.server.meter()["charges"].get("device-s", 0.0) - before


@pytest.fixture
def enter(tmp_path, monkeypatch):
    monkeypatch.setattr("backends.aqt.backend._TARGET_FRESH_S", 0.0)
    entered = []

    def enter(server, *faults, **rules):
        server.behave()
        made = Flow(server, tmp_path / "state", rules)
        entered.append(made.__enter__())
        if faults:  # nothing else ends faults
            server.misbehave(*faults)
        return made

    yield enter
    for one in entered:
        one.__exit__()
        one.server.behave()


def flipped() -> QuantumCircuit:
    """Three qubits, of which the first is flipped."""
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.measure_all()
    return circuit


def counts_of(job) -> dict[str, int]:
    return job.result(PATIENCE_S)[0].data.meas.get_counts()


def reasons(job) -> tuple[str, ...]:
    """Why the job has not ended, as `hpcqc why` says it."""
    return resources.opened_broker().why(job.job_id()).waits_for


def most_frequent(job) -> str:
    counts = counts_of(job)
    return max(counts, key=counts.get)


def prepared(backend, shots=10) -> SamplerPayload:
    return SamplerPayload.coerce(
        [NativeCompiler(backend.target()).compile(flipped())[0]], shots=shots
    )


READS = [
    (),
    ("slow:submit:1", "slow:result:1"),
    ("error:result:1", "garbage:result:2", "partial:result:3", "504:result:4"),
    ("lost:result:1", "unsent:result:2", "429:result:3", "503:result:4"),
    ("renew:submit:1", "renew:result:1"),
    ("503:target:1,2", "lost:target:3"),
    ("429:submit:1,2",),
    ("503:submit:1",),
]
CALIBRATED = [("calibration:submit:1",), ("vanish:submit:1",)]


@pytest.mark.parametrize("faults", READS, ids=lambda faults: "+".join(faults) or "none")
def test_direct_access_survives_what_may_be_tried_again(enter, piast_q, faults) -> None:
    run = enter(piast_q, *faults)
    job = run.sampler.run([flipped()], shots=100)
    assert most_frequent(job) == "001"
    assert run.grown("jobs") == 1
    usage = job.view().usage
    assert sum(charge.amount for charge in usage.charges) == pytest.approx(run.charged())
    (task,) = job.view().tasks
    assert task.metadata["provisional"] == bool(run.grown("provisional"))


@pytest.mark.parametrize(
    "faults", READS + CALIBRATED, ids=lambda faults: "+".join(faults) or "none"
)
def test_the_cloud_survives_what_may_be_tried_again(enter, ibex_q1, faults) -> None:
    run = enter(ibex_q1, *faults)
    job = run.sampler.run([flipped()], shots=BRIEF)
    assert most_frequent(job) == "001"
    assert run.grown("jobs") == 1
    usage = job.view().usage
    assert sum(charge.amount for charge in usage.charges) == pytest.approx(run.charged())


@pytest.mark.parametrize("kind", [*LOST, "limit"])
def test_a_start_without_a_sure_answer_is_uncertain_and_never_repeated(
    enter, piast_q, kind
) -> None:
    run = enter(piast_q, f"{kind}:submit:1")
    job = run.sampler.run([flipped()], shots=100)
    with pytest.raises(JobUncertain):
        job.result(PATIENCE_S)
    assert job.view().state is JobState.UNCERTAIN
    assert most_frequent(run.sampler.run([flipped()], shots=101)) == "001", "others go on"
    assert run.grown("jobs") == (1 if kind == "unsent" else 2)


def test_a_lost_task_resolved_by_the_sites_meter_is_charged_as_there(enter, piast_q) -> None:
    run = enter(piast_q, "lost:submit:1")
    job = run.sampler.run([flipped()], shots=100)
    with pytest.raises(JobUncertain):
        job.result(PATIENCE_S)
    until(run.charged)
    broker = resources.opened_broker()
    assert isinstance(broker, EmbeddedBroker)
    metered = Metered(used_s=run.grown("qpu_seconds"))
    view = broker.resolve(job.view().id, "failed", "on the site's meter", metered)
    assert view.usage.qpu_seconds == pytest.approx(metered.used_s)
    assert sum(charge.amount for charge in view.usage.charges) == pytest.approx(run.charged())


@pytest.mark.parametrize("kind", LOST)
def test_a_lost_start_in_the_cloud_is_uncertain_and_never_repeated(enter, ibex_q1, kind) -> None:
    run = enter(ibex_q1, f"{kind}:submit:1")
    job = run.sampler.run([flipped()], shots=BRIEF)
    with pytest.raises(JobUncertain):
        job.result(PATIENCE_S)
    assert most_frequent(run.sampler.run([flipped()], shots=BRIEF + 1)) == "001", "others go on"
    assert run.grown("jobs") == (1 if kind == "unsent" else 2)
    assert set(run.starts.values()) == {1}


def test_many_shots_are_several_jobs_and_one_result(enter, piast_q) -> None:
    run = enter(piast_q)
    counts = counts_of(run.sampler.run([flipped()], shots=500))
    assert sum(counts.values()) == 500
    assert max(counts, key=counts.get) == "001"
    assert (run.grown("jobs"), run.grown("shots")) == (3, 500)


def test_four_connections_are_enough_for_any_number_of_jobs(tmp_path) -> None:
    """The device takes 0.1 s a job, so requests for results are held back meanwhile."""
    with (
        rehearsed("piast-q", tmp_path / "slow", clock_scale=0.001) as server,
        Flow(server, tmp_path / "state", {}) as run,
    ):
        jobs = [run.sampler.run([flipped()], shots=150 + number) for number in range(10)]
        assert {most_frequent(job) for job in jobs} == {"001"}
        assert {job.view().state for job in jobs} == {JobState.COMPLETED}
        assert run.grown("jobs") == 10


def test_nothing_starts_while_others_hold_all_connections(piast_q, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("backends.aqt.backend._TARGET_FRESH_S", 0.0)
    piast_q.behave()
    piast_q.misbehave("stuck:submit:1")
    options = piast_q.options
    backend = create(options, state_dir=tmp_path)
    payload, session = prepared(backend), backend.acquire()
    stuck = backend.start(session, payload, "stuck")
    result = f"{options['url']}/circuit/result/{stuck.split(':')[1]}"
    headers = {"X-API-Key": Token.parse(options["token"]).text}
    before = piast_q.meter()
    with httpx.Client(trust_env=False, timeout=PATIENCE_S, headers=headers) as others:
        held = [threading.Thread(target=_ask, args=(others, result), daemon=True) for _ in range(4)]
        for thread in held:
            thread.start()
        asked = before["requests"].get("result", 0)
        until(lambda: piast_q.meter()["requests"].get("result", 0) >= asked + 4)
        until(lambda: _status(others, options["url"]) == 429)
        with pytest.raises(QpuBusy):
            backend.start(session, payload, "tag")
        assert piast_q.meter()["jobs"] == before["jobs"]
        # What another client does without asking first: an error, and a job that runs.
        sent = others.put(
            f"{options['url']}/circuit",
            json={
                "repetitions": 10,
                "number_of_qubits": 1,
                "quantum_circuit": [{"operation": "MEASURE"}],
            },
        )
        assert sent.status_code == 429
        assert piast_q.meter()["jobs"] == before["jobs"] + 1
        piast_q.behave()  # which also ends the job that is stuck
        for thread in held:
            thread.join(PATIENCE_S)
    backend.close()


def _ask(client: httpx.Client, url: str) -> None:
    client.get(url)


def _status(client: httpx.Client, url: str) -> int:
    return client.get(f"{url}/status/ions").status_code


def test_a_revoked_key_is_one_clear_error(enter, piast_q) -> None:
    run = enter(piast_q, "revoke:submit:1")
    job = run.sampler.run([flipped()], shots=100)
    with pytest.raises(AccessDenied, match="401"):
        job.result(PATIENCE_S)
    assert run.grown("jobs") == 0
    piast_q.control.post("token").raise_for_status()
    assert most_frequent(run.sampler.run([flipped()], shots=101)) == "001"


@pytest.mark.parametrize("site", ["piast_q", "ibex_q1"])
def test_a_key_revoked_while_a_job_runs_costs_no_second_start(enter, request, site) -> None:
    server = request.getfixturevalue(site)
    run = enter(server, "revoke:result:1")
    asked = server.meter()["requests"].get("result", 0)
    job = run.sampler.run([flipped()], shots=BRIEF)
    until(lambda: server.meter()["requests"].get("result", 0) > asked)
    until(lambda: reasons(job))
    (reason,) = reasons(job)
    assert f"QPU {server.rehearsal.site} has refused the credentials since" in reason
    assert "renew the token" in reason
    server.control.post("token").raise_for_status()
    until(lambda: job.view().state is JobState.COMPLETED)
    assert not reasons(job)
    assert most_frequent(job) == "001"
    assert run.grown("jobs") == 1


def test_work_waits_for_the_end_of_a_maintenance(enter, piast_q) -> None:
    run = enter(piast_q)
    assert most_frequent(run.sampler.run([flipped()], shots=100)) == "001"
    piast_q.misbehave("maintenance:target:1")
    asked = piast_q.meter()["requests"]["target"]
    job = run.sampler.run([flipped()], shots=101)
    until(lambda: piast_q.meter()["requests"]["target"] > asked + 2)
    assert run.grown("jobs") == 1
    piast_q.behave()
    assert most_frequent(job) == "001"
    assert run.grown("jobs") == 2


def test_a_failed_job_is_an_error(enter, piast_q) -> None:
    run = enter(piast_q, "failed:submit:1")
    with pytest.raises(TaskFailed):
        run.sampler.run([flipped()], shots=100).result(PATIENCE_S)
    assert run.grown("jobs") == 1


def test_a_result_is_fetched_once_and_kept(piast_q, tmp_path) -> None:
    """Nobody states whether direct access returns a result twice, so it need not."""
    piast_q.behave()
    backend = create(piast_q.options, state_dir=tmp_path)
    task = backend.start(backend.acquire(), prepared(backend), "tag")
    assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
    counts = backend.result(task).native[0].data.meas.get_counts()
    backend.close()
    piast_q.misbehave("error:result")
    again = create(piast_q.options, state_dir=tmp_path)
    assert again.status(task) is TaskState.COMPLETED
    assert again.result(task).native[0].data.meas.get_counts() == counts
    again.close()
    piast_q.behave()


def test_a_gateway_that_gives_up_waiting_says_nothing_about_a_task(piast_q, tmp_path) -> None:
    piast_q.behave()
    backend = create(piast_q.options, state_dir=tmp_path)
    piast_q.misbehave("504:result:1,2")
    asked = piast_q.meter()["requests"].get("result", 0)
    task = backend.start(backend.acquire(), prepared(backend), "tag")
    assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
    assert piast_q.meter()["requests"]["result"] == asked + 3
    backend.close()


def test_a_stuck_job_is_in_doubt_and_not_repeated(enter, ibex_q1) -> None:
    run = enter(ibex_q1, "stuck:submit:1", longest_task_s=0.5)
    job = run.sampler.run([flipped()], shots=BRIEF)
    with pytest.raises((JobUncertain, BackendError)):
        job.result(PATIENCE_S)
    assert run.grown("jobs") == 1


def test_a_job_in_the_cloud_states_how_the_device_was_characterised(enter, ibex_q1) -> None:
    run = enter(ibex_q1)
    job = run.sampler.run([flipped()], shots=BRIEF)
    job.result(PATIENCE_S)
    (task,) = job.view().tasks
    first = task.metadata["calibration_id"]
    assert first == run.sampler.qpu.target.calibration.id
    ibex_q1.calibrate()
    later = run.sampler.run([flipped()], shots=BRIEF + 1)
    later.result(PATIENCE_S)
    (task,) = later.view().tasks
    assert task.metadata["calibration_id"] > first


def test_an_earlier_start_without_an_answer_is_not_repeated(ibex_q1, tmp_path) -> None:
    ibex_q1.behave()
    backend = create(ibex_q1.options, state_dir=tmp_path)
    payload, session = prepared(backend), backend.acquire()
    ibex_q1.misbehave("lost:submit:1")
    before = ibex_q1.meter()["jobs"]
    for _ in range(3):
        with pytest.raises(QpuUnavailable):
            backend.start(session, payload, "tag-of-a-lost-start")
    assert ibex_q1.meter()["jobs"] == before + 1
    assert backend.find("tag-of-a-lost-start") is None
    backend.close()


def test_results_outside_the_quality_windows_are_provisional(piast_q, tmp_path) -> None:
    """Both by the client's profile and in the books of the site."""
    text = profile_text("piast-q")
    never = text.replace('start = "08:00"\nend = "18:00"', 'start = "00:00"\nend = "00:00"')
    assert never != text
    path = tmp_path / "never.toml"
    path.write_text(never, encoding="utf-8")
    piast_q.behave()
    backend = create({**piast_q.options, "profile": str(path)}, state_dir=tmp_path)
    payload = prepared(backend)
    task = backend.start(backend.acquire(), payload, "tag")
    assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
    assert backend.result(task).metadata["provisional"] is True
    backend.close()
    device = RehearsedDevice(str(path), folder=tmp_path, clock_scale=0.0)
    device.open()
    device.wait(device.submit(payload), PATIENCE_S)
    assert (device.meter()["jobs"], device.meter()["provisional"]) == (1, 1)
    device.close()
