"""A link to a broker, both real processes: who gets in, what is agreed on, and what strangers reach."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpcore
import pytest
from OpenSSL import SSL

from backends.hpcqc import create
from backends.links import Link, LinkRefused
from backends.links.streams import dial
from orchestrator.broker.client.http import BrokerRefused, RemoteBroker
from orchestrator.config.link_tables import LinkTable
from orchestrator.links.certificates import certify
from tests.certificates import CLIENT, SERVER, signed
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.service.calls import bell, call, counts
from tests.service.conftest import ROOT, SITE, Service
from tests.strangers.stranger import as_stranger, need_strangers

pytestmark = pytest.mark.slow  # a service and a front, for the module

HYBRID = "X25519MLKEM768"


@dataclass(eq=False)
class Front:
    """``hpcqc links serve`` as a process of its own."""

    site: Path
    state: Path
    process: subprocess.Popen[str] | None = None
    address: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None

    def start(self) -> Front:
        arguments = ["links", "serve", "hilltop", "--site", str(self.site)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "HPCQC_STATE_DIR": str(self.state)},
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        until(
            lambda: self.events("link-ready") or self.process.poll() is not None, lambda: self.text
        )
        if ready := self.events("link-ready"):
            self.address = ready[0]["address"]
        return self

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.text.append(line)
            if line.startswith("{"):
                self.log.append(json.loads(line))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in list(self.log) if entry["event"] == name]

    def refusals(self) -> list[str]:
        return [entry["reason"] for entry in self.events("link-refused")]

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        assert self.process is not None
        status = self.process.wait(PATIENCE_S)
        if self.reader is not None:
            self.reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@dataclass(frozen=True, kw_only=True)
class Far:
    """A site with a broker and a front, and the certificates of its federation."""

    service: Service
    front: Front
    folder: Path
    token: str

    def link(self, **changed: Any) -> Link:
        usual = Link(
            name="hilltop",
            address=self.front.address,
            certificate=self.folder / "valley.pem",
            key=self.folder / "valley.key",
            authority=self.folder / "authority.pem",
            peers=("hilltop",),
        )
        return replace(usual, **changed)

    def client(self, *, token: str | None = None, **changed: Any) -> RemoteBroker:
        link = self.link(**changed)
        return RemoteBroker("link:hilltop", token=token or self.token, link=link, patience_s=3.0)

    def user(self, **changed: Any) -> str:
        """Return who a client over such a link is at the broker."""
        with closing(self.client(**changed)) as client:
            return client.whoami().user

    def works(self) -> bool:
        return self.user() == "ada"

    def connected(self) -> socket.socket:
        host, port = self.front.address.split(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def site_text(folder: Path, service: str, more: str = "") -> str:
    return (
        SITE.format(options="run_s = 0.0", rules="", broker="")
        + f'\n[link.hilltop]\nlisten = "127.0.0.1:0"\nservice = "{service}"\n'
        + f'certificate = "{folder}/hilltop.pem"\nkey = "{folder}/hilltop.key"\n'
        + f'authority = "{folder}/authority.pem"\n{more}\n'
    )


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    top = tmp_path_factory.mktemp("far")
    folder, state, site = top / "links", top / "state", top / "far.toml"
    certify(folder, ["hilltop", "valley"], days=5, now=datetime.now(UTC))
    behind = f"unix:{top}/behind.sock"
    site.write_text(site_text(folder, behind))
    state.mkdir(mode=0o700)
    service = Service(state=state, site=site, more=["--listen", f"token-only:{behind}"]).start()
    _, token = service.tokens.add("ada", "user", ["chemistry"], now=datetime.now(UTC))
    front = Front(site, top / "front").start()
    try:
        yield Far(service=service, front=front, folder=folder, token=token)
    finally:
        assert front.stop() == 0
        service.stop()


def test_a_job_crosses_the_link_and_the_group_is_known_on_both_sides(far: Far) -> None:
    broker = far.client()
    assert broker.link_facts is None
    job = broker.submit(call(), bell())
    assert sum(counts(broker.result(job, PATIENCE_S)).values()) == 100
    facts = broker.link_facts
    broker.close()
    assert facts is not None
    assert (facts.group, facts.protocol, facts.peer) == (HYBRID, "TLSv1.3", "hilltop")
    (opened, *_) = far.front.events("link-opened")
    assert (opened["group"], opened["peer"], opened["link"]) == (HYBRID, "valley", "hilltop")


def test_a_qpu_of_another_site_is_reached_over_a_link(far: Far, tmp_path: Path) -> None:
    options = {"url": "link:hilltop", "link": far.link().to_plain(), "token": far.token}
    backend = create({**options, "qpu": "fake"}, state_dir=tmp_path)
    session = backend.acquire()
    task = backend.start(session, bell(), "jlink.0")
    until(lambda: backend.status(task).is_final)
    assert sum(counts(backend.result(task).native).values()) == 100
    backend.close()


def test_a_run_records_what_its_link_agreed_on(far: Far, tmp_path: Path) -> None:
    flow = tmp_path / "flow.py"
    flow.write_text(
        "from prefect import flow\nfrom hpcqc import quantum\nfrom tests.service.calls import bell\n"
        "from qiskit import QuantumCircuit\n\n\n@quantum\ndef measured(qpu):\n"
        "    circuit = QuantumCircuit(1)\n    circuit.measure_all()\n"
        "    qpu.sampler().run([circuit], shots=10).result()\n    return 1\n\n\n"
        "@flow\ndef short():\n    return measured()\n"
    )
    (tmp_path / "token").write_text(far.token)
    (tmp_path / "token").chmod(0o600)
    link = far.link()
    site = tmp_path / "near.toml"
    site.write_text(
        SITE.format(
            options="run_s = 0.0",
            rules="",
            broker='url = "link:hilltop"\ntoken = { file = "token" }',
        )
        + f'\n[link.hilltop]\naddress = "{link.address}"\ncertificate = "{link.certificate}"\n'
        f'key = "{link.key}"\nauthority = "{link.authority}"\n'
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HPCQC_STATE_DIR": str(tmp_path / "s")}
    hpcqc = [sys.executable, "-m", "orchestrator.cli"]
    done = subprocess.run(
        [*hpcqc, "run", f"{flow}:short", "--site", str(site), "--out", str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())["broker_link"]
    assert (recorded["group"], recorded["peer"]) == (HYBRID, "hilltop")
    shown = subprocess.run(
        [*hpcqc, "links", "check", "hilltop", "--json", "--site", str(site)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert json.loads(shown.stdout)["group"] == HYBRID


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Certificates of another federation, for sites of the same names."""
    certify(tmp_path / "others", ["hilltop", "valley"], days=5, now=datetime.now(UTC))
    return tmp_path / "others"


