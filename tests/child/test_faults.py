"""A child that dies, hangs, prints or grows is one clear error, and the next call goes on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.api import (
    QpuBusy,
    QpuUnavailable,
    TaskFailed,
    TaskState,
    UnknownSession,
    UnknownTask,
)
from backends.child import wire
from backends.child.environment import Environment, child_variables
from backends.payloads import SamplerPayload
from backends.plugins import PluginUnusable
from tests.child.awkward import ROOT, SERVE, environment, opened
from tests.errors import naming
from tests.patience import until


@pytest.fixture
def open_backend(tmp_path):
    """Open awkward backends, and close them at the end."""
    made = []

    def open_one(environment_=None, **options):
        made.append(opened(tmp_path, environment_, **options))
        return made[-1]

    yield open_one
    for backend in made:
        backend.close()


def bell() -> SamplerPayload:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=50)


def pid_of(backend) -> int:
    return backend.calls.supervisor.child().pid


def kill(backend) -> None:
    """Kill the child, and wait until its death is seen."""
    child = backend.calls.supervisor.child()
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: child.dead)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("exit", [7]),
        ("kill", [9, "SIGKILL"]),
        ("say and exit", [1, "the licence server is on fire"]),
    ],
)
def test_a_child_that_dies_is_restarted(open_backend, how, named) -> None:
    backend = open_backend(acquire=how)
    before = pid_of(backend)
    with pytest.raises(QpuUnavailable, match=naming("awkward", "acquire", *named)):
        backend.acquire()
    session = backend.acquire()
    assert pid_of(backend) != before
    task = backend.start(session, bell(), "t")
    assert until(lambda: backend.status(task).is_final)


def test_a_session_outlives_its_child(open_backend) -> None:
    backend = open_backend()
    session = backend.acquire()
    kill(backend)
    assert backend.start(session, bell(), "t")
    backend.release(session)


@pytest.mark.parametrize("leases", [True, False])
def test_a_lease_outlives_its_child(open_backend, tmp_path, leases) -> None:
    backend = open_backend(leases=leases)
    session = backend.acquire_lease("loop", 60.0)
    kill(backend)
    assert backend.start(session, bell(), "t")
    backend.release(session)
    if leases:
        assert (tmp_path / "leases").read_text().splitlines() == ["loop True"] * 2


def test_a_task_that_died_with_its_child_has_failed(open_backend) -> None:
    backend = open_backend(fake={"stuck": [1]})
    task = backend.start(backend.acquire(), bell(), "lost")
    assert backend.status(task) is TaskState.RUNNING
    kill(backend)
    assert backend.status(task) is TaskState.FAILED
    with pytest.raises(TaskFailed, match=naming(task, 9)):
        backend.result(task)
    backend.stop(task)
    assert backend.find("lost") == task
    assert backend.start(backend.acquire(), bell(), "lost") == task
    with pytest.raises(UnknownTask):
        backend.status("fake-of-nobody")


def test_a_durable_task_is_found_after_the_answer_was_lost(open_backend) -> None:
    backend = open_backend(start="exit after", durable=True)
    session = backend.acquire()
    with pytest.raises(QpuUnavailable):
        backend.start(session, bell(), "once")
    task = backend.find("once")
    assert task is not None
    assert backend.start(session, bell(), "once") == task
    assert until(lambda: backend.status(task).is_final)
    assert sum(backend.result(task).native[0].data.meas.get_counts().values()) == 50


def test_a_call_that_hangs_is_bounded_and_others_go_on(open_backend) -> None:
    backend = open_backend(environment(call_s=1.0), acquire="hang")
    pid = pid_of(backend)
    with pytest.raises(QpuUnavailable, match=naming("acquire", 1)):
        backend.acquire()
    assert backend.target().name == "fake"
    assert pid_of(backend) == pid


def test_the_target_is_known_while_there_is_no_child(open_backend) -> None:
    backend = open_backend()
    target = backend.target()
    pid = pid_of(backend)
    kill(backend)
    assert backend.target() == target
    assert backend.calls.supervisor.living is None  # asking for it starts no other
    assert backend.acquire()
    assert pid_of(backend) != pid


def test_a_child_that_is_frozen_is_killed(open_backend, monkeypatch) -> None:
    monkeypatch.setattr("backends.child.process._PING_S", 0.5)
    backend = open_backend(environment(call_s=1.0), acquire="freeze")
    pid = pid_of(backend)
    with pytest.raises(QpuUnavailable, match=naming("acquire")):
        backend.acquire()
    assert until(lambda: is_gone(pid))
    assert backend.acquire()


def test_a_frozen_child_does_not_block_a_large_payload(open_backend, monkeypatch) -> None:
    monkeypatch.setattr("backends.child.process._PING_S", 0.5)
    backend = open_backend(environment(call_s=1.0))
    session = backend.acquire()
    os.kill(pid_of(backend), signal.SIGSTOP)
    circuit = QuantumCircuit(10, 10)
    for turn in range(40_000):
        circuit.rx(turn / 7, turn % 10)
    circuit.measure(range(10), range(10))
    with pytest.raises(QpuUnavailable, match=naming("start", 1)):
        backend.start(session, SamplerPayload.coerce([circuit], shots=1), "large")
    assert backend.acquire()


def test_garbage_on_the_pipe_is_shown(open_backend) -> None:
    backend = open_backend(acquire="garbage")
    with pytest.raises(QpuUnavailable, match=naming("Segmentation fault")):
        backend.acquire()
    assert backend.acquire()


@pytest.mark.parametrize(("how", "raised"), [("busy", QpuBusy), ("no session", UnknownSession)])
def test_an_error_has_a_time_to_come_back_only_if_that_is_one(open_backend, how, raised) -> None:
    with pytest.raises(raised) as caught:
        open_backend(acquire=how).acquire()
    assert getattr(caught.value, "retry_after_s", None) is None


def test_an_answer_to_no_call_is_left(tmp_path) -> None:
    served = """
