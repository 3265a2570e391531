"""What a client of hpcqc meets when a rehearsed IQM Server misbehaves: never a second start."""

from __future__ import annotations

from collections import Counter

import pytest
from qiskit import QuantumCircuit

from backends.api import AccessDenied, BackendError, QpuBusy, TaskFailed, TaskState
from backends.iqm import create
from backends.lowering import NativeCompiler
from backends.payloads import SamplerPayload
from hpcqc import Sampler, open_qpu
from orchestrator import resources, runs
from orchestrator.broker.client.protocol import JobUncertain
from orchestrator.broker.core.views import JobState
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run
from orchestrator.transpile.moves import insert_moves
from tests.patience import PATIENCE_S, until
from tests.rehearsed import RehearsedSite, rehearsed

pytestmark = pytest.mark.slow

LOST = ("lost", "504", "error", "garbage", "partial", "unsent")


@pytest.fixture(scope="module")
def vlq(tmp_path_factory):
    with rehearsed("vlq", tmp_path_factory.mktemp("vlq")) as server:
        yield server


class Flow:
    """An active run on the server, and what the server's own books say of it."""

    def __init__(self, server: RehearsedSite, state_dir, rules) -> None:
        server.behave()
        self.server, self._before = server, server.meter()
        qpu = QpuSettings(name="vlq", backend="iqm", options=server.options, **rules)
        self._run = Run(
            id="faults",
            site=Site(
                name="test",
                default_qpu="vlq",
                default_compute="local",
                qpus={"vlq": qpu},
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

    @property
    def starts(self) -> dict[str, int]:
        now = Counter(self.server.meter()["starts"])
        now.subtract(self._before["starts"])
        return {label: number for label, number in now.items() if number}

    def charged(self) -> float:
        before = self._before["charges"].get("billed-s", 0.0)
        return self.server.meter()["charges"].get("billed-s", 0.0) - before


@pytest.fixture
def flow(vlq, tmp_path):
    entered = []

    def enter(*faults, **rules):
        made = Flow(vlq, tmp_path, rules)
        vlq.misbehave(*faults)
        entered.append(made.__enter__())
        return made

    yield enter
    for one in entered:
        one.__exit__()
    vlq.behave()


def flipped() -> QuantumCircuit:
    """Three qubits, of which the first is flipped."""
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.measure_all()
    return circuit


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
        ("error:status:1", "garbage:status:2", "partial:status:3"),
        ("lost:result:1", "partial:result:2", "429:result:3"),
        ("renew:submit:1", "renew:status:1", "renew:result:1"),
        ("calibration:submit:1",),
        ("vanish:submit:1",),
    ],
    ids=lambda faults: "+".join(faults) or "none",
)
def test_a_job_survives_what_may_be_tried_again(flow, faults) -> None:
    run = flow(*faults)
    job = run.sampler.run([flipped()], shots=100)
    assert most_frequent(job) == "001"
    assert list(run.starts.values()) == [1]
    usage = job.view().usage
    assert {charge.unit: charge.amount for charge in usage.charges} == pytest.approx(
        {"billed-s": run.charged()}
    )


@pytest.mark.parametrize("kind", LOST)
def test_a_start_without_an_answer_is_uncertain_and_never_repeated(flow, kind) -> None:
    run = flow(f"{kind}:submit:1")
    job = run.sampler.run([flipped()], shots=100)
    with pytest.raises(JobUncertain):
        job.result(PATIENCE_S)
    assert job.view().state is JobState.UNCERTAIN
    assert most_frequent(run.sampler.run([flipped()], shots=101)) == "001", "others go on"
    assert sum(run.starts.values()) == (1 if kind == "unsent" else 2)
    assert set(run.starts.values()) == {1}


@pytest.mark.parametrize("kind", ["503", "lost", "garbage"])
def test_a_target_that_cannot_be_read_stays_as_it_was_known(flow, vlq, monkeypatch, kind) -> None:
    monkeypatch.setattr("backends.iqm.backend._TARGET_FRESH_S", 0.0)
    run = flow()
    known = run.sampler.qpu.target
    vlq.misbehave(f"{kind}:target")
    assert run.sampler.qpu.target == known
    assert most_frequent(run.sampler.run([flipped()], shots=100)) == "001"


def test_what_is_asked_before_a_start_leaves_no_doubt_about_it(vlq, tmp_path) -> None:
    """Only the start itself may be unknown; what fails before it started nothing."""
    backend = create(vlq.options, state_dir=tmp_path)
    session = backend.acquire()
    native = insert_moves(NativeCompiler(backend.target()).compile(flipped())[0], 24)
    payload = SamplerPayload.coerce([native], shots=10)
    backend.close()
    fresh = create(vlq.options, state_dir=tmp_path)
    session = fresh.acquire()
    vlq.behave()
    vlq.misbehave("error:target", "lost:other")
    with pytest.raises(QpuBusy):
        fresh.start(session, payload, "tag")
    vlq.behave()
    task = fresh.start(session, payload, "tag")
    vlq.misbehave("error:status:1")
    with pytest.raises(QpuBusy):
        fresh.start(session, payload, "other")
    assert fresh.wait(task, PATIENCE_S) is TaskState.COMPLETED
    fresh.close()


def test_a_revoked_token_is_one_clear_error(flow, vlq) -> None:
    run = flow("revoke:submit:1")
    job = run.sampler.run([flipped()], shots=100)
    with pytest.raises(AccessDenied, match="401"):
        job.result(PATIENCE_S)
    assert run.starts == {}
    vlq.control.post("token").raise_for_status()
    assert most_frequent(run.sampler.run([flipped()], shots=101)) == "001"


def test_a_failed_job_is_not_charged(flow) -> None:
    run = flow("failed:submit:1")
    with pytest.raises(TaskFailed, match="electronics"):
        run.sampler.run([flipped()], shots=100).result(PATIENCE_S)
    assert list(run.starts.values()) == [1]
    assert run.charged() == 0


def test_work_waits_for_the_end_of_a_maintenance(flow, vlq) -> None:
    run = flow("maintenance:submit:1")
    job = run.sampler.run([flipped()], shots=100)
    until(lambda: vlq.meter()["requests"]["submit"] > 2)
    assert run.starts == {}
    vlq.behave()
    assert most_frequent(job) == "001"
    assert list(run.starts.values()) == [1]


def test_a_stuck_job_is_in_doubt_and_can_be_cancelled(flow, vlq) -> None:
    run = flow("stuck:submit:1", longest_task_s=0.5)
    job = run.sampler.run([flipped()], shots=100)
    with pytest.raises((JobUncertain, BackendError)):
        job.result(PATIENCE_S)
    job.cancel()
    until(lambda: "cancelled" in vlq.meter()["states"])
    assert list(run.starts.values()) == [1]


def test_a_job_runs_with_the_calibration_that_it_was_compiled_for(flow, vlq) -> None:
    run = flow()
    compiled_for = run.sampler.qpu.target.calibration.id
    vlq.misbehave("calibration:submit:1")
    job = run.sampler.run([flipped()], shots=100)
    job.result(PATIENCE_S)
    assert vlq.meter()["calibration"] != compiled_for
    (task,) = job.view().tasks
    assert task.metadata["calibration_id"] == compiled_for
