"""What happens to Aer's tasks when processes die: theirs, their parent's, or both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.aer import create, worker_pool
from backends.aer.process import SpawnFailed
from backends.aer.spool import Spool
from backends.api import TaskCancelled, TaskFailed, TaskState, UnknownTask
from backends.frames import pack, unpack
from backends.payloads import SamplerPayload
from tests.backends.aer_payloads import bell, long_payload
from tests.errors import naming
from tests.patience import PATIENCE_S, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backend(tmp_path):
    backend = create({"processes": 2}, state_dir=tmp_path)
    yield backend
    backend.close()


def claims(folder, tag):
    record = Spool(folder / "tasks").read(tag)
    return record.claims if record else ()


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_killed_simulation_fails_its_task_and_no_other(backend, tmp_path):
    session = backend.acquire()
    doomed = backend.start(session, long_payload(), "doomed")
    until(lambda: claims(tmp_path, "doomed"))
    other = backend.start(session, bell(), "other")
    os.kill(claims(tmp_path, "doomed")[0].pid, signal.SIGKILL)
    assert backend.wait(doomed, 30) is TaskState.FAILED
    with pytest.raises(TaskFailed, match=naming("SIGKILL", "memory")):
        backend.result(doomed)
    assert backend.wait(other, PATIENCE_S) is TaskState.COMPLETED
    again = backend.start(session, bell(), "again")
    assert backend.wait(again, 60) is TaskState.COMPLETED


def test_a_process_that_dies_before_it_begins_costs_nothing(tmp_path):
    """As when it is killed for memory while idle, or for the task before, a moment too early."""
    backend = create({"processes": 1}, state_dir=tmp_path)
    session = backend.acquire()
    assert backend.wait(backend.start(session, bell(), "first"), 60) is TaskState.COMPLETED
    (pid,) = backend.pids
    os.kill(pid, signal.SIGSTOP)
    task = backend.start(session, bell(), "second")
    os.kill(pid, signal.SIGKILL)
    assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
    backend.close()


def test_a_task_that_no_process_survives_reading_fails(backend, monkeypatch):
    sent = []

    def unreadable(message, part):
        sent.append(part)
        return b"no task"

    monkeypatch.setattr("backends.aer.worker_pool.encode_task", unreadable)
    task = backend.start(backend.acquire(), bell(), "doomed")
    assert backend.wait(task, PATIENCE_S) is TaskState.FAILED
    with pytest.raises(TaskFailed, match=naming("exit code", 1)):
        backend.result(task)
    assert sent == [0, 0]


def test_a_failed_task_does_not_tell_where_the_server_has_its_files(backend, monkeypatch):
    encoded = worker_pool.encode_task

    def wrong(message, part):
        header, frames = unpack(encoded(message, part))
        header["blocks"][0][0]["unknown"] = 1
        return pack(header, frames)

    monkeypatch.setattr(worker_pool, "encode_task", wrong)
    task = backend.start(backend.acquire(), bell(), "wrong")
    assert backend.wait(task, PATIENCE_S) is TaskState.FAILED
    with pytest.raises(TaskFailed, match=r"unknown.*\(\w+\.py:\d+\)") as failed:
        backend.result(task)
    assert "/" not in str(failed.value)


def test_stop_kills_the_simulation(backend, tmp_path):
    session = backend.acquire()
    task = backend.start(session, long_payload(), "long")
    until(lambda: claims(tmp_path, "long"))
    pid = claims(tmp_path, "long")[0].pid
    backend.stop(task)
    assert backend.status(task) is TaskState.CANCELLED
    until(lambda: gone(pid))
    with pytest.raises(TaskCancelled):
        backend.result(task)
    queued = backend.start(session, long_payload(), "queued")
    backend.stop(queued)
    assert backend.status(queued) is TaskState.CANCELLED
    assert backend.wait(backend.start(session, bell(), "next"), 60) is TaskState.COMPLETED


def test_close_leaves_no_process(tmp_path):
    backend = create({"processes": 2}, state_dir=tmp_path)
    session = backend.acquire()
    running = backend.start(session, long_payload(), "running")
    until(lambda: claims(tmp_path, "running"))
    pids = [*backend.pids, claims(tmp_path, "running")[0].pid]
    assert len(pids) >= 2
    backend.close()
    until(lambda: all(gone(pid) for pid in pids))
    later = create({}, state_dir=tmp_path)
    assert later.status(running) is TaskState.CANCELLED
    later.close()


_PARENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from backends.aer import create, worker_pool
from tests.backends.aer_payloads import bell, long_payload
backend = create({{"processes": {processes}}}, state_dir=Path({folder!r}))
session = backend.acquire()
backend.wait(backend.start(session, bell(), "first"), 60)
for number, payload in enumerate({payloads}):
    backend.start(session, payload, f"task-{{number}}")
print("started", flush=True)
time.sleep(600)
"""


