"""Proxies of the environment: never for this machine, still for a broker on another one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from orchestrator.application.prefect_setup import TemporaryServer
from orchestrator.broker.client.http import BrokerRefused, BrokerUnreachable, Exchange
from orchestrator.config.proxies import bypass_for_loopback, drop_unusable, proxy_variable
from tests.architecture.source import ROOT
from tests.errors import naming
from tests.patience import PATIENCE_S

EVERY_CASE = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


class Listener(ThreadingHTTPServer):
    """An HTTP server on loopback that answers everything, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

        class Answering(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self.asked.append(handler.path)
                handler.send_response(200)
                handler.send_header("Content-Length", "2")
                handler.end_headers()
                handler.wfile.write(b"{}")

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        super().__init__(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", EVERY_CASE)
def test_a_broker_on_this_machine_is_asked_directly(listener, monkeypatch, name) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    exchange = Exchange(listener.url, token=None, patience_s=0.0)
    assert exchange.ask("GET", "/health").status_code == 200
    assert listener.asked == ["/health"]
    exchange.close()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_broker_elsewhere_is_asked_through_the_site_s_proxy(listener, monkeypatch, name) -> None:
    monkeypatch.setenv(name, listener.url)
    bypass_for_loopback()
    exchange = Exchange("http://broker.invalid", token=None, patience_s=0.0)
    assert exchange.ask("GET", "/health").status_code == 200
    assert listener.asked == ["http://broker.invalid/health"]
    exchange.close()


def test_a_proxy_that_does_not_answer_is_named(monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    exchange = Exchange("http://broker.invalid", token=None, patience_s=0.0)
    with pytest.raises(BrokerUnreachable, match=naming("NO_PROXY", "HTTP_PROXY")):
        exchange.ask("GET", "/health")
    exchange.close()


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    with pytest.raises(BrokerRefused, match=naming("ALL_PROXY")):
        Exchange("http://broker.invalid", token=None, patience_s=0.0)


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": ""}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a.site, .b"}, "a.site,.b,localhost,127.0.0.1,::1"),
        ({"no_proxy": "127.0.0.1,c"}, "127.0.0.1,c,localhost,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_hosts_that_need_no_proxy_are_kept(monkeypatch, given, hosts) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    bypass_for_loopback()
    bypass_for_loopback()
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == (hosts, hosts)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("socks://h:1", "socks:// is not supported"),
        ("ftp://h:1", "ftp:// is not supported"),
        ("http://user:secret", "not a valid URL"),
        ("h:1", None),
        ("http://h:1", None),
    ],
)
@pytest.mark.parametrize("name", EVERY_CASE)
def test_what_httpx_would_end_a_program_for_is_dropped_and_named(
    monkeypatch, name, url, word
) -> None:
    monkeypatch.setenv(name, url)
    told = drop_unusable()
    assert [line.split(" is ignored: ")[0] for line in told] == ([name] if word else [])
    assert all(word in line and "secret" not in line for line in told)
    assert os.environ[name] == ("" if word else url)
    httpx.Client().close()


def test_socks_without_its_package_is_dropped(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("ALL_PROXY", "socks5h://h:1")
    (told,) = drop_unusable()
    assert told.endswith("needs a package; install it with: pip install 'httpx[socks]'")
    assert proxy_variable("http") is None


@pytest.mark.slow
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "socks://h:1"])
def test_a_run_needs_no_proxy(tmp_path, proxy) -> None:
    (tmp_path / "plain.py").write_text(
        "import os\nfrom prefect import flow\n@flow\ndef plain():\n"
        "    return os.environ['no_proxy']\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", "plain.py"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | dict.fromkeys(EVERY_CASE, proxy)
        | {"PYTHONPATH": str(ROOT), "NO_PROXY": "site.example"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "result: site.example,localhost,127.0.0.1,::1" in done.stdout
    assert ("is ignored" in done.stderr) == (not proxy.startswith("http:"))


@pytest.mark.slow
def test_the_temporary_server_is_probed_directly(listener, monkeypatch) -> None:
    """The listener would answer 200 for a server that is not there yet."""
    monkeypatch.setenv("http_proxy", listener.url)
    server = TemporaryServer({})
    server.start()
    try:
        server.wait()
        assert listener.asked == []
    finally:
        server.stop()
