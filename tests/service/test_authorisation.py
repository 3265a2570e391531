"""Authorisation: every endpoint of the API, called by every kind of caller."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.service.calls import bell
from tests.service.conftest import Service
from tests.service.rooms import Room, room

__all__ = ["room"]

CALLERS = ("nobody", "bad", "expired", "revoked", "owner", "other", "operator")
STRANGERS = ("nobody", "bad", "expired", "revoked")
UNKNOWN = "j" + "0" * 20
RESOLUTION = {"json": {"verdict": "failed", "reason": "r"}}
PAYLOAD = bell(seed=5).to_bytes()

# (method, path) -> what the body is, and the answers to: owner, another user, operator.
# {job} is the owner's; it is at work, so it has no result (202) and is not uncertain (409).
TABLE: dict[tuple[str, str], tuple[dict[str, Any], tuple[int, int, int]]] = {
    ("POST", "/v1/jobs"): (
        {"asked": {"run": "r", "qpu": "fake", "project": "chem"}, "content": PAYLOAD},
        (200, 403, 201),
    ),
    ("GET", "/v1/jobs"): ({}, (200, 200, 200)),
    ("GET", "/v1/jobs/{job}"): ({}, (200, 404, 200)),
    ("GET", "/v1/jobs/{job}/result"): ({}, (202, 404, 202)),
    ("GET", "/v1/jobs/{job}/why"): ({}, (200, 404, 200)),
    ("POST", "/v1/jobs/{job}/resolve"): (RESOLUTION, (403, 403, 409)),
    ("GET", "/v1/whoami"): ({}, (200, 200, 200)),
    ("GET", "/v1/qpus"): ({}, (200, 200, 200)),
    ("GET", "/v1/qpus/{qpu}/target"): ({}, (200, 200, 200)),
    ("GET", "/v1/qpus/{qpu}/readiness"): ({}, (200, 200, 200)),
    ("POST", "/v1/qpus/{qpu}/drain"): ({"json": {"reason": "r"}}, (403, 403, 200)),
    ("POST", "/v1/qpus/{qpu}/resume"): ({}, (403, 403, 200)),
    ("DELETE", "/v1/leases"): ({"params": {"qpu": "fake", "lease": "r"}}, (200, 200, 200)),
    ("GET", "/v1/projects"): ({}, (200, 200, 200)),
    ("GET", "/v1/timeline"): ({}, (200, 200, 200)),
    ("GET", "/v1/budgets/projects"): ({}, (200, 200, 200)),
    ("POST", "/v1/budgets/projects"): (
        {"json": {"project": "chem", "unit": "qpu-s", "amount": 1e6}},
        (403, 403, 200),
    ),
    ("GET", "/v1/budgets/runs"): ({"params": {"run": "r"}}, (200, 200, 200)),
    ("POST", "/v1/budgets/runs"): (
        {"json": {"run": "x", "unit": "qpu-s", "amount": 5.0}},
        (200, 200, 200),
    ),
    ("POST", "/v1/choices"): ({"json": {"run": "r"}}, (200, 200, 200)),
    ("GET", "/v1/statement"): ({}, (200, 200, 200)),
    ("GET", "/metrics"): ({}, (403, 403, 200)),
    ("POST", "/v1/jobs/{job}/cancel"): ({}, (200, 404, 200)),
}
# Asked by anyone, answered to anyone.
OPEN = {("GET", "/health")}


def test_users_may_not_push_ahead(room: Room) -> None:
    for caller, priority, status in (("owner", 1, 403), ("owner", -1, 201), ("operator", 1, 201)):
        asked = {"run": f"p{priority}{caller}", "qpu": "fake", "priority": priority}
        answer = room.http.post(
            "/v1/jobs", asked=asked, content=PAYLOAD, headers=room.headers[caller]
        )
        assert answer.status_code == status, answer.text


@pytest.fixture(scope="module")
def job(room: Room) -> str:
    """A job of the owner's that goes on."""
    asked = {"run": "r", "qpu": "fake"}
    answer = room.http.post("/v1/jobs", asked=asked, content=PAYLOAD, headers=room.headers["owner"])
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ask(room: Room, method: str, path: str, caller: str, job: str, **options: Any) -> Any:
    place = path.format(job=job, qpu="fake")
    return room.http.request(method, place, headers=room.headers[caller], **options)


