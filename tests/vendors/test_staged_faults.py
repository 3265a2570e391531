"""VLQ's two-job access when it misbehaves: whatever answer is lost, each task starts once."""

from __future__ import annotations

import pytest
from qiskit import QuantumCircuit

from backends.api import QpuBusy, QpuUnavailable, TaskFailed, TaskState
from backends.iqm import create
from backends.lowering import NativeCompiler
from backends.payloads import SamplerPayload
from hpcqc import Sampler, open_qpu
from orchestrator import resources, runs
from orchestrator.broker.core.views import JobState
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run
from orchestrator.transpile.moves import insert_moves
from tests.patience import PATIENCE_S, until
from tests.rehearsed import rehearsed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with rehearsed("vlq-staged", tmp_path_factory.mktemp("staged")) as server:
        yield server


def flipped() -> QuantumCircuit:
    """Three qubits, of which the first is flipped."""
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.measure_all()
    return circuit


def most_frequent(job) -> str:
    counts = job.result(PATIENCE_S)[0].data.meas.get_counts()
    return max(counts, key=counts.get)


def prepared(backend) -> SamplerPayload:
    target = backend.target()
    native, _ = NativeCompiler(target).compile(flipped())
    return SamplerPayload.coerce([insert_moves(native, target.resonator)], shots=100)


@pytest.fixture
def sampler(site, tmp_path):
    """A sampler on the QPU, which has been described."""
    site.behave()
    qpu = QpuSettings(name="vlq", backend="iqm", options=site.options)
    here = Site(
        name="test",
        default_qpu="vlq",
        default_compute="local",
        qpus={"vlq": qpu},
        computes={"local": ComputeSettings(name="local", workers=1)},
        state_dir=tmp_path,
        source="test",
    )
    runs.activate(Run(id="staged", site=here))
    yield Sampler(open_qpu())
    resources.shutdown()
    runs.activate(None)
    site.behave()


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("429:create:1", "lost:create:2", "504:create:3"),
        ("lost:stage:1", "error:stage:2", "garbage:stage:3"),
        ("lost:submit:1",),
        ("twice:submit:1",),
        ("unsent:submit:1", "garbage:submit:2"),
        ("503:submit:1", "partial:submit:2", "lost:status:1,2"),
        ("error:status:1", "garbage:status:2", "lost:result:1", "partial:result:2"),
        ("renew:create:1", "renew:submit:1", "renew:status:1", "renew:result:1"),
        ("calibration:create:1",),
    ],
    ids=lambda faults: "+".join(faults) or "none",
)
def test_each_task_is_started_once_and_none_is_in_doubt(site, sampler, faults) -> None:
    before = site.meter()
    if faults:
        site.misbehave(*faults)
    job = sampler.run([flipped()], shots=100)
    assert most_frequent(job) == "001"
    meter = site.meter()
    (task,) = job.view().tasks
    assert (job.view().state, task.starts, task.start_in_doubt) == (JobState.COMPLETED, 1, False)
    assert meter["jobs"] == before["jobs"] + 1
    assert meter["starts"][task.tag] == before["starts"].get(task.tag, 0) + 1
    charged = meter["charges"]["billed-s"] - before["charges"].get("billed-s", 0.0)
    assert sum(charge.amount for charge in job.view().usage.charges) == pytest.approx(charged)


def test_a_forgotten_calibration_is_prepared_anew(site, sampler) -> None:
    before = site.meter()["jobs"]
    site.misbehave("vanish:submit:1")
    assert most_frequent(sampler.run([flipped()], shots=100)) == "001"
    assert site.meter()["jobs"] == before + 1, "the first one never reached the device"


def test_a_failed_job_states_the_reason(site, sampler) -> None:
    site.misbehave("failed:submit:1")
    with pytest.raises(TaskFailed, match="control electronics"):
        sampler.run([flipped()], shots=100).result(PATIENCE_S)


def test_a_start_goes_on_after_a_death_wherever_that_was(site, tmp_path) -> None:
    site.behave()
    before = site.meter()["jobs"]
    for fault, is_found in (
        ("lost:create:1", False),
        ("lost:stage:1", False),
        ("unsent:submit:1", False),
        ("lost:submit:1", True),
    ):
        tag = fault.replace(":", "-")
        dying = create(site.options, state_dir=tmp_path)
        payload, session = prepared(dying), dying.acquire()
        site.misbehave(fault)
        with pytest.raises((QpuBusy, QpuUnavailable)):
            dying.start(session, payload, tag)
        dying.close()
        backend = create(site.options, state_dir=tmp_path)
        found = backend.find(tag)
        assert (found is not None) == is_found
        task = backend.start(backend.acquire(), payload, tag)
        assert found in (None, task)
        assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
        assert site.meter()["starts"][tag] == 1
        backend.close()
    assert site.meter()["jobs"] == before + 4


def test_a_stuck_task_can_be_stopped(site, tmp_path) -> None:
    site.behave()
    backend = create(site.options, state_dir=tmp_path)
    payload = prepared(backend)
    site.misbehave("stuck:submit:1")
    task = backend.start(backend.acquire(), payload, "stuck")
    backend.stop(task)
    until(lambda: backend.status(task) is TaskState.CANCELLED)
    backend.close()
    site.behave()