def test_a_certificate_of_another_authority_is_refused_by_both_sides(far: Far, others) -> None:
    mine = {"certificate": others / "valley.pem", "key": others / "valley.key"}
    with pytest.raises(BrokerRefused, match="authority of this side's certificate"):
        far.user(**mine)
    until(lambda: any("authority that this side does not know" in r for r in far.front.refusals()))
    with pytest.raises(BrokerRefused, match="authority that this side does not know"):
        far.user(authority=others / "authority.pem")


def test_an_expired_certificate_is_refused(far: Far, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name in ("authority.pem", "authority.key"):
        (old / name).write_bytes((far.folder / name).read_bytes())
    certify(old, ["valley"], days=1, now=datetime.now(UTC) - timedelta(days=3))
    with pytest.raises(BrokerRefused, match="expired"):
        far.user(certificate=old / "valley.pem", key=old / "valley.key")
    until(lambda: any("has expired" in reason for reason in far.front.refusals()))


def test_a_site_of_another_name_is_not_taken_for_the_wanted_one(far: Far) -> None:
    with pytest.raises(BrokerRefused, match=naming("hilltop", "elsewhere")):
        far.user(peers=("elsewhere",))


def test_a_peer_without_a_certificate_reaches_nothing(far: Far) -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    with far.connected() as opened:
        opened.settimeout(None)
        peer = SSL.Connection(context, opened)
        peer.set_connect_state()
        peer.do_handshake()  # in TLS 1.3 it is refused only now
        with pytest.raises(SSL.Error):
            peer.recv(1)
    until(lambda: any("no certificate" in reason for reason in far.front.refusals()))


def test_a_certificate_for_one_side_serves_as_no_other(far: Far, tmp_path: Path) -> None:
    """A web server's certificate of the same authority lets nobody in, and a user's is no server."""
    folder = tmp_path / "links"
    folder.mkdir()
    for name in ("authority.pem", "authority.key"):
        (folder / name).write_bytes((far.folder / name).read_bytes())
    server = signed(folder, "valley", ["valley"], usages=[SERVER])
    with pytest.raises(BrokerRefused, match="for another purpose"):
        far.user(certificate=server.certificate, key=server.key)
    until(lambda: any("for another purpose" in reason for reason in far.front.refusals()))
    signed(folder, "hilltop", ["hilltop"], usages=[CLIENT])
    site = tmp_path / "far.toml"
    site.write_text(site_text(folder, "127.0.0.1:9"))
    front = Front(site, tmp_path / "state").start()
    try:
        with pytest.raises(LinkRefused, match="for another purpose"):
            dial(far.link(address=front.address), PATIENCE_S)
    finally:
        assert front.stop() == 0


def classical(
    far: Far, curve: str = "prime256v1", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLSocket:
    """Connect with a right certificate, and with a client that has no ML-KEM to offer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(far.folder / "authority.pem")
    context.load_cert_chain(far.folder / "valley.pem", far.folder / "valley.key")
    context.set_ecdh_curve(curve)
    context.maximum_version = version
    return context.wrap_socket(far.connected())


@pytest.mark.parametrize(("curve", "group"), [("prime256v1", "secp256r1"), ("X25519", "x25519")])
def test_a_classical_key_exchange_is_refused_and_the_client_is_told(
    far: Far, curve: str, group: str
) -> None:
    with classical(far, curve) as peer:
        peer.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 403")
    assert HYBRID.encode() in answer
    assert b'"status":"ok"' not in answer
    until(lambda: any(f"{group} alone" in reason for reason in far.front.refusals()))
    with pytest.raises(LinkRefused, match=HYBRID):  # the client's side of the rule
        dial(far.link(groups=("SecP256r1MLKEM768",)), PATIENCE_S)


def test_an_earlier_protocol_is_refused(far: Far) -> None:
    with pytest.raises(ssl.SSLError):
        classical(far, version=ssl.TLSVersion.TLSv1_2)
    until(lambda: any("TLS 1.3" in reason for reason in far.front.refusals()))


ASK = b"GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\n"
INNER = b"GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\nX-Remote-User: root\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(INNER),
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % len(INNER),
        b"Transfer-Encoding: \x0bchunked\r\n\r\n",
        b"X: y\r\n folded: Content-Length: 5\r\n\r\n",
        b"Connection: close\r\n\r\n",
    ],
    ids=["two lengths", "length and chunks", "odd chunks", "folded", "usual"],
)
def test_a_request_inside_of_another_is_of_the_same_stranger(far: Far, head: bytes) -> None:
    """The front reads no requests, and a connection serves one client: nothing to smuggle past."""
    answer = raw(far, ASK + head + INNER)
    heads = answer.split(b"HTTP/1.1 ")[1:]
    assert heads
    assert all(one[:3] in (b"400", b"401") for one in heads), answer
    assert far.works()


def test_the_link_vouches_for_no_user(far: Far) -> None:
    forged = {
        "X-Forwarded-User": "root",
        "X-Forwarded-For": "127.0.0.1",
        "Forwarded": "for=127.0.0.1;by=unix:",
        "X-Real-IP": "127.0.0.1",
        "X-Remote-User": "root",
        "X-Client-Cert": "hilltop",
        "hpcqc.peer": "0",
    }
    client = far.client()
    for headers in ({}, forged):
        exchange = client._exchange
        answer = exchange.ask("GET", "/v1/whoami", any_status=True, anonymous=True, headers=headers)
        assert answer.status_code == 401
    client.close()
    with pytest.raises(BrokerRefused, match="token"):
        far.user(token="hpcqc_" + "x" * 43)


def test_a_service_that_knows_its_users_is_not_put_behind_a_link(far: Far, tmp_path: Path) -> None:
    site = tmp_path / "careless.toml"
    site.write_text(site_text(far.folder, far.service.socket))
    front = Front(site, tmp_path / "state").start()
    assert front.ended() == 2
    assert "token-only" in "".join(front.text)


def test_a_front_starts_before_a_service_that_hangs_up(far: Far, tmp_path: Path) -> None:
    behind, site = tmp_path / "b.sock", tmp_path / "early.toml"
    site.write_text(site_text(far.folder, f"unix:{behind}"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(behind))
        listening.listen()

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    with listening.accept()[0] as asked:
                        asked.recv(1024)

        threading.Thread(target=hang_up, daemon=True).start()
        front = Front(site, tmp_path / "state").start()
        assert front.address, front.text
        assert front.events("link-service-away")
        assert front.stop() == 0
        listening.shutdown(socket.SHUT_RDWR)


def raw(far: Far, sent: bytes) -> bytes:
    """Send bytes over a link; return the answer."""
    stream, _ = dial(far.link(), PATIENCE_S)
    try:
        with suppress(httpcore.WriteError):  # the service has heard enough
            stream.write(sent, PATIENCE_S)
        answer = b""
        while piece := stream.read(65536, PATIENCE_S):
            answer += piece
        return answer
    except httpcore.ReadError:
        return answer
    finally:
        stream.close()


def test_heads_without_end_and_garbage_end_at_the_service_s_limits(far: Far) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * (4 << 20)
    assert raw(far, head).startswith(b"HTTP/1.1 431")
    assert raw(far, b"\x00\xff" * 1000).startswith(b"HTTP/1.1 400")
    assert far.works()


def test_half_handshakes_and_a_flood_keep_nobody_out(far: Far) -> None:
    held = []
    try:
        for number in range(300):
            opened = far.connected()
            held.append(opened)
            if number % 3 == 0:  # the start of a TLS record that never ends
                opened.sendall(b"\x16\x03\x01\x40\x00" + b"\x01" * 100)
            elif number % 3 == 1:
                opened.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert far.works()
    finally:
        for opened in held:
            opened.close()
    memory = Path(f"/proc/{far.front.process.pid}/status").read_text()
    peak_kb = int(memory.split("VmHWM:")[1].split()[0])
    assert peak_kb < 300_000
    assert far.works()


def test_connections_of_one_site_leave_room_for_another(far: Far) -> None:
    held = []
    try:
        while len(held) < 150:
            stream, _ = dial(far.link(), PATIENCE_S)
            held.append(stream)
            stream.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", PATIENCE_S)
            if stream.read(12, PATIENCE_S) == b"HTTP/1.1 503":
                break
        assert len(held) == 101
        own = {"certificate": far.folder / "hilltop.pem", "key": far.folder / "hilltop.key"}
        assert far.user(**own) == "ada"
    finally:
        for stream in held:
            stream.close()


def test_a_stranger_of_this_machine_reads_no_key_and_gets_no_answer(far: Far) -> None:
    need_strangers()
    source = (
        "import socket, ssl, sys\n"
        "context = ssl._create_unverified_context()\n"
        "host, port = sys.argv[1].split(':')\n"
        "said = []\n"
        "for secure in (False, True):\n"
        "    try:\n"
        "        s = socket.create_connection((host, int(port)), timeout=60)\n"
        "        s = context.wrap_socket(s) if secure else s\n"
        "        s.sendall(b'GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n"
        "        said.append(s.recv(1000))\n"
        "    except OSError as error:\n"
        "        said.append(b'')\n"
        "try:\n"
        "    open(sys.argv[2]).close()\n"
        "    said.append(b'read the key')\n"
        "except OSError:\n"
        "    pass\n"
        "print(b'HTTP' in b''.join(said) or b'key' in b''.join(said), len(said))\n"
    )
    key = far.folder / "hilltop.key"
    done = as_stranger([sys.executable, "-I", "-c", source, far.front.address, str(key)])
    assert done.stdout.split() == ["False", "2"], done.stdout + done.stderr


def test_the_front_goes_on_when_its_service_was_away(far: Far) -> None:
    far.service.stop()
    with pytest.raises(RuntimeError, match="does not answer"):
        far.user()
    far.service.start()
    assert far.works()


def test_a_renewed_certificate_counts_without_a_restart(far: Far, tmp_path: Path) -> None:
    before = far.client()
    before.whoami()
    assert before.link_facts is not None
    for name in ("hilltop.pem", "hilltop.key"):
        (far.folder / name).unlink()
    certify(far.folder, ["hilltop"], days=3, now=datetime.now(UTC))
    after = far.client()
    after.whoami()
    assert after.link_facts is not None
    assert after.link_facts.valid_until < before.link_facts.valid_until
    before.close()
    after.close()


def test_private_keys_are_closed_and_nothing_is_overwritten(tmp_path: Path) -> None:
    hpcqc = [sys.executable, "-m", "orchestrator.cli", "links", "certificates", str(tmp_path / "f")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    made = subprocess.run([*hpcqc, "a", "b"], env=environment, capture_output=True, check=True)
    blocks = [
        next(iter(tomllib.loads(block)["link"].items()))
        for block in made.stdout.decode().strip().split("\n\n")
    ]
    assert [(name, "listen" in one, Path(one["key"]).name) for name, one in blocks] == [
        ("a", True, "a.key"),
        ("b", False, "a.key"),
        ("b", True, "b.key"),
        ("a", False, "b.key"),
    ]
    for _, one in blocks:
        LinkTable.model_validate(one)
    files = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    assert set(files) == {"a.key", "a.pem", "authority.key", "authority.pem", "b.key", "b.pem"}
    for path in (tmp_path / "f").glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = subprocess.run([*hpcqc, "c", "a"], env=environment, capture_output=True, check=False)
    assert again.returncode == 2
    assert b"a.pem" in again.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()} == files