def test_the_table_is_complete(room: Room) -> None:
    paths = room.http.get("/openapi.json").json()["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert served == set(TABLE) | OPEN


@pytest.mark.parametrize("endpoint", TABLE, ids=" ".join)
@pytest.mark.parametrize("caller", CALLERS)
def test_each_endpoint_asks_who_calls(
    room: Room, job: str, endpoint: tuple[str, str], caller: str
) -> None:
    options, statuses = TABLE[endpoint]
    known = dict(zip(("owner", "other", "operator"), statuses, strict=True))
    if endpoint == ("POST", "/v1/jobs") and caller == "operator":
        known["operator"] = 200  # the same project, run and payload: the same job
    answer = ask(room, *endpoint, caller, job, **options)
    assert answer.status_code == known.get(caller, 401), answer.text
    if caller in STRANGERS:
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["error_type"] == "NotAuthenticated"


@pytest.mark.parametrize("endpoint", [key for key in TABLE if "{job}" in key[1]], ids=" ".join)
def test_another_s_job_is_as_unknown_as_none(
    room: Room, job: str, endpoint: tuple[str, str]
) -> None:
    options, _ = TABLE[endpoint]
    theirs = ask(room, *endpoint, "other", job, **options)
    none = ask(room, *endpoint, "other", UNKNOWN, **options)
    assert theirs.status_code == none.status_code
    assert theirs.text.replace(job, UNKNOWN) == none.text
    assert dict(theirs.headers) == dict(none.headers)


def test_lists_hold_nothing_of_others(room: Room, job: str) -> None:
    for path in ("/v1/jobs", "/v1/jobs?run=r", "/v1/projects", "/v1/timeline"):
        seen = room.http.get(path, headers=room.headers["other"])
        for word in (job, "chem", "ada"):
            assert word not in seen.text, path
        assert "chem" in room.http.get(path, headers=room.headers["owner"]).text
        assert "chem" in room.http.get(path, headers=room.headers["operator"]).text


def test_a_project_is_paid_with_by_its_members_alone(room: Room) -> None:
    asked = {"run": "r", "qpu": "fake", "project": "optics"}
    answer = room.http.post("/v1/jobs", asked=asked, content=PAYLOAD, headers=room.headers["owner"])
    assert answer.status_code == 403
    assert "theirs: chem, qml" in answer.json()["detail"]


def test_equal_calls_of_other_projects_are_other_jobs(room: Room, job: str) -> None:
    """A job's id depends on the request and on the paying project: no other user can take it."""
    asked = {"run": "r", "qpu": "fake"}
    answer = room.http.post("/v1/jobs", asked=asked, content=PAYLOAD, headers=room.headers["other"])
    assert answer.status_code == 201
    assert answer.json()["id"] != job


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
def test_other_methods_tell_strangers_nothing(room: Room, job: str, method: str) -> None:
    for path in (f"/v1/jobs/{job}", "/v1/jobs", "/v1/qpus/fake/drain"):
        answer = room.http.request(method, path)
        assert answer.status_code in (401, 405)
        assert "access-control-allow-origin" not in answer.headers


def test_the_process_itself_asks_over_tcp_and_knows_the_peer_of_a_socket(service: Service) -> None:
    from datetime import UTC, datetime

    entry, secret = service.tokens.add("ada", "user", ["chem"], now=datetime.now(UTC))
    header = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{service.url}/v1/jobs").status_code == 401
    assert httpx.get(f"{service.url}/v1/whoami", headers=header).json()["projects"] == ["chem"]
    assert httpx.post(f"{service.url}/v1/qpus/fake/resume", headers=header).status_code == 403
    service.tokens.revoke(entry.id)
    assert httpx.get(f"{service.url}/v1/whoami", headers=header).status_code == 401
    uds = httpx.HTTPTransport(uds=str(service.state / "broker.sock"))
    with httpx.Client(transport=uds, base_url="http://localhost") as peer:
        assert peer.get("/v1/whoami").json()["role"] == "operator"
        assert peer.get("/v1/whoami", headers=header).status_code == 401  # a bad token is no peer