def start_parent(folder, payloads, processes=1):
    code = _PARENT.format(
        root=str(ROOT), folder=str(folder), payloads=payloads, processes=processes
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=folder, text=True
    )
    assert parent.stdout.readline() == "started\n"
    return parent


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_a_task_survives_its_parent(tmp_path, backend):
    parent = start_parent(tmp_path, "[long_payload(400), bell()]")
    until(lambda: claims(tmp_path, "task-0"))
    kill(parent)
    assert backend.find("first") is not None
    running = backend.find("task-0")
    assert backend.status(running) is TaskState.RUNNING
    assert not claims(tmp_path, "task-1"), "it waited in the dead parent and never began"
    session = backend.acquire()
    assert backend.start(session, long_payload(400), "task-0") == running, "adopted, not started"
    assert backend.find("never") is None
    assert backend.wait(backend.find("task-1"), 60) is TaskState.COMPLETED, "accepted, so it runs"
    assert backend.wait(running, 60) is TaskState.COMPLETED
    shots = backend.result(running).native[0].data.meas.get_counts()
    fresh = backend.start(session, long_payload(400), "fresh")
    backend.wait(fresh, 60)
    assert backend.result(fresh).native[0].data.meas.get_counts() == shots
    (claim,) = claims(tmp_path, "task-0")
    until(lambda: gone(claim.pid))  # it ended when it had nothing left to do


def test_a_task_that_died_with_its_parent_has_failed(tmp_path, backend):
    parent = start_parent(tmp_path, "[long_payload()]")
    until(lambda: claims(tmp_path, "task-0"))
    (claim,) = claims(tmp_path, "task-0")
    kill(parent)
    os.kill(claim.pid, signal.SIGKILL)
    until(lambda: gone(claim.pid))
    task = backend.find("task-0")
    assert backend.wait(task, PATIENCE_S) is TaskState.FAILED
    with pytest.raises(TaskFailed, match="parent"):
        backend.result(task)


def test_an_orphan_can_be_stopped(tmp_path, backend):
    parent = start_parent(tmp_path, "[long_payload()]")
    until(lambda: claims(tmp_path, "task-0"))
    (claim,) = claims(tmp_path, "task-0")
    kill(parent)
    task = backend.find("task-0")
    backend.stop(task)
    assert backend.status(task) is TaskState.CANCELLED
    assert gone(claim.pid)


@pytest.mark.parametrize("heard", [False, True], ids=["told nobody", "told its parent"])
def test_a_part_never_sent_is_taken_over(tmp_path, heard):
    """A worker holds the whole task, so it also runs what its dead parent had not given out."""
    import socket
    import threading

    from backends.aer.blocks import PubLoad, divide
    from backends.aer.wire import TaskMessage, encode_task, receive, send
    from backends.aer.worker import Worker

    ours, theirs = socket.socketpair()
    payload = bell(repeats=4)
    facts = {"ends_at": None}
    load = PubLoad(
        points=1, shots=((0, payload.pubs[0].shots),), is_drawn=False, seed=1, seconds=1.0
    )
    message = TaskMessage(
        tag="split",
        payload=payload,
        methods=("stabilizer",) * 4,
        seeds=(1,) * 4,
        blocks=tuple(divide([load] * 4, 2)),
        facts=facts,
    )
    settings = {"spool": str(tmp_path / "tasks"), "profile": None, "noiseless": False}
    thread = threading.Thread(target=Worker(theirs, settings).serve)
    thread.start()
    assert receive(ours) is not None  # it is ready
    send(ours, encode_task(message, 1))
    if heard:
        assert receive(ours) is not None  # its own part is done
    ours.close()
    thread.join(PATIENCE_S)
    theirs.close()
    record = Spool(tmp_path / "tasks").read("split")
    assert record.state is TaskState.COMPLETED
    assert {claim.part for claim in record.claims} == {0, 1}


