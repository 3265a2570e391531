"""Requests to vendors' servers: sent once, and what each answer to a start means."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from backends.api import AccessDenied, QpuBusy, QpuUnavailable
from backends.connection import SiteConnection
from backends.connection_limit import ConnectionLimit
from backends.plugins import PluginUnusable
from backends.site_access import FixedToken, StoredToken, Token, checked_url, token_from_options
from orchestrator.config.secrets import SecretRef, resolve_secrets
from tests.errors import naming


class Site:
    """A real server that gives its answers in order, and notes what it was sent."""

    def __init__(self, *answers) -> None:
        self.answers, self.seen, self.connections = list(answers), [], 0
        site = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def setup(self):
                site.connections += 1
                super().setup()

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                site.seen.append((self.path, self.headers.get("Authorization"), body))
                answer = site.answers.pop(0) if site.answers else (200, {}, b"{}")
                if answer is None:  # no answer at all
                    self.close_connection = True
                    return
                status, headers, content = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


TWICE = gzip.compress(gzip.compress(b'{"id": "1"}'))


@contextmanager
def connected(site: Site, token=None, **options) -> Iterator[SiteConnection]:
    connection = SiteConnection(site.url, token or FixedToken(Token(text="secret")), **options)
    try:
        yield connection
    finally:
        connection.close()


def limited(site: Site, folder, **options):
    return connected(site, limit=ConnectionLimit(4, folder / "lock", **options))


def web_token(expires_at: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_at}).encode()).decode()
    return f"e30.{claims.rstrip('=')}.signature"


@pytest.mark.parametrize(
    ("answer", "raised", "retry_after_s"),
    [
        ((429, {"Retry-After": "7"}, b""), QpuBusy, 7.0),
        ((429, {}, b""), QpuBusy, None),
        ((408, {}, b""), QpuBusy, None),
        ((425, {}, b""), QpuBusy, None),
        ((503, {"Retry-After": "3"}, b"<html>"), QpuBusy, 3.0),
        ((503, {}, b'{"error_code": "system_unavailable"}'), QpuBusy, None),
        ((503, {}, b"<html>a gateway</html>"), QpuUnavailable, None),
        ((500, {}, b'{"error_code": "internal"}'), QpuUnavailable, None),
        ((504, {"Retry-After": "9"}, b""), QpuUnavailable, 9.0),
        ((302, {"Location": "/elsewhere"}, b""), QpuUnavailable, None),
        ((200, {}, b"<html>It works!</html>"), QpuUnavailable, None),
        ((200, {}, b'{"id": '), QpuUnavailable, None),
        ((200, {"Content-Encoding": "gzip"}, b'{"id": "1"}'), QpuUnavailable, None),
        (
            (200, {"Content-Encoding": "gzip"}, gzip.compress(b'{"id": "1"}')[:-9]),
            QpuUnavailable,
            None,
        ),
        ((200, {"Content-Encoding": "gzip, gzip"}, TWICE), QpuUnavailable, None),
        ((200, {"Content-Encoding": "br"}, b'{"id": "1"}'), QpuUnavailable, None),
        (None, QpuUnavailable, None),
        ((401, {}, b""), AccessDenied, None),
        ((402, {}, b'{"message": "no credits"}'), AccessDenied, None),
        ((403, {}, b""), AccessDenied, None),
    ],
)
def test_what_an_answer_to_a_start_means(answer, raised, retry_after_s) -> None:
    with Site(answer) as site, connected(site) as connection:
        with pytest.raises(raised) as caught:
            connection.submit("/jobs", {"shots": 1})
        assert type(caught.value) is raised
        assert getattr(caught.value, "retry_after_s", None) == retry_after_s
        assert len(site.seen) == 1, "a start is never sent again"


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_a_refusal_of_the_request_is_an_answer(status) -> None:
    content = b'{"error_code": "invalid", "message": "too\\nmany"}'
    with Site((status, {}, content)) as site, connected(site) as connection:
        answer = connection.submit("/jobs", {})
    assert answer.status == status
    assert answer.reason == f"HTTP {status} invalid: too many"


BUSY = (429, {"Retry-After": "7"}, b"")


@pytest.mark.parametrize(
    ("answer", "raised", "retry_after_s"),
    [
        (BUSY, QpuBusy, 7.0),
        ((503, {"Retry-After": "3"}, b""), QpuBusy, 3.0),
        ((429, {}, b'{"detail": "too many connections"}'), QpuUnavailable, None),
        ((503, {}, b'{"detail": "too many connections"}'), QpuUnavailable, None),
        ((500, {"Retry-After": "3"}, b"{}"), QpuUnavailable, 3.0),
    ],
)
def test_where_errors_may_be_successes_only_what_is_to_be_repeated_is_refused(
    tmp_path, answer, raised, retry_after_s
) -> None:
    with Site(answer) as site, limited(site, tmp_path) as connection:
        with pytest.raises(raised) as caught:
            connection.submit("/circuit", {}, method="PUT")
        assert type(caught.value) is raised
        assert caught.value.retry_after_s == retry_after_s
        assert len(site.seen) == 1


def test_a_refusal_is_in_doubt_while_another_process_may_hold_connections(tmp_path) -> None:
    with Site(BUSY, (200, {}, b"{}"), BUSY, BUSY) as site, limited(site, tmp_path) as connection:
        with pytest.raises(QpuBusy):
            connection.submit("/circuit", {})
        with limited(site, tmp_path) as other:
            other.read("GET", "/status/ions")
            with pytest.raises(QpuUnavailable):
                connection.submit("/circuit", {})
        with pytest.raises(QpuBusy):
            connection.submit("/circuit", {})


def test_a_refusal_is_in_doubt_while_a_connection_that_was_left_may_count(tmp_path) -> None:
    now = [0.0]
    endless = (200, {"Content-Encoding": "br"}, b"{}")
    with (
        Site(endless, BUSY, BUSY) as site,
        limited(site, tmp_path, clock=lambda: now[0]) as connection,
    ):
        with pytest.raises(QpuUnavailable):
            connection.read("GET", "/circuit/result/1")
        with pytest.raises(QpuUnavailable):
            connection.submit("/circuit", {})
        now[0] = 3600.0
        with pytest.raises(QpuBusy):
            connection.submit("/circuit", {})


def test_a_refusal_is_in_doubt_where_others_use_the_key(tmp_path) -> None:
    with (
        Site(BUSY) as site,
        limited(site, tmp_path, shared_key=True) as connection,
        pytest.raises(QpuUnavailable),
    ):
        connection.submit("/circuit", {})


@pytest.mark.parametrize("status", [400, 404, 422])
def test_there_a_refused_request_is_an_answer_nevertheless(tmp_path, status) -> None:
    with Site((status, {}, b"{}")) as site, limited(site, tmp_path) as connection:
        assert connection.submit("/circuit", {}).status == status


def test_a_held_answer_that_a_gateway_does_not_wait_for_is_an_answer() -> None:
    gateway = (504, {}, b"<html>")
    with Site(gateway, gateway) as site, connected(site) as connection:
        assert connection.read("GET", "/result/1", held=True).status == 504
        with pytest.raises(QpuUnavailable):
            connection.read("GET", "/result/1")


def test_an_answer_that_is_held_longer_than_asked_for_is_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        connection = SiteConnection(url, FixedToken(Token(text="x")), answer_s=0.05)
        assert connection.read("GET", "/result/1", held=True).status == 504
        with pytest.raises(QpuUnavailable):
            connection.read("GET", "/result/1")
        connection.close()


def test_a_start_that_cannot_be_sent_has_started_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    connection = SiteConnection(f"http://127.0.0.1:{port}", FixedToken(Token(text="x")))
    with pytest.raises(QpuBusy, match=str(port)):
        connection.submit("/jobs", {})
    with pytest.raises(QpuUnavailable):
        connection.read("GET", "/jobs/1")
    connection.close()
    with pytest.raises(QpuBusy):
        connection.submit("/jobs", {})


@pytest.mark.parametrize(
    ("limit", "value"), [("_LARGEST_ANSWER_BYTES", 100), ("_WHOLE_ANSWER_S", -1.0)]
)
def test_an_answer_without_end_is_none(monkeypatch, limit, value) -> None:
    monkeypatch.setattr(f"backends.connection.{limit}", value)
    content = b'{"id": "' + b"a" * 200 + b'"}'
    with Site((200, {}, content), (200, {}, content)) as site, connected(site) as connection:
        with pytest.raises(QpuUnavailable, match="started"):
            connection.submit("/jobs", {})
        with pytest.raises(QpuUnavailable):
            connection.read("GET", "/jobs/1")
        assert len(site.seen) == 2


def test_an_answer_that_was_asked_for_in_gzip_is_read() -> None:
    content = gzip.compress(json.dumps(["0"] * 1_000_000).encode())
    with Site((200, {"Content-Encoding": "gzip"}, content)) as site, connected(site) as connection:
        assert connection.submit("/jobs", {}).json() == ["0"] * 1_000_000


def test_an_answer_that_unpacks_to_more_than_the_bound_is_none(monkeypatch) -> None:
    monkeypatch.setattr("backends.connection._LARGEST_ANSWER_BYTES", 4 << 20)
    content = gzip.compress(bytes(64 << 20))
    with Site((200, {"Content-Encoding": "gzip"}, content)) as site, connected(site) as connection:
        tracemalloc.start()
        with pytest.raises(QpuUnavailable, match=str(4 << 20)):
            connection.submit("/jobs", {})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 << 20


def test_a_header_of_gzip_without_end_is_none(monkeypatch) -> None:
    monkeypatch.setattr("backends.connection._WHOLE_ANSWER_S", -1.0)
    named = b"\x1f\x8b\x08\x08\0\0\0\0\0\x03" + b"a" * 1_000_000  # the name of a file goes on
    with (
        Site((200, {"Content-Encoding": "gzip"}, named)) as site,
        connected(site) as connection,
        pytest.raises(QpuUnavailable, match="not ended"),
    ):
        connection.submit("/jobs", {})


def test_a_path_made_of_what_a_server_said_is_not_sent() -> None:
    with Site() as site, connected(site) as connection:
        with pytest.raises(QpuUnavailable):
            connection.read("GET", "/jobs/a\x01b")
        with pytest.raises(QpuBusy):
            connection.submit("/jobs/a\x01b", {})
        assert site.seen == []


def test_requests_share_a_connection() -> None:
    with Site() as site, connected(site) as connection:
        for number in range(5):
            connection.read("GET", f"/jobs/{number}")
            connection.submit("/jobs", {"number": number})
        assert len(site.seen) == 10
        assert site.connections == 1


def test_a_token_is_read_anew_when_its_file_changes(tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    file.chmod(0o600)
    with Site() as site, connected(site, StoredToken(file)) as connection:
        connection.read("GET", "/")
        file.write_text(json.dumps({"access_token": "second"}))
        os.utime(file, ns=(1, 1))
        connection.read("GET", "/")
    assert [header for _, header, _ in site.seen] == ["Bearer first", "Bearer second"]


def test_a_refused_token_is_tried_again_only_if_there_is_a_newer_one(tmp_path) -> None:
    class Renewed:
        tokens = ["old", "new"]  # noqa: RUF012

        def read(self):
            return Token(text=self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0])

    with Site((401, {}, b""), (200, {}, b"{}")) as site, connected(site, Renewed()) as connection:
        assert connection.submit("/jobs", {}).is_success
        assert [header for _, header, _ in site.seen] == ["Bearer old", "Bearer new"]
        site.answers[:] = [(401, {}, b"")]
        with pytest.raises(AccessDenied):
            connection.submit("/jobs", {})
        assert len(site.seen) == 3


def test_an_expired_token_is_not_sent(tmp_path) -> None:
    expired = FixedToken(Token.parse(web_token(1.0)))
    with Site() as site, connected(site, expired) as connection:
        with pytest.raises(QpuBusy, match="1970"):
            connection.submit("/jobs", {})
        assert not site.seen


@pytest.mark.parametrize("content", ["", "two words", "{}", '{"access_token": 3.5e', "[", "é"])
def test_a_file_without_a_token_is_refused_and_not_shown(tmp_path, content) -> None:
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(AccessDenied) as caught:
        StoredToken(file).read()
    assert str(file) in str(caught.value)
    assert len(content) < 2 or content not in str(caught.value)


def test_a_token_that_everybody_can_read_is_refused(tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    file.chmod(0o644)
    with pytest.raises(AccessDenied, match=naming("0644")):
        StoredToken(file).read()
    file.chmod(0o640)
    assert StoredToken(file).read().text == "secret"
    with pytest.raises(AccessDenied):
        StoredToken(tmp_path / "missing").read()


def test_a_token_is_not_in_its_repr() -> None:
    assert "secret" not in repr(Token(text="secret"))


@pytest.mark.parametrize(
    "url",
    [
        *(None, "", 3, "vlq", "ftp://host", "http://iqm.site", "https://user:pw@iqm.site"),
        *("https://[::1", "https://iqm.site:vlq", "https://iqm.site:99999"),
    ],
)
def test_an_unusable_url_is_refused(url) -> None:
    with pytest.raises(PluginUnusable):
        checked_url({"url": url}, "iqm")


@pytest.mark.parametrize("url", ["https://iqm.site/", "http://localhost:8000", "http://[::1]:1"])
def test_a_url_is_taken(url) -> None:
    assert checked_url({"url": url}, "iqm") == url.rstrip("/")


@pytest.mark.parametrize("options", [{}, {"token": ""}, {"token": "two words"}, {"token": 3}])
def test_credentials_are_needed(options) -> None:
    with pytest.raises(PluginUnusable, match="token"):
        token_from_options(options, "iqm")


def test_a_token_of_a_file_is_read_when_it_is_needed(tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    file.chmod(0o600)
    options = resolve_secrets({"token": SecretRef(source="file", where=str(file))})
    source = token_from_options(options, "iqm")
    file.write_text("second\n")
    assert source.read().text == "second"
