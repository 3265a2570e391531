"""Recognised callers: no bytes of a client make it another user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.broker.api.peers import UnixPeer, UnixUsers, identity_of, peer_of
from tests.patience import PATIENCE_S
from tests.service.calls import request_head
from tests.service.conftest import Service

NOBODY = 65534
TOKEN_ONLY = "token-only.sock"
STRANGER = 64999  # no user of any system

# Each claims, in some way, to be root on a Unix socket, an operator, or this machine.
CLAIMS = [
    b"X-Forwarded-For: uid:0",
    b"X-Forwarded-For: [uid:0]",
    b"X-Forwarded-For: [uid:0]:0, 127.0.0.1",
    b"x-FORWARDED-for: uid:0:1",
    b"X-Forwarded-For: uid:0\r\nX-Forwarded-For: uid:0",
    b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: localhost",
    b'Forwarded: for="uid:0";host=localhost;proto=https',
    b"X-Real-IP: uid:0",
    b"X-Forwarded-User: root\r\nRemote-User: root\r\nX-Remote-User: root",
    b"hpcqc.peer: 0\r\nX-Peer: uid:0",
    b"Authorization: Bearer uid:0",
    b"Authorization: Basic cm9vdDo=",
    b"Cookie: token=uid:0",
    (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Version: 13"
    ),
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQ",
]
# Heads whose readers could disagree about host, sender or length.
MALFORMED = [
    b"GET /v1/whoami HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n",
    b"GET /v1/whoami HTTP/1.1\r\n\r\n",
    b"GET http://evil.example/v1/whoami HTTP/1.1\r\nHost: {host}\r\n\r\n",
    b"GET http://{host}/v1/whoami HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n",
    (
        b"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n0\r\n\r\nGET /v1/whoami HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ),
    b"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\nx",
    b"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip, identity\r\n\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"GET /v1/whoami HTTP/1.1\r\nHost: {host}\r\nA: b\nX-Forwarded-For: uid:0\r\n\r\n",
    b"GET /v1/whoami HTTP/1.1\r\nHost: {host}\r\n X-Folded: uid:0\r\n\r\n",
    b"GET /v1/who\xffami HTTP/1.1\r\nHost: {host}\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]
PAGES = ("/", "/docs", "/health", "/openapi.json", "/metrics", "/static/status.js", "/v1/whoami")

# Sends each head that comes on stdin, as lines of hex, from a process of another user.
SENDER = """
import encodings.idna, os, socket, sys
address, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]), os.setgid(uid), os.setuid(uid)
for line in sys.stdin:
    if address.startswith("unix:"):
        out = socket.socket(socket.AF_UNIX)
        out.settimeout(20)
        out.connect(address[5:])
    else:
        host, _, port = address.rpartition(":")
        out = socket.create_connection((host, int(port)), timeout=20)
    answer = b""
    with out:
        try:
            out.sendall(bytes.fromhex(line))
            while data := out.recv(65536):
                answer += data
                out.settimeout(0.5)
        except OSError:
            pass
        print(answer.hex(), flush=True)
"""


def ask_as(uid: int, address: str, heads: list[bytes]) -> list[bytes]:
    """Return the answers to raw requests that a process of another user sends."""
    if os.geteuid() != 0:
        pytest.skip("only root can ask as another user")
    asked = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SENDER, address, str(uid)],
        input="".join(head.hex() + "\n" for head in heads),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    return [bytes.fromhex(line) for line in asked.stdout.splitlines()]


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose socket any user can reach, as a site's is."""
    state = tmp_path_factory.mktemp("peers")
    site = state / "site.toml"
    site.write_text('[qpu.fake]\nbackend = "fake"\n')
    with tempfile.TemporaryDirectory(prefix="hpcqc-", dir="/tmp") as public:
        Path(public).chmod(0o755)
        service = Service(
            state=state,
            site=site,
            place=Path(public) / "broker.sock",
            more=["--listen", f"token-only:unix:{public}/{TOKEN_ONLY}"],
        ).start()
        yield service
        service.stop()


def test_no_header_makes_a_caller_an_operator(open_service: Service) -> None:
    """Over TCP from loopback, as another user of the machine."""
    address = open_service.url.removeprefix("http://")
    heads = [request_head("/v1/whoami", address, claim) for claim in CLAIMS]
    heads += [
        request_head("/v1/qpus/fake/drain", address, claim, method="POST") for claim in CLAIMS
    ]
    answers = ask_as(NOBODY, address, heads)
    assert [status(answer) for answer in answers] == [401] * len(heads), answers


@pytest.mark.parametrize("over", ["tcp", "socket", "token-only socket"])
def test_a_stranger_s_call_of_no_route_succeeds(open_service: Service, over: str) -> None:
    """Every route that the broker describes, as another user of the machine without a token."""
    assert open_service.place is not None
    address = {
        "tcp": open_service.url.removeprefix("http://"),
        "socket": open_service.socket,
        "token-only socket": f"unix:{open_service.place.with_name(TOKEN_ONLY)}",
    }[over]
    [described] = ask_as(NOBODY, address, [request_head("/openapi.json", "localhost")])
    paths = json.loads(described.partition(b"\r\n\r\n")[2])["paths"]
    routes = [(m.upper(), path) for path, methods in paths.items() for m in methods]
    routes += [(m, "/v1/anything") for m in ("GET", "POST", "PUT", "OPTIONS", "TRACE")]
    routes.remove(("GET", "/health"))
    assert len(routes) > 20
    heads = [
        request_head(path.format(job="j" + "0" * 20, qpu="fake"), "localhost", method=method)
        for method, path in routes
    ]
    answers = ask_as(NOBODY, address, heads)
    assert {status(answer) for answer in answers} == {401}


