"""The fake QPU fails exactly as its script specifies."""

from __future__ import annotations

import time

import pytest
from qiskit import QuantumCircuit

from backends.api import (
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    TaskState,
)
from backends.fake import create
from backends.payloads import EstimatorPayload, SamplerPayload
from backends.plugins import PluginUnusable
from tests.errors import naming


def bell(shots=20, seed=None):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots, seed=seed)


def make(tmp_path, **options):
    qpu = create(options, state_dir=tmp_path)
    return qpu, qpu.acquire()


def test_a_refused_start_began_nothing(tmp_path):
    qpu, session = make(tmp_path, faults=[{"call": "start", "on": [1]}])
    with pytest.raises(QpuUnavailable, match=naming("start", 1)):
        qpu.start(session, bell(), "t")
    assert qpu.find("t") is None
    assert qpu.starts == {}
    qpu.start(session, bell(), "t")
    assert qpu.starts == {"t": 1}


def test_a_lost_answer_leaves_a_task(tmp_path):
    qpu, session = make(tmp_path, faults=[{"call": "start", "kind": "lost", "on": [1]}])
    with pytest.raises(QpuUnavailable, match="lost"):
        qpu.start(session, bell(), "t")
    assert qpu.status(qpu.find("t")) is TaskState.COMPLETED
    assert qpu.starts == {"t": 1}


@pytest.mark.parametrize("call", ["status", "result", "find"])
def test_polls_fail_when_told_to(tmp_path, call):
    qpu, session = make(tmp_path, faults=[{"call": call, "on": [1, 3]}])
    task = qpu.start(session, bell(), "t")
    argument = "t" if call == "find" else task
    for number in (1, 2, 3, 4):
        if number in (1, 3):
            with pytest.raises(QpuUnavailable):
                getattr(qpu, call)(argument)
        else:
            getattr(qpu, call)(argument)
    assert qpu.calls[call] == 4


def test_a_fault_without_numbers_strikes_always(tmp_path):
    qpu, session = make(tmp_path, faults=[{"call": "start", "kind": "busy"}])
    for _ in range(3):
        with pytest.raises(QpuBusy):
            qpu.start(session, bell(), "t")


def test_tasks_take_the_time_the_script_gives(tmp_path):
    qpu, session = make(tmp_path, queue_s=0.1, run_s=0.1)
    task = qpu.start(session, bell(), "t")
    assert qpu.status(task) is TaskState.QUEUED
    with pytest.raises(TaskNotFinished):
        qpu.result(task)
    seen = set()
    while (state := qpu.status(task)) is not TaskState.COMPLETED:
        seen.add(state)
        time.sleep(0.005)
    assert TaskState.RUNNING in seen
    assert qpu.result(task).usage.qpu_seconds == 0.1


def test_tasks_fail_and_hang_by_their_number(tmp_path):
    qpu, session = make(tmp_path, fail=[2], stuck=[3], max_concurrent_tasks=None)
    first, second, third = (qpu.start(session, bell(), f"t{n}") for n in range(3))
    assert qpu.status(first) is TaskState.COMPLETED
    with pytest.raises(TaskFailed, match=naming(2)):
        qpu.result(second)
    assert qpu.status(third) is TaskState.RUNNING
    qpu.stop(third)
    with pytest.raises(TaskCancelled):
        qpu.result(third)


def test_the_calibration_drifts(tmp_path):
    qpu, session = make(tmp_path, drift_every=2)
    ids = []
    for number in range(4):
        ids.append(qpu.target().calibration.id)
        task = qpu.start(session, bell(), f"t{number}")
        assert qpu.result(task).metadata["calibration_id"] == ids[-1]
    assert ids == ["fake-0", "fake-0", "fake-1", "fake-1"]


def test_a_full_device_is_busy(tmp_path):
    qpu, session = make(tmp_path, run_s=30)
    task = qpu.start(session, bell(), "t1")
    with pytest.raises(QpuBusy):
        qpu.start(session, bell(), "t2")
    assert qpu.start(session, bell(), "t1") == task
    qpu.stop(task)
    qpu.start(session, bell(), "t2")


def test_durable_tasks_outlive_the_instance(tmp_path):
    options = {"durable": True, "run_s": 0.0}
    qpu, session = make(tmp_path, **options)
    task = qpu.start(session, bell(), "t")
    counts = qpu.result(task).native[0].data.meas.get_counts()
    later, session = make(tmp_path, **options)
    assert later.find("t") == task
    assert later.result(task).native[0].data.meas.get_counts() == counts
    assert later.start(session, bell(), "t") == task
    assert later.starts == {"t": 1}


def test_physics_is_exact_and_seeded(tmp_path):
    qpu, session = make(tmp_path, max_concurrent_tasks=None)
    estimate = EstimatorPayload.coerce(
        [(bell().pubs[0].circuit.circuit.remove_final_measurements(inplace=False), ["ZZ", "XX"])]
    )
    evs = qpu.result(qpu.start(session, estimate, "e")).native[0].data.evs
    assert evs == pytest.approx([1, 1])
    one = qpu.result(qpu.start(session, bell(seed=4), "a")).native[0].data.meas
    two = qpu.result(qpu.start(session, bell(seed=4), "b")).native[0].data.meas
    assert one == two


def test_limits_of_the_target_are_kept(tmp_path):
    qpu, session = make(tmp_path, max_shots=10, num_qubits=1)
    with pytest.raises(PayloadRejected, match=naming(1)):
        qpu.start(session, bell(), "t")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faultz": []}, "'faults'"),
        ({"faults": [{"call": "dance"}]}, "call"),
        ({"faults": [{"call": "start", "kind": "odd"}]}, "kind"),
        ({"faults": [{"call": "start", "when": 1}]}, naming("when")),
    ],
)
def test_a_wrong_script_is_refused(tmp_path, options, message):
    with pytest.raises(PluginUnusable, match=message):
        create(options, state_dir=tmp_path)
