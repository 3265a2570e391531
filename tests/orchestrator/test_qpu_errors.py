"""Errors of a QPU name it as the site file does, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit

from backends.api import AccessDenied, BackendError, PayloadRejected, QpuUnavailable, TaskFailed
from backends.payloads import SamplerPayload
from hpcqc import Sampler, open_qpu
from orchestrator import resources, runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.patience import PATIENCE_S

DEVICE, QPU = "torino", "ibm_torino"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a QPU whose device has another name."""

    def open_one(**options: Any) -> Any:
        qpus = {QPU: QpuSettings(name=QPU, backend="fake", options={"name": DEVICE, **options})}
        compute = ComputeSettings(name="local", workers=1)
        site = Site(
            name="test",
            default_qpu=QPU,
            default_compute="local",
            qpus=qpus,
            computes={"local": compute},
            state_dir=tmp_path,
            source="test",
        )
        runs.activate(Run(id="named", site=site))
        return open_qpu()

    yield open_one
    resources.shutdown()
    runs.activate(None)


def circuit(num_qubits: int = 1) -> QuantumCircuit:
    made = QuantumCircuit(num_qubits)
    made.x(num_qubits - 1)
    made.measure_all()
    return made


@pytest.mark.parametrize(
    ("options", "num_qubits", "error"),
    [
        ({"num_qubits": 2}, 3, PayloadRejected),
        ({"fail": [1]}, 1, TaskFailed),
        ({"faults": [{"call": "start", "kind": "denied"}]}, 1, AccessDenied),
        ({"faults": [{"call": "target"}]}, 1, QpuUnavailable),
    ],
    ids=["refused", "failed", "denied", "away"],
)
def test_errors_begin_with_the_qpus_name(
    opened: Callable[..., Any], options: Any, num_qubits: int, error: type[BackendError]
) -> None:
    with pytest.raises(error) as caught:
        Sampler(opened(**options)).run([circuit(num_qubits)]).result(PATIENCE_S)
    text = str(caught.value)
    assert text.startswith(f"QPU {QPU!r}")
    assert text.count(QPU) == 1


def test_a_payload_that_is_sent_as_it_is_is_refused_by_the_qpus_name(
    opened: Callable[..., Any],
) -> None:
    payload = SamplerPayload.coerce([circuit(3)], shots=10)
    with pytest.raises(PayloadRejected, match=rf"^QPU '{QPU}': .*{DEVICE} has 2") as caught:
        opened(num_qubits=2).run(payload)
    assert str(caught.value).count(QPU) == 1


def test_a_gate_after_a_measurement_is_named_as_it_was_written(opened: Callable[..., Any]) -> None:
    made = QuantumCircuit(1, 2)
    made.measure(0, 0)
    made.ry(0.3, 0)
    made.measure(0, 1)
    qpu = opened(native_gates=["rz", "sx", "x", "cz"])
    with pytest.raises(PayloadRejected, match=r"'ry' comes after a measurement"):
        Sampler(qpu).run([made])
