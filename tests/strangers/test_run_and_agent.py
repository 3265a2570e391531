"""Another user of the machine beside a run, an agent and a broker: no code, no file, no call."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from orchestrator.agent.processes import marked
from tests.patience import until
from tests.strangers.stranger import (
    answers,
    as_stranger,
    listening,
    need_strangers,
    open_to_others,
    readable,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
FLOW = """
import time
from pathlib import Path
from hpcqc import classical, fan_out, quantum
from prefect import flow
from qiskit import QuantumCircuit

@classical
def total(count):
    return sum(fan_out(abs, range(count)))

@quantum
def heads(qpu, count):
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    job = qpu.sampler(seed=7).run([circuit], shots=count)
    return sum(job.result()[0].data.meas.get_counts().values())

@flow
def toss(gate: str, count: int = 40):
    result = total(count) + heads(count)
    if gate:
        Path(gate, "reached").touch()
        end = time.monotonic() + 400
        while not Path(gate, "go").exists() and time.monotonic() < end:
            time.sleep(0.1)
    return result
"""
BELL = """OPENQASM 2.0;
include "qelib1.inc";
qreg q[2];
creg c[2];
h q[0];
cx q[0], q[1];
measure q -> c;
"""
# Whatever of them a server has: a stranger's call succeeds nowhere.
CALLS = (
    ("POST", "/api/flows/"),
    ("POST", "/api/flow_runs/filter"),
    ("POST", "/api/deployments/filter"),
    ("GET", "/api/admin/settings"),
    ("GET", "/v1/whoami"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/qpus"),
    ("POST", "/v1/qpus/aer/drain"),
    ("GET", "/v1/statement"),
    ("GET", "/metrics"),
)


@dataclass(frozen=True)
class Place:
    """A folder that everybody can enter, with what a user has in it."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def trees(self) -> tuple[Path, ...]:
        names = ("state", "out", "prefect", "tmp")
        return tuple(self.folder / name for name in names if (self.folder / name).exists())

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "HPCQC_STATE_DIR": str(self.state),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(ROOT),
        }
        for name in ("PREFECT_API_URL", "PREFECT_LOGGING_TO_API_ENABLED"):
            environment.pop(name, None)
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0o022,
        )

    def __call__(self, *arguments: str) -> str:
        with self.begin(*arguments) as process:
            said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
        return said


@pytest.fixture
def place() -> Iterator[Place]:
    need_strangers()
    made = Place(Path(tempfile.mkdtemp(prefix="hpcqc-strangers-")))
    made.folder.chmod(0o755)
    (made.folder / "tmp").mkdir(mode=0o1777)
    (made.folder / "tmp").chmod(0o700)  # what is in it must be closed nevertheless: see below
    (made.folder / "toss.py").write_text(FLOW)
    (made.folder / "bell.qasm").write_text(BELL)
    try:
        yield made
    finally:
        with contextlib.suppress(AssertionError):
            made("agent", "stop")
        shutil.rmtree(made.folder, ignore_errors=True)


def assert_closed(ports: Sequence[int], pages: Sequence[int]) -> None:
    """Try everything on these ports. pages: those on which a server may refuse in HTTP."""
    found = answers(ports)
    for port, said in found.items():
        spoken = [answer for answer in said if not answer.startswith("http")]
        assert spoken == [], (port, said)
        assert port in pages or said == [], (port, said)
    assert set(pages) <= set(ports)
    for port in pages:
        for method, path in CALLS:
            assert status(port, method, path) in (401, 404, 405), (port, method, path)
            for host in ("attacker.example", f"attacker.example:{port}"):
                assert status(port, method, path, Host=host) in (400, 403, 421), (port, path, host)


def status(port: int, method: str, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, "{}", {"content-type": "application/json", **headers})
        return connection.getresponse().status
    finally:
        connection.close()


def assert_unreadable(place: Place) -> None:
    assert place.state.exists()
    assert readable(*place.trees) == []
    assert open_to_others(*place.trees) == []


