"""A device of Braket's service, by botocore's own client against a double of the service."""

from __future__ import annotations

import uuid

import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

from backends import registry
from backends.api import (
    AccessDenied,
    QpuBusy,
    QpuUnavailable,
    TaskCancelled,
    TaskFailed,
    TaskState,
    UnknownTask,
)
from backends.braket.openqasm import GATES
from backends.payloads import SamplerPayload
from backends.plugins import PluginUnusable
from tests.errors import naming
from tests.flat_devices import check_bit_order, check_gate, sampled
from tests.patience import until
from tests.vendors.braket_service import ARN, braket_double
from tests.vendors.environments import environment_or_skip

pytestmark = [pytest.mark.vendor, pytest.mark.slow]
ENVIRONMENT = environment_or_skip("braket")
# Of the gates, `iswap` alone means something of its own in both.
TRIED = sorted(GATES)


@pytest.fixture(scope="module")
def service():
    with braket_double() as (double, url):
        yield double, url


@pytest.fixture(scope="module")
def make(service, tmp_path_factory):
    _, url = service
    options = {
        "arn": ARN,
        "bucket": "results",
        "region": "eu-north-1",
        "endpoint_url": url,
        "s3_endpoint_url": url,
    }
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")

        def opened(folder=None):
            folder = folder or tmp_path_factory.mktemp("cloud")
            made.append(
                registry.create("braket", options, state_dir=folder, environment=ENVIRONMENT)
            )
            return made[-1]

        yield opened
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def device(make):
    return make()


def flipped() -> SamplerPayload:
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=20)


def counts(device, task):
    assert until(lambda: device.status(task) is TaskState.COMPLETED)
    return device.result(task).native[0].data.meas.get_counts()


def test_the_target_is_what_the_service_states(device) -> None:
    target = device.target()
    assert (target.num_qubits, target.max_shots, target.max_circuits) == (8, 1000, 1)
    assert target.can_find
    assert {"cx", "r", "rzz"} <= set(target.native_gates)


@pytest.mark.parametrize("name", TRIED)
def test_each_gate_means_what_qiskit_means(device, name, monkeypatch) -> None:
    monkeypatch.setattr("tests.flat_devices._SHOTS", 1000)
    check_gate(device, name)


def test_bits_come_in_qiskits_order(device) -> None:
    check_bit_order(device)
    circuit = QuantumCircuit(4, 2)
    circuit.x(3)
    circuit.measure(3, 0)  # the highest wire into the lowest bit
    circuit.measure(1, 1)
    assert sampled(device, [circuit], shots=10)[0].data.c.get_counts() == {"01": 10}


def test_a_lost_answer_and_a_second_start_are_one_task(device, service) -> None:
    double, _ = service
    session, before = device.acquire(), len(double.tasks)
    double.faults = ["lost", "lost"]  # the client itself asks a second time
    with pytest.raises(QpuUnavailable):
        device.start(session, flipped(), "lost")
    found = device.find("lost")
    assert found is not None
    task = device.start(session, flipped(), "lost")
    assert task == found
    assert counts(device, task) == {"001": 20}
    assert len(double.tasks) == before + 1


def wide() -> SamplerPayload:
    """Circuits whose result has a register of its own that no device knows of."""
    circuit = QuantumCircuit(QuantumRegister(4), ClassicalRegister(2, "a"), ClassicalRegister(3))
    circuit.x(3)
    circuit.measure(3, 4)
    circuit.measure(1, 0)
    return SamplerPayload.coerce([circuit], shots=30)


@pytest.mark.parametrize("fault", [None, "lost"])
def test_a_result_is_read_after_a_restart(make, service, tmp_path, fault) -> None:
    double, _ = service
    first, tag = make(tmp_path), f"restart-{fault}"
    if fault is None:
        first.start(first.acquire(), wide(), tag)
    else:
        double.faults = [fault] * 2
        with pytest.raises(QpuUnavailable):
            first.start(first.acquire(), wide(), tag)
    before = len(double.tasks)
    first.close()
    second = make(tmp_path)
    assert second.target().durable
    task = second.find(tag)
    assert until(lambda: second.status(task) is TaskState.COMPLETED)
    result = second.result(task)
    registers = result.native[0].data
    assert registers.a.get_counts() == {"00": 30}
    (other,) = set(registers) - {"a"}
    assert registers[other].get_counts() == {"100": 30}
    assert (result.usage.shots, result.usage.circuits, result.usage.tasks) == (30, 1, 1)
    assert result.metadata["calibration_id"] == second.target().calibration.id
    assert second.start(second.acquire(), wide(), tag) == task
    assert len(double.tasks) == before


