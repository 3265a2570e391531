"""The Prefect server of a run: no call without its password, no page of another origin."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
from urllib.parse import urlsplit

import pytest
import websockets

from orchestrator.application.prefect_setup import TemporaryServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CALLS = (
    ("POST", "/api/flows/", {"name": "theirs"}),
    ("POST", "/api/flow_runs/filter", {}),
    ("POST", "/api/deployments/filter", {}),
    ("POST", "/api/work_pools/filter", {}),
    ("GET", "/api/admin/settings", None),
    ("GET", "/api/admin/version", None),
    ("POST", "/api/block_documents/filter", {}),
)
SOCKETS = (
    "/api/events/in",
    "/api/events/out",
    "/api/logs/out",
    "/api/task_runs/subscriptions/scheduled",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    quiet = {"PREFECT_SERVER_UI_ENABLED": "0", "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"}
    home = tmp_path_factory.mktemp("prefect")
    made = TemporaryServer(quiet | {"PREFECT_HOME": str(home)})
    made.start()
    made.wait()
    yield made
    made.stop()


def call(server, method, path, body=None, **headers):
    place = urlsplit(server.api_url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    try:
        text = None if body is None else json.dumps(body)
        named = {"content-type": "application/json"} if body is not None else {}
        connection.request(method, path, text, named | headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


def password(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def test_no_call_succeeds_without_the_password(server):
    for method, path, body in CALLS:
        assert call(server, method, path, body)[0] == 401, path
        assert call(server, method, path, body, **password("guess"))[0] == 401, path
        assert call(server, method, path, body, **password(server.password))[0] < 300, path
    assert server.password not in " ".join(server._process.args)


def test_a_page_with_another_name_for_this_machine_gets_no_answer(server):
    known = password(server.password)
    for host in ("attacker.example", "attacker.example:80", "127.0.0.1.attacker.example", ""):
        for method, path, body in (*CALLS, ("GET", "/api/health", None), ("GET", "/", None)):
            assert call(server, method, path, body, Host=host, **known)[0] == 400, (host, path)


def test_pages_of_other_origins_are_not_let_in(server):
    origin = "http://attacker.example"
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    wanted = {"Access-Control-Request-Headers": "authorization"}
    for status, headers in (
        call(server, "OPTIONS", "/api/flows/", **asked, **wanted),
        call(server, "GET", "/api/health", Origin=origin),
    ):
        assert status in (200, 400)
        assert headers.get("access-control-allow-origin") not in ("*", origin)


@pytest.mark.parametrize("path", SOCKETS)
def test_event_streams_ask_for_the_password(server, path):
    url = server.api_url.replace("http:", "ws:").removesuffix("/api") + path

    async def first_answer(token, protocols):
        async with websockets.connect(url, subprotocols=protocols, proxy=None) as stream:
            if token is not None:
                await stream.send(json.dumps({"type": "auth", "token": token}))
            return json.loads(await asyncio.wait_for(stream.recv(), 30))

    said = asyncio.run(first_answer(server.password, ["prefect"]))
    assert said["type"] == "auth_success"
    for token, protocols in (("guess", ["prefect"]), ("", ["prefect"]), (None, None)):
        with pytest.raises((websockets.ConnectionClosed, websockets.InvalidStatus)):
            asyncio.run(first_answer(token, protocols))
