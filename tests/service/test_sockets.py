"""The broker's sockets: open while it restarts, and checked by clients."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from backends.unix_sockets import LONGEST_PATH, listen_at
from orchestrator.agent.folder import AgentError
from orchestrator.agent.plan import listen_unix
from orchestrator.broker.api.serving import Listener, ListenError
from orchestrator.broker.client.http import BrokerRefused, BrokerUnreachable, Exchange, RemoteBroker
from orchestrator.broker.client.models import Health
from tests.errors import naming
from tests.patience import PATIENCE_S
from tests.service.calls import request_head
from tests.service.conftest import ROOT

STRANGER = 64999
LOCAL = "http://localhost"
# Passes the sockets 3, 4, … to the command that follows, as systemd does: sd_listen_fds(3).
PASSING = """
import os, sys
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[1], "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.argv[3], sys.argv[3:])
"""
# Listens on a path as another user, prints a line, and then what it was sent.
LISTENING = """
import os, socket, sys
path, uid, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if folder:
    os.mkdir(folder, 0o755)
    os.chown(folder, uid, uid)
os.setgroups([]), os.setgid(uid), os.setuid(uid)
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
os.chmod(path, 0o666)
listening.listen(5)
print("listening", flush=True)
connection, _ = listening.accept()
connection.settimeout(60)
print(connection.recv(65536), flush=True)
"""


@contextmanager
def another_listens(path: Path, folder: str = "") -> Iterator[subprocess.Popen[str]]:
    if os.geteuid() != 0:
        pytest.skip("only root can listen as another user")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LISTENING, str(path), str(STRANGER), folder],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    yield process
    process.kill()
    process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder in which any user may make files, as in /tmp."""
    with tempfile.TemporaryDirectory(prefix="hpcqc-", dir="/tmp") as made:
        Path(made).chmod(0o1777)
        yield Path(made)


def test_nothing_is_sent_to_a_socket_that_anybody_could_have_made(public: Path) -> None:
    path = public / "broker.sock"
    with another_listens(path) as listening:
        exchange = Exchange(f"unix:{path}", token="hpcqc_secret", patience_s=60)
        with pytest.raises(BrokerRefused, match=naming(64999, path)):
            exchange.ask("GET", "/v1/whoami")
        exchange.close()
        assert listening.stdout is not None
        assert listening.stdout.readline() == "b''\n"


def test_nor_to_one_in_a_folder_that_anybody_could_have_made(public: Path) -> None:
    folder = public / "hpcqc"
    with another_listens(folder / "broker.sock", str(folder)) as listening:
        told = pytest.raises(BrokerRefused, match=naming(folder))
        client = RemoteBroker(f"unix:{folder / 'broker.sock'}", token="secret", patience_s=3)
        with closing(client), told:
            client.health()
        assert listening.stdout is not None
        assert listening.stdout.readline() == "b''\n"


