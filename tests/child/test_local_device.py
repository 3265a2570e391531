"""Tasks of a device whose SDK runs one circuit at a time."""

from __future__ import annotations

import threading
from array import array

import pytest

from backends.devices.api import FlatJob, FlatPub
from backends.devices.local import LocalDevice
from backends.errors import (
    PayloadRejected,
    QpuBusy,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    UnknownTask,
)
from tests.errors import naming
from tests.patience import PATIENCE_S, until


class Scripted:
    """Waits for ``go`` at each point; then raises ``error``, or returns zeros."""

    name = "scripted"

    def __init__(self, *, error=None, refusal=None) -> None:
        self.refusal, self.error = refusal, error
        self.go, self.cancelled = threading.Event(), threading.Event()
        self.ran = 0

    def target(self):
        return {"calibration": {"id": "c"}}

    def sample(self, pub, point, stopping):
        del point
        stopping.cancel_with(self.cancelled.set)
        self.ran += 1
        assert self.go.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return {"0": pub.shots}


def job(points=1) -> FlatJob:
    steps = (("measure", (0,), (0,), 0),)
    pub = FlatPub(num_qubits=1, num_clbits=1, steps=steps, angles=(array("d"),) * points, shots=5)
    return FlatJob(pubs=(pub,))


@pytest.fixture
def device():
    sampler = Scripted()
    made = LocalDevice(sampler)
    yield made, sampler
    sampler.go.set()
    made.close()


def test_a_task_runs_point_by_point(device) -> None:
    local, sampler = device
    task = local.start(job(3), "t")
    assert local.find("t") == task
    with pytest.raises(TaskNotFinished):
        local.result(task)
    sampler.go.set()
    assert local.wait(task, PATIENCE_S) == "completed"
    found = local.result(task)
    assert found.counts == (({"0": 5},) * 3,)
    assert found.metadata["peak_memory_bytes"] > 0
    assert local.result(task) is found
    assert local.start(job(), "t") == task
    assert sampler.ran == 3


def test_one_task_is_open_at_a_time(device) -> None:
    local, sampler = device
    first = local.start(job(), "first")
    with pytest.raises(QpuBusy):
        local.start(job(), "second")
    assert local.find("second") is None
    sampler.go.set()
    local.wait(first, PATIENCE_S)
    assert local.wait(local.start(job(), "second"), PATIENCE_S) == "completed"


def test_a_stopped_task_is_cancelled_at_once_and_its_job_asked_to_end(device) -> None:
    local, sampler = device
    task = local.start(job(2), "t")
    until(lambda: sampler.ran)
    local.stop(task)
    assert local.status(task) == "cancelled"
    assert sampler.cancelled.wait(PATIENCE_S)
    with pytest.raises(TaskCancelled):
        local.result(task)
    sampler.go.set()
    assert local.wait(local.start(job(), "next"), PATIENCE_S) == "completed"
    assert sampler.ran == 2  # the second point of the stopped task never ran
    assert local.status(task) == "cancelled"
    local.stop(task)


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (ValueError("no such qubit"), ["ValueError", "no such qubit"]),
        (MemoryError(), ["memory"]),
        (TaskFailed("job ended in ERROR"), ["job ended in ERROR"]),
        (SystemExit(3), ["SystemExit", 3]),
    ],
)
def test_what_an_sdk_raises_is_the_reason(error, named) -> None:
    sampler = Scripted(error=error)
    sampler.go.set()
    local = LocalDevice(sampler)
    task = local.start(job(), "t")
    assert local.wait(task, PATIENCE_S) == "failed"
    with pytest.raises(TaskFailed, match=naming(task, *named)):
        local.result(task)
    local.close()


def test_a_device_that_runs_nothing_says_so() -> None:
    local = LocalDevice(Scripted(refusal="it only describes a machine"))
    with pytest.raises(PayloadRejected, match=naming("describes")):
        local.start(job(), "t")
    assert local.find("t") is None
    local.close()


@pytest.mark.parametrize("call", ["status", "result", "stop"])
def test_unknown_tasks_are_unknown(device, call) -> None:
    with pytest.raises(UnknownTask):
        getattr(device[0], call)("no-such-task")


def test_old_results_are_forgotten_and_open_tasks_are_not(monkeypatch) -> None:
    monkeypatch.setattr("backends.devices.local._ENDED_TASKS", 3)
    sampler = Scripted()
    sampler.go.set()
    local = LocalDevice(sampler)
    for number in range(6):
        assert local.wait(local.start(job(), f"t{number}"), PATIENCE_S) == "completed"
    assert local.find("t0") is None
    assert local.find("t5") is not None
    local.close()