import os
from backends.child.wire import Line
line = Line(0, os.dup(1))
line.send({"protocols": [1]}, timeout_s=60)
line.receive()
line.send({"opened": True}, timeout_s=60)
while True:
    number = line.receive()[0]["id"]
    for answered in ([number], {}, True, None, number + 1, number):
        line.send({"id": answered, "task": answered}, timeout_s=60)
"""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{served}"
    backend = opened(tmp_path, Environment(command=(sys.executable, "-c", code)))
    assert backend.calls.ask("find", {})[0]["task"] == 1
    assert backend.calls.ask("find", {})[0]["task"] == 2
    backend.calls.supervisor.child().kill()
    backend.close()


def test_what_an_sdk_prints_does_no_harm(open_backend) -> None:
    assert open_backend(open="print").acquire()


def test_an_unexpected_error_is_reported_with_its_kind(open_backend) -> None:
    backend = open_backend(acquire="raise")
    with pytest.raises(QpuUnavailable, match=naming("KeyError", "qubit 7", "acquire")):
        backend.acquire()


def test_memory_is_bounded_and_reported(open_backend) -> None:
    backend = open_backend(environment(memory_bytes=2 << 30), acquire="memory")
    with pytest.raises(QpuUnavailable, match=naming(2 << 30, "environment_memory")):
        backend.acquire()
    memory = backend.calls.memory()
    assert 0 < memory["memory_bytes"] <= memory["peak_memory_bytes"] < 2 << 30


def test_a_child_that_dies_again_and_again_is_not_restarted_without_end(open_backend) -> None:
    backend = open_backend(acquire="exit", always=True)
    for _ in range(3):
        with pytest.raises(QpuUnavailable, match=naming(7)):
            backend.acquire()
    with pytest.raises(QpuUnavailable) as caught:
        backend.acquire()
    assert caught.value.retry_after_s > 0


def test_closing_ends_the_process(open_backend) -> None:
    backend = open_backend()
    pid = pid_of(backend)
    backend.close()
    backend.close()
    assert is_gone(pid)
    with pytest.raises(QpuUnavailable):
        backend.acquire()


def test_a_child_gets_no_secret_of_the_environment(open_backend, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("IQM_TOKEN", "secret")
    monkeypatch.setenv("WANTED", "by this backend")
    open_backend(variables=True).target()
    names = set((tmp_path / "variables").read_text().split())
    assert {"PATH", "WANTED"} <= names
    assert names <= child_variables(("WANTED",)).keys() | {"LC_CTYPE"}  # which Python sets
    assert "IQM_TOKEN" not in names


def test_options_are_not_in_the_command_line(open_backend) -> None:
    backend = open_backend(token="very-secret")
    command = Path(f"/proc/{pid_of(backend)}/cmdline").read_bytes()
    assert b"very-secret" not in command


@pytest.mark.parametrize(
    ("where", "named"),
    [
        (Environment(interpreter="/no/such/python"), ["/no/such/python", "No such file"]),
        (Environment(interpreter="/bin/false"), [1]),
        (Environment(interpreter=str(Path(__file__).parent)), ["Permission denied"]),
        (Environment(command=("echo", "welcome to the cluster")), ["welcome to the cluster"]),
        (Environment(command=("sleep", "60"), open_s=0.5), [0.5]),
        (Environment(command=(sys.executable, "-c", SERVE), memory_bytes=1 << 20), []),
    ],
    ids=["absent", "no Python", "a folder", "prints", "silent", "too little memory"],
)
def test_a_wrong_environment_is_refused(tmp_path, where, named) -> None:
    with pytest.raises(PluginUnusable, match=naming("fake", *named)):
        registry.create("fake", {}, state_dir=tmp_path, environment=where)


def test_an_sdk_that_does_not_import_is_named(open_backend) -> None:
    with pytest.raises(
        PluginUnusable, match=naming("no_such_sdk", "hpcqc backends install awkward")
    ):
        open_backend(**{"import": "no_such_sdk"})


def test_opening_is_bounded(open_backend) -> None:
    with pytest.raises(PluginUnusable, match=naming(2)):
        open_backend(environment(open_s=2.0), open="hang")


def test_wrong_options_are_refused_as_in_process(tmp_path) -> None:
    with pytest.raises(PluginUnusable, match=naming("queue")):
        registry.create("fake", {"queue": 1}, state_dir=tmp_path, environment=Environment.current())


@pytest.mark.parametrize("spoken", [[], [wire.PROTOCOL + 1], "1", None])
def test_another_version_of_the_protocol_is_refused(tmp_path, spoken) -> None:
    code = (
        f"{SERVE.rsplit(';', 1)[0]}; import os; from backends.child.wire import Line; "
        f"Line(0, os.dup(1)).send({{'protocols': {spoken!r}}}, timeout_s=9); sys.stdin.read()"
    )
    other = Environment(command=(sys.executable, "-c", code))
    with pytest.raises(PluginUnusable, match=naming(wire.PROTOCOL, "same version")):
        registry.create("fake", {}, state_dir=tmp_path, environment=other)
