"""A QPU that is calibrated anew while a call waits: it is transpiled again, and runs once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.api import Target
from backends.fake.backend import FakeBackend
from backends.fake.script import read_script
from backends.payloads import Payload
from hpcqc import Sampler, open_qpu
from orchestrator import resources, runs
from orchestrator.broker.core.views import JobState
from orchestrator.broker.runtime.calibration_watch import CalibrationWatch
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.patience import PATIENCE_S

OPTIONS = {
    "num_qubits": 4,
    "native_gates": ["rz", "sx", "x", "cz"],
    "coupling": [[0, 1], [2, 3]],
    "drift_every": 1,
    "run_s": 0.4,
}


class Wearing(FakeBackend):
    """A fake that loses its first qubits when it is calibrated, and notes what it was given."""

    loses = True

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.ran: list[tuple[str, Payload]] = []
        self.may_drift = threading.Event()
        self._first = super().target()

    def target(self) -> Target:
        target = super().target() if self.may_drift.is_set() else self._first
        first = target.calibration.id == "fake-0" or not self.loses
        return target if first else replace(target, unusable_qubits=(0, 1))

    def start(self, session: Any, payload: Payload, tag: str) -> Any:
        now = self.target().calibration.id
        task = super().start(session, payload, tag)
        self.ran.append((now, payload))
        return task


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wearing]:
    """The QPU of an active run, looked at often."""
    qpu = Wearing(read_script(OPTIONS), state_dir=tmp_path)
    monkeypatch.setattr(registry, "create", lambda *_, **__: qpu)
    monkeypatch.setattr(
        "orchestrator.broker.runtime.broker.CalibrationWatch",
        lambda service, every_s: CalibrationWatch(service, every_s=0.03),
    )
    run = Run(
        id="drift",
        site=Site(
            name="test",
            default_qpu="q",
            default_compute="local",
            qpus={"q": QpuSettings(name="q", backend="fake")},
            computes={"local": ComputeSettings(name="local", workers=1)},
            state_dir=tmp_path,
            source="test",
        ),
    )
    runs.activate(run)
    yield qpu
    resources.shutdown()
    runs.activate(None)


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def used(payload: Payload) -> set[int]:
    (pub,) = payload.pubs
    circuit = pub.circuit.circuit
    gates = (step for step in circuit.data if step.operation.name != "barrier")
    return {circuit.find_bit(q).index for step in gates for q in step.qubits}


@pytest.mark.parametrize("loses", [True, False])
def test_a_call_that_waited_runs_as_transpiled_for_the_qpu_as_it_is(
    device: Wearing, loses: bool
) -> None:
    device.loses = loses
    sampler = Sampler(open_qpu(), seed=3)
    first, second = sampler.run([bell()], shots=50), sampler.run([bell()], shots=60)
    given = second.job_id()
    device.may_drift.set()
    counts = [job.result(PATIENCE_S)[0].data.meas.get_counts() for job in (first, second)]
    assert [set(c) <= {"00", "11"} for c in counts] == [True, True]
    assert [sum(c.values()) for c in counts] == [50, 60]
    assert [calibration for calibration, _ in device.ran] == ["fake-0", "fake-1"]
    assert set(device.starts.values()) == {1}
    # Circuits that come out the same are the same job; others are another, and the old one ends.
    assert (second.job_id() != given) == loses
    assert used(device.ran[0][1]) == {0, 1}
    assert used(device.ran[1][1]) == ({2, 3} if loses else {0, 1})
    broker = resources.resources().broker()
    old = broker.view(given)
    assert old.state is (JobState.FAILED if loses else JobState.COMPLETED)
    assert old.tasks == () or not loses
    assert second.view().state is JobState.COMPLETED
    assert sampler.qpu.target.calibration.id == "fake-1"
