"""A call whose Slurm job ends goes on under the next one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.fake import FakeBackend, read_script
from backends.timing import TimingModel
from hpcqc import Sampler, open_qpu
from orchestrator import resources, runs
from orchestrator.broker.client.protocol import AllocationEnded, WalltimeTooShort
from orchestrator.broker.core.grants import Grant
from orchestrator.broker.runtime.grant_watch import GrantState
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.resources import Resources
from orchestrator.runs import Run
from orchestrator.slurm.qpu_jobs import QpuJobs
from tests.errors import naming
from tests.patience import PATIENCE_S, until

ACCESS = SlurmAccess(gres="qpu:1", check_s=0.05)


class Granting:
    """Slurm jobs in whose order a run holds the QPU; those below ``first`` have ended."""

    def __init__(self) -> None:
        self.first = 1
        self.asked: list[int] = []
        self.mine = True

    def look(self, grants) -> dict[Grant, GrantState]:
        return {grant: self._state(grant.slurm_job) for grant in grants}

    def _state(self, job: int) -> GrantState:
        held = job >= self.first
        return GrantState(state="holds") if held else GrantState(state="ended", reason=f"job {job}")

    def closures(self) -> dict:
        return {}

    def current(self, qpu: str) -> int:
        return 1

    def following(self, qpu: str, ended: int) -> int | None:
        self.asked.append(ended)
        return ended + 1 if self.mine else None


@pytest.fixture
def granting(monkeypatch: pytest.MonkeyPatch) -> Granting:
    granting = Granting()
    monkeypatch.setattr(resources, "slurm_allocations", lambda _site: granting)
    monkeypatch.setattr(Resources, "slurm_job", granting.current)
    monkeypatch.setattr(Resources, "next_slurm_job", granting.following)
    return granting


@pytest.fixture
def device(
    granting: Granting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeBackend]:
    """The QPU of an active run, which a Slurm job grants; its first task never ends."""
    yield from opened({"stuck": [1]}, tmp_path, monkeypatch)


@pytest.fixture
def halting(
    granting: Granting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeBackend]:
    """As `device`; it takes one circuit at a time, and of its tasks every other one never ends."""
    script = {"stuck": list(range(2, 20, 2)), "max_circuits": 1}
    yield from opened(script, tmp_path, monkeypatch)


def opened(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeBackend]:
    qpu = FakeBackend(read_script(script), state_dir=tmp_path)
    monkeypatch.setattr(registry, "create", lambda *_, **__: qpu)
    site = Site(
        name="test",
        default_qpu="q",
        default_compute="local",
        qpus={"q": QpuSettings(name="q", backend="fake", slurm=ACCESS)},
        computes={"local": ComputeSettings(name="local", workers=1)},
        state_dir=tmp_path,
        source="test",
    )
    runs.activate(Run(id="granted", site=site))
    yield qpu
    resources.shutdown()
    runs.activate(None)


def sampled(shots: int, circuits: int = 1):
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    return Sampler(open_qpu(), seed=1).run([circuit] * circuits, shots=shots)


def test_a_task_that_was_stopped_runs_again_under_the_next_slurm_job(device, granting) -> None:
    job = sampled(10)
    until(lambda: device.starts)
    granting.first = 2
    assert job.result(PATIENCE_S)[0].data.meas.num_shots == 10
    assert granting.asked == [1]
    view = job.view()
    assert [task.state for task in view.tasks] == ["cancelled", "completed"]
    assert view.slurm_job == 2
    assert list(device.starts.values()) == [1, 1]


def test_a_slurm_job_that_is_not_the_runs_own_ends_the_call(device, granting) -> None:
    granting.first, granting.mine = 2, False
    with pytest.raises(AllocationEnded, match=naming(1)):
        sampled(10).result(PATIENCE_S)
    assert device.starts == {}


def test_jobs_that_never_hold_the_qpu_are_not_submitted_for_ever(device, granting) -> None:
    granting.first = 100
    with pytest.raises(AllocationEnded):
        sampled(10).result(PATIENCE_S)
    assert granting.asked == [1, 2, 3]
    assert device.starts == {}


def test_a_call_of_many_tasks_goes_on_as_long_as_some_complete(halting, granting) -> None:
    circuits = 6
    job = sampled(10, circuits)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(job.result, PATIENCE_S)
        for ended in range(1, circuits):
            until(lambda most=2 * ended: len(halting.starts) == most or result.done())
            granting.first = ended + 1
        found = result.result(PATIENCE_S)
    assert [pub.data.meas.num_shots for pub in found] == [10] * circuits
    assert granting.asked == list(range(1, circuits))
    states = [task.state for task in job.view().tasks]
    assert (states.count("completed"), states.count("cancelled")) == (circuits, circuits - 1)
    assert set(halting.starts.values()) == {1}


def test_a_task_that_had_a_whole_slurm_job_is_not_started_in_the_next(device, granting) -> None:
    granting.mine = False
    job = sampled(10)
    until(lambda: device.starts)
    granting.first = 2
    with pytest.raises(AllocationEnded):
        job.result(PATIENCE_S)
    view, qpu = job.view(), open_qpu()
    (task,) = view.tasks
    usable = timedelta(seconds=ACCESS.usable_s)
    qpu.check_stopped(replace(view, tasks=(replace(task, started_at=task.ended_at - usable / 2),)))
    whole = replace(view, tasks=(replace(task, started_at=task.ended_at - usable),))
    with pytest.raises(WalltimeTooShort, match=naming("[qpu.q.slurm]")):
        qpu.check_stopped(whole)
    assert not WalltimeTooShort.retryable


def test_a_task_that_no_slurm_job_is_long_enough_for_is_refused_before(
    device, granting, monkeypatch
) -> None:
    target = replace(device.target(), timing=TimingModel(init_s=2 * ACCESS.usable_s))
    monkeypatch.setattr(device, "target", lambda: target)
    with pytest.raises(WalltimeTooShort, match=naming("[qpu.q.slurm]")):
        sampled(10)
    assert device.starts == {}
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # of the user's own, which may be longer
    monkeypatch.setattr(QpuJobs, "is_inside", lambda *_: True)  # the user's own may be longer
    sampled(10)
    until(lambda: device.starts)