def test_no_malformed_request_is_answered_as_a_known_caller(open_service: Service) -> None:
    address = open_service.url.removeprefix("http://")
    heads = [text.replace(b"{host}", address.encode()) for text in MALFORMED]
    for asked, answer in zip(heads, ask_as(NOBODY, address, heads), strict=True):
        assert status(answer) in (0, 400, 401, 421), (asked, answer)
        assert b"Traceback" not in answer


def test_a_page_of_another_origin_with_a_rebound_name_gets_nothing(open_service: Service) -> None:
    address = open_service.url.removeprefix("http://")
    port = address.rpartition(":")[2]
    names = ["evil.example", f"evil.example:{port}", "localhost.evil.example", "0.0.0.0", "[::]"]
    names += ["127.0.0.1.nip.io", "", "localhost:x", "localhost:80:80", "127.0.0.2", "2130706433"]
    asked = [(page, name) for page in PAGES for name in names]
    answers = ask_as(NOBODY, address, [request_head(page, name) for page, name in asked])
    for (page, name), answer in zip(asked, answers, strict=True):
        assert status(answer) in (400, 421), (page, name, answer)
        assert b"access-control" not in answer.lower()
    good = [
        request_head(page, name) for page in PAGES[:4] for name in (address, f"LOCALHOST:{port}")
    ]
    assert {status(answer) for answer in ask_as(NOBODY, address, good)} == {200}


@pytest.mark.parametrize("uid", [NOBODY, STRANGER])
def test_a_user_whom_the_system_does_not_know_is_a_stranger_on_a_socket_too(
    open_service: Service, uid: int
) -> None:
    heads = [request_head("/v1/whoami", "localhost", claim) for claim in CLAIMS]
    answers = ask_as(uid, open_service.socket, [request_head("/v1/whoami", "localhost"), *heads])
    assert {status(answer) for answer in answers} == {401}


def test_a_known_user_on_a_socket_is_a_user_without_projects(open_service: Service) -> None:
    """The groups of the system are no projects where the site does not list them."""
    [answer] = ask_as(1, open_service.socket, [request_head("/v1/whoami", "localhost", CLAIMS[0])])
    assert status(answer) == 200
    assert b'"role":"user","projects":[]' in answer
    [answer] = ask_as(
        1,
        open_service.socket,
        [
            request_head(
                "/v1/jobs",
                "localhost",
                b'Job-Request: {"run": "r", "qpu": "fake"}',
                method="POST",
            )
        ],
    )
    assert status(answer) == 403
    assert b"unix_groups" in answer


@pytest.mark.parametrize("uid", [0, 1])
def test_peers_can_be_switched_off_for_one_socket(open_service: Service, uid: int) -> None:
    """For a proxy, which is one peer for all of its clients."""
    assert open_service.place is not None
    place = open_service.place.with_name(TOKEN_ONLY)
    [answer] = ask_as(uid, f"unix:{place}", [request_head("/v1/whoami", "localhost")])
    assert status(answer) == 401
    [answer] = ask_as(uid, open_service.socket, [request_head("/v1/whoami", "localhost")])
    assert status(answer) == 200


def test_only_the_server_names_a_peer() -> None:
    for claimed in ("uid:0", 0, ("uid:0", 1), {"uid": 0}, None):
        assert peer_of({"extensions": {"hpcqc.peer": claimed}, "client": ("uid:0", 0)}) is None
    assert peer_of({"client": ("uid:0", 0)}) is None
    assert peer_of({"extensions": {"hpcqc.peer": UnixPeer(3)}}) == UnixPeer(3)


def test_groups_are_projects_where_the_site_lists_them() -> None:
    import grp
    import pwd

    entry = pwd.getpwuid(1)
    group = grp.getgrgid(entry.pw_gid).gr_name
    listed = identity_of(1, frozenset({group, "chemistry"}))
    assert listed is not None
    assert listed.projects == (group,)
    other = identity_of(1, frozenset({"chemistry"}))
    assert other is not None
    assert other.projects == ()


def test_a_change_of_groups_is_seen_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from orchestrator.broker.api import peers
    from orchestrator.broker.core.access import Identity

    now, member = 0.0, ("chemistry",)
    monkeypatch.setattr(
        peers, "identity_of", lambda uid, groups: Identity(user="a", role="user", projects=member)
    )
    users = UnixUsers(frozenset({"chemistry"}), monotonic=lambda: now)

    def projects() -> tuple[str, ...]:
        found = asyncio.run(users.identity(UnixPeer(5)))
        assert found is not None
        return found.projects

    assert projects() == ("chemistry",)
    member = ()
    now = 59.0
    assert projects() == ("chemistry",)
    now = 60.0
    assert projects() == ()
