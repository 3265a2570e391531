"""The supervisor with real processes: it starts again what dies and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.agent.control import AgentStatus, status_of, stop_agent
from orchestrator.agent.folder import AgentFolder
from orchestrator.agent.processes import MARKER, end_marked, marked
from tests.patience import PATIENCE_S, until

SUPERVISED = Path(__file__).with_name("supervised.py")


@pytest.fixture
def folder(tmp_path) -> Iterator[AgentFolder]:
    made = AgentFolder(path=tmp_path / "agent")
    made.prepare()
    yield made
    stop_agent(made)  # whatever a test left


@pytest.fixture
def supervise(folder) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started = []

    def start(**extra: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {MARKER: str(folder.path), **extra}
        command = [sys.executable, str(SUPERVISED), str(folder.path.parent)]
        with folder.log_path("supervisor").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)
        started.append(process)
        return process

    yield start
    stop_agent(folder)
    for process in started:
        process.wait(PATIENCE_S)


def status_when(folder: AgentFolder, wanted: Callable[[AgentStatus], bool]) -> AgentStatus:
    def wanted_status() -> AgentStatus | None:
        status = status_of(folder)
        return status if wanted(status) else None

    log = folder.log_path("supervisor")
    return until(wanted_status, lambda: f"{status_of(folder)}\n{log.read_text()}")


def healthy(status: AgentStatus) -> bool:
    return status.is_healthy


def test_what_dies_is_started_again_and_nothing_is_left(folder, supervise):
    supervisor = supervise()
    before = status_when(folder, healthy)
    assert before.pid == supervisor.pid
    for name in ("one", "two"):
        os.kill(before.children[name]["pid"], signal.SIGKILL)
    after = status_when(
        folder, lambda s: s.is_healthy and all(c["restarts"] == 1 for c in s.children.values())
    )
    for name in ("one", "two"):
        assert after.children[name]["pid"] != before.children[name]["pid"]
        assert after.children[name]["last_exit"] == -signal.SIGKILL
    assert after.pid == before.pid

    stop_agent(folder)
    assert supervisor.wait(PATIENCE_S) == 0
    assert marked(folder.path) == []
    assert status_of(folder).phase == "stopped"


def test_children_end_with_a_supervisor_that_is_killed(folder, supervise):
    supervisor = supervise()
    before = status_when(folder, healthy)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not marked(folder.path), lambda: marked(folder.path))
    assert status_of(folder).phase == "stopped"

    again = supervise()
    after = status_when(folder, healthy)
    assert after.pid == again.pid != before.pid


@pytest.mark.slow
def test_the_next_supervisor_ends_what_will_not_end(folder, supervise):
    """A child that is stopped cannot notice that its supervisor is gone."""
    supervisor = supervise()
    stopped = status_when(folder, healthy).children["one"]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    supervisor.kill()
    supervisor.wait()
    supervise()
    status_when(folder, healthy)
    assert stopped not in {process.pid for process in marked(folder.path)}


def test_stop_ends_what_a_killed_agent_left(folder):
    sleeper = [sys.executable, "-c", "import time; time.sleep(900)"]
    with subprocess.Popen(sleeper, env=os.environ | {MARKER: str(folder.path)}) as left:
        assert stop_agent(folder).processes == 1
        assert left.wait(PATIENCE_S) == -signal.SIGTERM


def test_processes_of_backends_finish_what_they_accepted(folder):
    """They outlive a killed agent, to be found by the next broker; `stop` ends them too."""
    script = "import time; time.sleep(900)  # from backends.aer"
    with subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {MARKER: str(folder.path)}
    ) as simulation:
        assert end_marked(folder.path, 0.0, spare_backends=True) == 0
        assert simulation.poll() is None
        assert end_marked(folder.path, 0.0) == 1


def test_systemd_is_told_when_all_is_ready(folder, supervise, tmp_path):
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(str(place))
        hears.settimeout(20)
        supervisor = supervise(NOTIFY_SOCKET=str(place))
        assert hears.recv(1024).startswith(b"READY=1")
        assert status_of(folder).is_healthy
        supervisor.terminate()
        assert hears.recv(1024) == b"STOPPING=1"
        assert supervisor.wait(PATIENCE_S) == 0
