"""The agent's folder and the identity of its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict

import pytest

from orchestrator.agent.folder import AgentError, AgentFolder, AgentRunning, replace_json
from orchestrator.agent.plan import listen
from orchestrator.agent.processes import MARKER, ProcessIdentity, end_marked, marked
from tests.errors import naming

SLEEP = [sys.executable, "-c", "import time; time.sleep(900)"]


@pytest.fixture
def folder(tmp_path):
    made = AgentFolder(path=tmp_path / "agent")
    made.prepare()
    return made


def test_a_second_holder_is_refused_and_told_who_holds_it(folder):
    with folder.locked():
        assert folder.is_locked()
        with pytest.raises(AgentRunning, match=naming(os.getpid())), folder.locked():
            pass
    assert not folder.is_locked()
    with folder.locked():
        pass


def test_a_holder_that_was_killed_holds_nothing(folder):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from orchestrator.agent.folder import AgentFolder\n"
        "with AgentFolder(path=Path(sys.argv[1])).locked():\n    print('held', flush=True)\n"
        "    time.sleep(900)\n"
    )
    command = [sys.executable, "-c", script, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert folder.is_locked()
        holder.kill()
    assert not folder.is_locked()
    left = folder.owner()
    assert left is not None
    assert left.pid == holder.pid
    assert not left.is_alive()


def test_what_is_said_is_replaced_as_a_whole(folder):
    replace_json(folder.state_path, {"phase": "ready"})
    assert folder.read_state() == {"phase": "ready"}
    folder.state_path.write_text("{torn")
    assert folder.read_state() == {}
    replace_json(folder.state_path, [1])
    assert folder.read_state() == {}
    assert [path.name for path in folder.path.iterdir() if path.is_file()] == ["state.json"]


def test_only_its_user_may_look_into_the_folder(folder):
    assert folder.path.stat().st_mode & 0o077 == 0


def test_an_unusable_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentError, match=naming("HPCQC_STATE_DIR")):
        AgentFolder(path=tmp_path / "file" / "agent").prepare()


def test_a_process_is_told_from_another_with_its_number(tmp_path):
    with subprocess.Popen(SLEEP) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity.is_alive()
        replace_json(tmp_path / "p.json", asdict(identity))
        assert ProcessIdentity.read(tmp_path / "p.json") == identity
        other = ProcessIdentity(
            pid=identity.pid, started=identity.started - 1, host=identity.host, boot=identity.boot
        )
        assert not other.is_alive()
        assert not other.signal(signal.SIGKILL)
        assert process.poll() is None
        assert identity.signal(signal.SIGKILL)
    assert not identity.is_alive()
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(process.pid)


@pytest.mark.slow
def test_marked_processes_are_found_and_ended(tmp_path):
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True); time.sleep(900)"
    environment = os.environ | {MARKER: str(tmp_path)}
    with (
        subprocess.Popen(SLEEP, env=environment) as meek,
        subprocess.Popen([sys.executable, "-c", stubborn], env=environment, stdout=-1) as hard,
        subprocess.Popen(SLEEP) as foreign,
    ):
        assert hard.stdout is not None
        hard.stdout.readline()
        assert {process.pid for process in marked(tmp_path)} == {meek.pid, hard.pid}
        assert end_marked(tmp_path, 0.0) == 2
        assert meek.wait() == -signal.SIGTERM
        assert hard.wait() == -signal.SIGKILL
        assert foreign.poll() is None
        foreign.kill()


def test_a_port_that_was_asked_for_and_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AgentError, match=naming(port, "--prefect-port")):
            listen(port, 0, "--prefect-port")
        free = listen(0, port, "--prefect-port")
        assert free.port != port
        free.socket.close()
    again = listen(0, port, "--prefect-port")
    assert again.port == port
    again.socket.close()
