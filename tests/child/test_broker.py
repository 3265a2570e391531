"""A broker whose QPU is in a child that dies: every task runs once, or its end is known."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from qiskit import QuantumCircuit

from backends.api import AccessDenied, start_with_labels
from backends.fake import create as fake
from backends.payloads import SamplerPayload
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.pacing import Pacing
from orchestrator.config.qpu_tables import QpuSettings
from tests.child.awkward import ROOT, opened
from tests.patience import PATIENCE_S, until


def run_jobs(tmp_path, number, *, kill_after_start=False, **options):
    """Run jobs on an awkward child; return their final views."""
    backend = opened(tmp_path / "q", **options)
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    payload = CheckedPayload.of(SamplerPayload.coerce([circuit], shots=10, seed=1))

    async def work():
        ledger = Ledger.open(tmp_path / "ledger.sqlite")
        broker = Broker(
            qpus={"q": QpuSettings(name="q", backend="awkward")},
            ledger=ledger,
            clock=lambda: datetime.now(UTC),
            open_backend=lambda _name: backend,
            pacing=Pacing(watch_s=0.05, stalled_s=0.01),
        )
        await broker.open()
        try:
            jobs = []
            for call in range(number):
                request = JobRequest(run="r", call=call, qpu="q", project="p1")
                jobs.append((await broker.submit(request, "ada", payload))[0])
            if kill_after_start:
                while not any(t.qpu_task for t in (await broker.view(jobs[0].id)).tasks):
                    await asyncio.sleep(0.01)
                os.kill(backend.calls.supervisor.child().pid, signal.SIGKILL)
            return [await broker.wait(job.id, PATIENCE_S) for job in jobs]
        finally:
            await broker.close()
            ledger.close()

    (tmp_path / "q").mkdir()
    return asyncio.run(asyncio.wait_for(work(), PATIENCE_S))


@pytest.mark.parametrize("call", ["start", "status", "result", "acquire", "target"])
@pytest.mark.parametrize("how", ["exit", "exit after", "garbage"])
def test_a_child_that_dies_in_a_call_costs_no_task_and_doubles_none(tmp_path, call, how) -> None:
    ends = run_jobs(tmp_path, 3, durable=True, **{call: how})
    assert [job.state for job in ends] == [JobState.COMPLETED] * 3
    started = fake({"durable": True}, state_dir=tmp_path / "q").starts
    # Jobs that wait together while the child is replaced may share a task.
    completed = {task.tag for job in ends for task in job.tasks if task.state == "completed"}
    assert set(started) == completed
    assert set(started.values()) == {1}


def test_a_task_that_dies_with_its_child_fails_and_says_why(tmp_path) -> None:
    slow = {"run_s": 3600.0}
    (job,) = run_jobs(tmp_path, 1, kill_after_start=True, fake=slow)
    assert job.state is JobState.FAILED
    assert "SIGKILL" in (job.error or "")


def test_a_durable_task_goes_on_while_its_child_is_replaced(tmp_path) -> None:
    slow = {"run_s": 2.0}
    (job,) = run_jobs(tmp_path, 1, kill_after_start=True, durable=True, fake=slow)
    assert job.state is JobState.COMPLETED
    started = fake({"durable": True}, state_dir=tmp_path / "q").starts
    assert set(started.values()) == {1}


def test_a_child_does_not_outlive_a_killed_parent(tmp_path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; "
        "from tests.child.awkward import opened; "
        f"backend = opened(Path({str(tmp_path)!r})); "
        "print(backend.calls.supervisor.child().pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    until(lambda: not os.path.exists(f"/proc/{child}"))  # noqa: PTH110


def test_labels_reach_a_backend_that_hands_tasks_on(tmp_path) -> None:
    (tmp_path / "q").mkdir()
    backend = opened(tmp_path / "q", forwards=True)
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    payload = SamplerPayload.coerce([circuit], shots=10, seed=1)
    session = backend.acquire()
    start_with_labels(backend, session, payload, "t", ("jurisdiction:EU", "personal"))
    assert (tmp_path / "q" / "labels").read_text() == "jurisdiction:EU personal"
    # As an environment with an earlier version introduces itself.
    child = backend.calls.supervisor.child()
    child.about = {name: value for name, value in child.about.items() if name != "labels"}
    with pytest.raises(AccessDenied, match="personal"):
        start_with_labels(backend, session, payload, "u", ("personal",))
    assert backend.find("u") is None
    backend.close()