def test_a_result_is_read_after_the_death_of_the_child(make) -> None:
    device = make()
    task = device.start(device.acquire(), wide(), "child-died")
    child = device.device.calls.supervisor.child()
    child.kill()
    assert until(lambda: device.device.calls.supervisor.living is not child)
    assert device.status(task) is TaskState.COMPLETED
    assert device.result(task).native[0].data.a.get_counts() == {"00": 30}


def test_a_refused_repetition_keeps_what_a_lost_start_needs(make, service, tmp_path) -> None:
    double, _ = service
    device = make(tmp_path)
    double.faults = ["lost", "lost", "throttled", "throttled"]
    session = device.acquire()
    with pytest.raises(QpuUnavailable):
        device.start(session, flipped(), "refused-again")
    with pytest.raises(QpuBusy):
        device.start(session, flipped(), "refused-again")
    device.close()
    device = make(tmp_path)
    assert counts(device, device.find("refused-again")) == {"001": 20}


def test_another_folder_finds_a_task_and_cannot_read_it(device, make) -> None:
    task = device.start(device.acquire(), flipped(), "elsewhere")
    other = make()
    assert other.find("elsewhere") == task
    assert until(lambda: other.status(task) is TaskState.COMPLETED)
    with pytest.raises(QpuUnavailable, match="folder"):
        other.result(task)


@pytest.mark.parametrize(
    ("more", "seconds", "source"),
    [
        ({}, 0.0, "unknown"),
        ({"additionalMetadata": {"simulatorMetadata": {"executionDuration": 250}}}, 0.25, "stated"),
        ({"additionalMetadata": {"simulatorMetadata": {"executionDuration": -1}}}, 0.0, "unknown"),
        ({"additionalMetadata": {"simulatorMetadata": {"executionDuration": "1"}}}, 0.0, "unknown"),
        ({"additionalMetadata": []}, 0.0, "unknown"),
    ],
)
def test_time_is_what_the_service_states(device, service, monkeypatch, more, seconds, source):
    double, _ = service
    monkeypatch.setattr(double, "more", more)
    task = device.start(device.acquire(), flipped(), uuid.uuid4().hex)
    assert until(lambda: device.status(task) is TaskState.COMPLETED)
    result = device.result(task)
    assert result.usage.qpu_seconds == seconds
    assert result.metadata["qpu_seconds"].startswith(source)


def test_another_process_starts_a_tag_no_second_time(device, make, service) -> None:
    double, _ = service
    task, before = device.start(device.acquire(), flipped(), "shared"), len(double.tasks)
    other = make()
    assert other.find("shared") == task
    assert other.start(other.acquire(), flipped(), "shared") == task
    assert len(double.tasks) == before
    assert other.find("unused") is None


@pytest.mark.parametrize(
    ("fault", "error"), [("throttled", QpuBusy), ("offline", QpuBusy), ("denied", AccessDenied)]
)
def test_a_refusal_starts_nothing(device, service, fault, error) -> None:
    double, _ = service
    before = len(double.tasks)
    double.faults = [fault] * 2
    with pytest.raises(error):
        device.start(device.acquire(), flipped(), f"refused-{fault}")
    double.faults = []
    assert len(double.tasks) == before
    assert device.find(f"refused-{fault}") is None


def test_a_task_can_be_cancelled(device, service) -> None:
    double, _ = service
    double.faults = ["stuck"]
    task = device.start(device.acquire(), flipped(), "stuck")
    assert device.status(task) is TaskState.RUNNING
    device.stop(task)
    assert device.status(task) is TaskState.CANCELLED
    with pytest.raises(TaskCancelled):
        device.result(task)
    device.stop(task)


@pytest.mark.parametrize("task", ["no-such", "../../etc/passwd", "arn:aws:braket:::quantum-task/9"])
def test_an_unknown_task_is_said_to_be_unknown(device, task) -> None:
    with pytest.raises(UnknownTask):
        device.status(task)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"arn": ARN}, ["bucket"]),
        ({"arn": "qpu", "bucket": "b"}, ["qpu"]),
        ({"arn": ARN, "bucket": "b", "buckett": "c"}, ["buckett", "bucket"]),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        registry.create("braket", options, state_dir=tmp_path, environment=ENVIRONMENT)


def test_a_result_that_never_ends_is_none(device, service) -> None:
    double, _ = service
    task = device.start(device.acquire(), flipped(), "flooded")
    assert until(lambda: device.status(task) is TaskState.COMPLETED)
    double.flood = True
    try:
        with pytest.raises(TaskFailed, match="bytes"):
            device.result(task)
    finally:
        double.flood = False
    assert counts(device, task) == {"001": 20}