def test_a_broker_of_another_user_in_a_folder_of_its_own_is_asked(tmp_path: Path) -> None:
    """As /run/hpcqc is: it, and all folders above, can be written by their owners alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can listen as another user")
    folder = Path("/run") / f"hpcqc-test-{os.getpid()}"
    try:
        with another_listens(folder / "b.sock", str(folder)) as listening:
            exchange = Exchange(f"unix:{folder / 'b.sock'}", token="hpcqc_secret", patience_s=0)
            assert listening.stdout is not None
            with pytest.raises(BrokerUnreachable):  # it says nothing and ends
                exchange.ask("GET", "/v1/whoami")
            exchange.close()
            assert "hpcqc_secret" in listening.stdout.readline()
    finally:
        (folder / "b.sock").unlink(missing_ok=True)
        folder.rmdir()


def test_an_answer_that_cannot_be_read_is_none() -> None:
    told = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_server(("127.0.0.1", 0)) as faulty:
        faulty.settimeout(60)

        def answer() -> None:
            connection, _ = faulty.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(told)

        answering = threading.Thread(target=answer)
        answering.start()
        url = f"http://127.0.0.1:{faulty.getsockname()[1]}"
        exchange = Exchange(url, token=None, patience_s=0)
        with closing(exchange), pytest.raises(BrokerUnreachable):
            exchange.ask("GET", "/v1/whoami")
        answering.join()


def test_a_question_of_health_carries_no_token() -> None:
    """Whoever listens on the port while the broker is away learns nothing."""
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        squatter.settimeout(60)
        url = f"http://127.0.0.1:{squatter.getsockname()[1]}"
        with closing(RemoteBroker(url, token="hpcqc_secret")) as client:
            asking = threading.Thread(target=client.health)
            asking.start()
            connection, _ = squatter.accept()
            asked = connection.recv(65536)
            body = (
                Health(status="ok", reason=None, ledger="ok", qpus={}, queued=0, version="1")
                .model_dump_json()
                .encode()
            )
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            asking.join(PATIENCE_S)
            connection.close()
    assert asked.startswith(b"GET /health ")
    assert b"hpcqc_secret" not in asked
    assert b"authorization" not in asked.lower()


@pytest.mark.slow
def test_sockets_of_systemd_stay_open_while_the_broker_restarts(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[qpu.fake]\nbackend = "fake"\n')
    with tempfile.TemporaryDirectory(prefix="hpcqc-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        paths = [Path(made) / "broker.sock", Path(made) / "proxy.sock"]
        passed = [socket.socket(socket.AF_UNIX) for _ in paths]
        for one, path in zip(passed, paths, strict=True):
            one.bind(str(path))
            path.chmod(0o666)
            one.listen(10)
        passed.append(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{passed[2].getsockname()[1]}"
        names = "hpcqc-broker.socket:token-only:hpcqc-broker.socket"

        def start() -> subprocess.Popen[str]:
            arguments = ["broker", "serve", "--site", str(site)]
            for at, one in enumerate(passed):
                os.dup2(one.fileno(), 103 + at)
            moved = "import os; [os.dup2(100 + n, n) for n in (3, 4, 5)];"
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    moved + PASSING,
                    "3",
                    names,
                    sys.executable,
                    "-m",
                    "orchestrator.cli",
                    *arguments,
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=(103, 104, 105),
                env=os.environ | {"PYTHONPATH": str(ROOT), "HPCQC_STATE_DIR": str(tmp_path / "s")},
            )
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("ready"):
                    break
            return process

        broker = start()
        for _ in range(2):
            found = []
            for path in paths:
                transport = httpx.HTTPTransport(uds=str(path))
                with httpx.Client(transport=transport, base_url=LOCAL, timeout=PATIENCE_S) as peer:
                    found.append(peer.get("/v1/whoami"))
            assert [answer.status_code for answer in found] == [200, 401]
            assert found[0].json()["role"] == "operator"
            assert httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200
            broker.terminate()
            assert broker.wait(PATIENCE_S) == 0
            broker.communicate()
            assert all(path.is_socket() for path in paths)
            with pytest.raises(OSError, match="in use"):  # nobody can take the place
                socket.create_server(("127.0.0.1", passed[2].getsockname()[1]))
            # Asked while there is no broker, answered by the next.
            with socket.socket(socket.AF_UNIX) as early:
                early.settimeout(60)
                early.connect(str(paths[0]))
                early.sendall(request_head("/health", "localhost"))
                broker = start()
                assert early.recv(1000).startswith(b"HTTP/1.1 200 ")
        broker.terminate()
        broker.communicate(timeout=PATIENCE_S)
        for descriptor in (103, 104, 105):
            os.close(descriptor)
        for one in passed:
            one.close()


def test_sockets_passed_to_another_process_are_not_taken() -> None:
    passed = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}
    assert Listener.passed(passed) == []
    assert Listener.passed({"LISTEN_FDS": "1"}) == []
    assert Listener.passed({"LISTEN_PID": str(os.getpid())}) == []


def test_a_descriptor_that_does_not_listen_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ListenError, match="socket"):
        Listener.open(f"fd:{os.dup(file.fileno())}")
    one, other = socket.socketpair()
    with one, other, pytest.raises(ListenError, match=naming("ListenStream=")):
        Listener.open(f"fd:{os.dup(one.fileno())}")


def test_a_path_that_is_too_long_for_a_socket_is_refused_early(tmp_path: Path) -> None:
    """By the server, by the client and by the agent: value, expectation and remedy."""
    path = tmp_path / ("x" * (LONGEST_PATH + 1 - len(str(tmp_path)) - 1))
    assert len(str(path)) == LONGEST_PATH + 1
    named = naming(path, 108, 107, "HPCQC_STATE_DIR")
    with pytest.raises(ListenError, match=named):
        Listener.open(f"unix:{path}")
    with pytest.raises(BrokerRefused, match=named):
        Exchange(f"unix:{path}", token=None, patience_s=900)
    with pytest.raises(AgentError, match=named):
        listen_unix(path)
    fits = path.with_name(path.name[:-1])
    made = listen_unix(fits)
    assert fits.stat().st_mode & 0o777 == 0o600
    exchange = Exchange(f"unix:{fits}", token=None, patience_s=0)
    exchange.close()
    made.close()
    assert not fits.exists()


def test_a_service_that_goes_on_refusing_is_quoted() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        problem = {"detail": "user 'ada' has 5 open jobs", "error_type": "TooManyJobs"}
        return httpx.Response(429, json=problem, headers={"Retry-After": "1"})

    exchange = Exchange("http://127.0.0.1:9", token=None, patience_s=0.5)
    exchange._http = httpx.Client(
        transport=httpx.MockTransport(refuse), base_url="http://127.0.0.1:9"
    )
    with pytest.raises(BrokerRefused, match=naming("0.5 s", "user 'ada' has 5 open jobs")):
        exchange.ask("POST", "/v1/jobs")
    exchange.close()


@pytest.mark.parametrize(("mode", "folder_mode"), [(0o666, 0o755), (0o600, 0o700)])
def test_who_may_connect_can_enter_a_folder_that_was_made_for_the_socket(
    tmp_path: Path, mode: int, folder_mode: int
) -> None:
    path = tmp_path / "run" / "hpcqc" / "broker.sock"
    before = os.umask(0o077)  # as in every process of ours
    try:
        listen_at(path, mode=mode, backlog=1).close()
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == folder_mode


def test_a_client_with_many_waiting_jobs_takes_turns_on_few_connections() -> None:
    open_now, most, counting = 0, 0, threading.Lock()
    four = threading.Barrier(4)

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            nonlocal open_now, most
            super().setup()
            with counting:
                open_now += 1
                most = max(most, open_now)

        def finish(self) -> None:
            nonlocal open_now
            super().finish()
            with counting:
                open_now -= 1

        def do_GET(self) -> None:
            four.wait(PATIENCE_S)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        exchange = Exchange(url, token=None, patience_s=0, most_connections=4)
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda _: exchange.ask("GET", "/"), range(20)))
        exchange.close()
        server.shutdown()
    assert [answer.status_code for answer in answers] == [200] * 20
    assert most == 4


def test_answers_over_tcp_do_not_wait_for_the_acknowledgement_of_their_head() -> None:
    listener = Listener.open("127.0.0.1:0")
    inherited = Listener.open(f"fd:{os.dup(listener.socket.fileno())}")
    try:
        with socket.create_connection(listener.socket.getsockname()):
            accepted, _ = inherited.socket.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        inherited.close()
        listener.close()