def test_workers_that_cannot_start_fail_the_task(tmp_path, backend, monkeypatch):
    monkeypatch.setattr("backends.aer.launch._BOOT", "raise SystemExit('no licence')")
    task = backend.start(backend.acquire(), bell(), "task")
    assert backend.wait(task, PATIENCE_S) is TaskState.FAILED
    with pytest.raises(TaskFailed, match="no licence"):
        backend.result(task)


def test_the_first_backend_takes_the_preloaded_process(tmp_path):
    registry.preload("aer")
    (waiting,) = sys.modules["backends.aer.launch"]._preloaded
    backend = create({}, state_dir=tmp_path)
    try:
        task = backend.start(backend.acquire(), bell(), "task")
        assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
        assert backend._pool._spawner._zygote is waiting
        assert not sys.modules["backends.aer.launch"]._preloaded
    finally:
        backend.close()


def test_a_preloaded_process_that_nobody_needs_ends_with_its_parent():
    script = (
        "from backends import registry; registry.preload('aer');"
        "from backends.aer import preload as _; import sys;"
        "print(sys.modules['backends.aer.launch']._preloaded[0].process.pid);"
        "assert not {'qiskit', 'numpy', 'qiskit_aer'} & set(sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not psutil.pid_exists(int(told.stdout)), "it goes on loading Aer"


def test_preloading_leaves_mistakes_to_the_backend_itself():
    registry.preload("fake")  # it has nothing to load
    registry.preload("no such backend")


def test_a_folder_named_backends_beside_the_script_does_no_harm(tmp_path):
    for name in ("backends", "qiskit_aer_shadow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    parent = start_parent(tmp_path, "[]")
    kill(parent)
    backend = create({}, state_dir=tmp_path)
    assert backend.status(backend.find("first")) is TaskState.COMPLETED
    backend.close()


def test_an_id_of_another_folder_is_unknown(backend, tmp_path):
    with pytest.raises(UnknownTask):
        backend.status("aer-never")
    with pytest.raises(UnknownTask):
        backend.status("fake-never")


def wide(count=4):
    """Tasks worth splitting: 14 qubits, each a few tens of milliseconds."""
    circuit = QuantumCircuit(14)
    for layer in range(4):
        for qubit in range(14):
            circuit.ry(0.1 * (qubit + layer + 1), qubit)
        for qubit in range(13):
            circuit.cx(qubit, qubit + 1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit] * count, shots=100, seed=5)


def test_a_task_half_sent_goes_on_where_memory_has_gone(tmp_path, monkeypatch):
    backend = create({"processes": 2}, state_dir=tmp_path)
    pool = backend._pool
    monkeypatch.setattr(pool, "_room_for", lambda _: 2 if not pool._running else 0)
    monkeypatch.setattr(pool, "_cores", 2)
    task = backend.start(backend.acquire(), wide(), "t")
    until(lambda: backend.status(task).is_final)
    assert len(backend.result(task).native) == 4
    backend.close()


def test_a_worker_that_is_there_does_it_alone_where_no_other_starts(tmp_path, monkeypatch):
    backend = create({"processes": 2}, state_dir=tmp_path)
    session, pool = backend.acquire(), backend._pool
    first = backend.start(session, bell(), "first")
    until(lambda: backend.status(first).is_final)

    def refused(*_):
        raise SpawnFailed("no more processes")

    monkeypatch.setattr(pool._spawner, "spawn", refused)
    tasks = [backend.start(session, wide(), f"t{number}") for number in range(3)]
    until(lambda: all(backend.status(task).is_final for task in tasks))
    assert [backend.status(task) for task in tasks] == [TaskState.COMPLETED] * 3
    backend.close()
