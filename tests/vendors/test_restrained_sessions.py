"""Vendors' clients keep tokens and payloads from other hosts, and bound what they read."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("requests", reason="no extra with a vendor's client is installed")

import requests

from backends.restrained_sessions import restrain

CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/0:1::"


@dataclass
class Server:
    """Answers everything alike, and notes what it got."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    got: list[str] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.got.append(f"{self.command} {self.path}")
            self.send_response(server.status)
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(server.body)
            except ConnectionError:  # the client need not take it to its end
                self.close_connection = True

        do_POST = do_GET  # noqa: N815 - as the handler names methods

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture
def session(server: Server) -> Iterator[Any]:
    with requests.Session() as made:
        made.headers["X-Auth-Token"] = "secret"
        restrain(made, server.url, largest_bytes=1 << 20)
        yield made


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirection_is_followed(server: Server, session: Any, status: int) -> None:
    with serving() as stranger:
        server.status, server.headers = status, {"Location": f"{stranger.url}/there"}
        for send in (session.get, session.post):
            with pytest.raises(requests.TooManyRedirects) as caught:
                send(server.url, json={"circuits": []})
            assert getattr(caught.value.response, "status_code", 0) == status
        assert len(server.got) == 2
        assert stranger.got == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 1 << 26])
def test_an_answer_is_read_up_to_its_bound(
    server: Server, session: Any, size: int, packed: bool
) -> None:
    server.body = bytes(size)
    if packed:
        server.body, server.headers = gzip.compress(bytes(size)), {"Content-Encoding": "gzip"}
    if size > 1 << 20:
        with pytest.raises(requests.RequestException, match=str(1 << 20)):
            session.get(server.url)
    else:
        assert session.get(server.url).content == bytes(size)


def test_a_body_that_is_no_gzip_or_cut_off_is_an_error_of_the_request(
    server: Server, session: Any
) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(requests.RequestException):
        session.get(server.url)
    server.headers = {"Content-Length": "100"}
    with pytest.raises(requests.RequestException):
        session.get(server.url)


@pytest.mark.vendor
def test_ibms_client_sends_no_job_to_another_host(server: Server) -> None:
    pytest.importorskip("qiskit_ibm_runtime")
    from backends.api import QpuUnavailable
    from backends.ibm.service import IbmService, Refused

    class Tokens:
        def get(self) -> str:
            return "secret"

    with serving() as stranger:
        server.status, server.headers = 307, {"Location": stranger.url}
        service = IbmService(CRN, server.url, Tokens())  # type: ignore[arg-type]  # as such
        try:
            with pytest.raises((QpuUnavailable, Refused)):
                service.asking(service.client.job_get, "j1")
            with pytest.raises(QpuUnavailable):
                service.submitting(
                    service.client.program_run,
                    program_id="executor",
                    backend_name="q",
                    params={},
                    image=None,
                    log_level=None,
                    session_id=None,
                )
        finally:
            service.close()
        assert len(server.got) == 2
        assert stranger.got == []
