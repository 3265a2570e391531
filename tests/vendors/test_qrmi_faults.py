"""A QPU behind qrmi when the site, the network or qrmi's process fails: at most one start."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends import registry
from backends.api import AccessDenied, CalibrationChanged, QpuBusy, TaskCancelled, TaskState
from backends.child.environment import Environment
from backends.payloads import SamplerPayload
from orchestrator.broker.client.protocol import JobUncertain
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.config.qpu_tables import QpuSettings
from tests.patience import PATIENCE_S, until
from tests.rehearsed import RehearsedSite, rehearsed
from tests.vendors.environments import interpreter_or_skip

pytestmark = [pytest.mark.slow, pytest.mark.vendor]


def flipped(shots: int = 100) -> SamplerPayload:
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(1, 1)
    circuit.r(3.141592653589793, 0.0, 0)
    circuit.measure(0, 0)
    return SamplerPayload.coerce([circuit], shots=shots)


class Qpu:
    def __init__(self, site: RehearsedSite, folder, python) -> None:
        self.site, self._folder = site, folder
        self._options = {
            "url": site.rehearsal.url,
            "resource": "vlq",
            "token": site.options["token"],
        }
        self._environment = Environment(interpreter=str(python))

    def backend(self, **options):
        (self._folder / "q").mkdir(exist_ok=True)
        return registry.create(
            "qrmi",
            {**self._options, **options},
            state_dir=self._folder / "q",
            environment=self._environment,
        )

    @contextmanager
    def broker(self) -> Iterator[EmbeddedBroker]:
        broker = EmbeddedBroker(
            run="run",
            state_dir=self._folder / "near",
            open_backend=lambda _: self.backend(),
            qpus={"q": QpuSettings(name="q", backend="qrmi")},
        )
        (self._folder / "near").mkdir()
        broker.open()
        yield broker
        broker.close()

    @property
    def starts(self) -> list[int]:
        return list(self.site.meter()["starts"].values())


@pytest.fixture
def qpu(tmp_path, request) -> Iterator[Qpu]:
    python = interpreter_or_skip(request.config.cache, "qrmi==0.26.4")
    with rehearsed("vlq", tmp_path, clock_scale=1.0) as site:
        yield Qpu(site, tmp_path, python)


def submitted(broker: EmbeddedBroker) -> str:
    return broker.submit(JobRequest(run="run", qpu="q"), flipped())


def test_a_job_runs_once_and_takes_the_time_that_the_site_meters(qpu) -> None:
    with qpu.broker() as broker:
        job = submitted(broker)
        counts = broker.result(job, PATIENCE_S)[0].data.c.get_counts()
        usage = broker.view(job).usage
    assert counts.get("1", 0) > 80
    assert qpu.starts == [1]
    # The server's timeline, which has the modelled time and what the simulation took beyond it.
    assert usage.qpu_seconds >= 0.9 * qpu.site.meter()["qpu_seconds"] > 0


@pytest.mark.parametrize("fault", ["lost:submit:1", "504:submit:1", "garbage:submit:1"])
def test_a_lost_answer_is_uncertain_and_not_repeated(qpu, fault) -> None:
    qpu.site.misbehave(fault)
    with qpu.broker() as broker:
        job = submitted(broker)
        with pytest.raises(JobUncertain):
            broker.result(job, PATIENCE_S)
        assert broker.view(job).tasks[0].starts <= 1
    assert qpu.starts == [1]


@pytest.mark.parametrize("fault", ["429:submit:1,2", "503:status:1", "503:result:1"])
def test_a_passing_refusal_is_waited_for(qpu, fault) -> None:
    qpu.site.misbehave(fault)
    with qpu.broker() as broker:
        job = submitted(broker)
        assert broker.result(job, PATIENCE_S)[0].data.c.num_shots == 100
    assert qpu.starts == [1]


def test_a_token_that_was_renewed_in_its_file_is_used(qpu) -> None:
    qpu.site.misbehave("renew:submit:1", "renew:status:1")
    with qpu.broker() as broker:
        job = submitted(broker)
        assert broker.result(job, PATIENCE_S)[0].data.c.num_shots == 100
    assert qpu.starts == [1]


def test_a_refused_token_starts_nothing(qpu) -> None:
    backend = qpu.backend(token="wrong")
    with pytest.raises(AccessDenied):
        backend.target()
    backend.close()
    assert qpu.starts == []


def test_a_calibration_that_vanished_asks_for_new_circuits(qpu) -> None:
    backend = qpu.backend()
    backend.target()
    qpu.site.misbehave("vanish:submit:1")
    with pytest.raises(CalibrationChanged):
        backend.start(backend.acquire(), flipped(), "t")
    task = backend.start(backend.acquire(), flipped(), "t")
    until(lambda: backend.status(task) is TaskState.COMPLETED)
    backend.close()


def test_a_stuck_job_is_cancelled_and_fills_the_resource(qpu) -> None:
    qpu.site.misbehave("stuck:submit:1")
    backend = qpu.backend(tasks=1)
    session = backend.acquire()
    task = backend.start(session, flipped(), "t")
    with pytest.raises(QpuBusy):
        backend.start(session, flipped(), "u")
    backend.stop(task)
    until(lambda: backend.status(task) is TaskState.CANCELLED)
    with pytest.raises(TaskCancelled):
        backend.result(task)
    backend.close()


def test_the_next_process_knows_the_task_of_a_dead_one(qpu) -> None:
    backend = qpu.backend()
    task = backend.start(backend.acquire(), flipped(), "t")
    os.kill(backend.device.calls.supervisor.child().pid, signal.SIGKILL)
    until(lambda: _ended(backend, task))
    assert backend.result(task).native[0].data.c.num_shots == 100
    backend.close()
    assert qpu.starts == [1]


def _ended(backend, task) -> bool:
    from backends.api import QpuUnavailable

    try:
        return backend.status(task) is TaskState.COMPLETED
    except QpuUnavailable:
        return False