def commands() -> str:
    """Return what every user sees of all processes."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return listed.stdout


def files(trees: Sequence[Path]) -> list[Path]:
    return [path for tree in trees for path in tree.rglob("*") if path.is_file()]


def is_server(process: psutil.Process) -> bool:
    return "prefect_service" in " ".join(process.cmdline())


def test_a_stranger_gets_nothing_of_a_run(place):
    gate = place.folder / "gate"
    gate.mkdir()
    out = ("--out", str(place.folder / "out"))
    with place.begin("run", "toss.py:toss", "-p", f"gate={gate}", *out) as running:
        until(lambda: (gate / "reached").exists() or running.poll() is not None, pause_s=0.1)
        assert running.poll() is None, running.communicate()[0]
        ports, named = listening([running.pid])
        assert named == [], "no Unix socket has a name"
        servers = [port for port, command in ports.items() if "prefect_service" in str(command)]
        assert len(servers) == 1
        assert len(ports) >= 4, "Prefect's server, and Dask's scheduler, nannies and workers"
        assert_closed(list(ports), servers)
        assert_unreadable(place)
        server = next(p for p in psutil.Process(running.pid).children() if is_server(p))
        secret = server.environ()["PREFECT_SERVER_API_AUTH_STRING"]
        assert secret not in commands()
        assert not any(secret in path.read_text(errors="replace") for path in files(place.trees))
        (gate / "go").touch()
        said, _ = running.communicate(timeout=400)
    assert running.returncode == 0, said
    assert_unreadable(place)


def test_a_stranger_gets_nothing_of_an_agent(place):
    place("agent", "start")
    place("deploy", "toss.py:toss")
    place("submit", "toss", "-p", "gate=", "--wait")
    pids = [process.pid for process in marked(place.state / "agent")]
    ports, named = listening(pids)
    addresses = json.loads((place.state / "agent" / "state.json").read_text())["addresses"]
    pages = [urlsplit(addresses[name]).port for name in ("prefect", "broker")]
    assert len(ports) >= 5, "Prefect, the broker, and Dask's scheduler, nannies and workers"
    assert named == [str(place.state / "broker.sock")] * len(named)
    assert_closed(list(ports), pages)
    assert_unreadable(place)
    call = f"import socket; socket.socket(socket.AF_UNIX).connect({named[0]!r})"
    assert "PermissionError" in as_stranger([sys.executable, "-I", "-c", call]).stderr
    status_page = place("agent", "status")
    assert addresses["prefect_page"].partition("#")[0] in status_page
    for secret in (
        (place.state / "agent" / "prefect-password").read_text(),
        (place.state / "agent" / "broker-token").read_text().strip(),
        "PRIVATE KEY",
    ):
        assert secret not in commands()
        logs = (place.state / "agent" / "logs").glob("*.log")
        assert all(secret not in log.read_text() for log in logs)


def test_a_name_that_others_took_in_the_temporary_folder_stops_no_agent(place):
    """Prefect's runner wants a fixed name there, which would be its first user's alone."""
    taken = place.folder / "tmp" / "runner_storage"
    taken.touch(mode=0o600)
    place("agent", "start")
    place("deploy", "toss.py:toss")
    place("submit", "toss", "-p", "gate=", "--wait")
    assert taken.read_bytes() == b""
    assert_unreadable(place)


@pytest.mark.parametrize(
    "work",
    [
        ("sample", "bell.qasm"),
        ("estimate", "toss.py:toss", "-p", "gate="),
        (
            "simulate",
            "--mix",
            "1",
            "--limit",
            "20",
            "--profile",
            "vlq",
            "--report",
            "tmp/study.html",
        ),
        ("broker", "token", "add", "someone", "--project", "theirs"),
        ("run", "toss.py:toss", "-p", "gate=", "--out", "out"),
    ],
    ids=lambda work: work[0],
)
def test_what_a_command_leaves_is_its_users_alone(place, work):
    place(*work)
    assert readable(*place.trees) == []
    assert open_to_others(*place.trees) == []


def test_a_state_folder_of_an_earlier_version_is_closed(place):
    (place.state / "qpus" / "aer").mkdir(mode=0o755, parents=True)
    (place.state / "qpus" / "aer" / "result").write_text("theirs")
    assert len(readable(place.state)) > 1
    place("sample", "bell.qasm")
    assert readable(place.state) == []


def test_an_output_folder_that_was_there_keeps_its_mode(place):
    out = place.folder / "out"
    out.mkdir(mode=0o755)
    place("run", "toss.py:toss", "-p", "gate=", "--out", "out")
    assert out.stat().st_mode & 0o777 == 0o755
    assert readable(out) == [str(out)]


def test_a_state_folder_that_cannot_be_closed_is_refused(place):
    place.state.mkdir()
    place.state.chmod(0o1777)
    with place.begin("run", "toss.py:toss", "-p", "gate=") as refused:
        said, _ = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert "other users can enter the state folder" in said
    assert "HPCQC_STATE_DIR" in said
