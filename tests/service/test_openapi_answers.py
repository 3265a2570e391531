"""Every operation, with valid and invalid requests: the description has each answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis

from orchestrator.broker.api.admission import RequestLimits
from tests.service.calls import OPERATIONS, bell
from tests.service.rooms import Room, open_room

ASKED = {"run": "r", "qpu": "fake"}
UNKNOWN = "j" + "0" * 20
# The second start is refused, and nobody can say whether its task runs.
DOUBTFUL = {
    "can_find": False,
    "coalesces": False,
    "faults": [{"call": "start", "kind": "refused", "on": [2]}],
}


class Described:
    """Calls a broker and checks that its description has each answer."""

    def __init__(self, room: Room) -> None:
        self._room = room
        schema = schemathesis.openapi.from_dict(room.http.get("/openapi.json").json())
        found = [each.ok() for each in schema.get_all_operations()]
        self._operations = {f"{each.method.upper()} {each.path}": each for each in found}
        self.answers: dict[str, set[int]] = {name: set() for name in self._operations}

    def ask(self, name: str, caller: str = "operator", **options: Any) -> httpx.Response:
        """Send a request for an operation; ``job`` and ``qpu`` fill its path."""
        method, path = name.split()
        places = {"job": options.pop("job", ""), "qpu": options.pop("qpu", "")}
        headers = self._room.headers[caller] | options.pop("headers", {})
        answer = self._room.http.request(method, path.format(**places), headers=headers, **options)
        declared = self._operations[name].definition.raw["responses"]
        assert str(answer.status_code) in declared, (name, answer.status_code, answer.text)
        self._operations[name].validate_response(answer)
        self.answers[name].add(answer.status_code)
        return answer


@pytest.fixture
def described(tmp_path: Path) -> Iterator[Described]:
    with open_room(tmp_path, run_s=0.05, vendor_says="no key", more=DOUBTFUL) as room:
        yield Described(room)


@pytest.mark.filterwarnings("ignore")  # Schemathesis's own
def test_every_operation_succeeds_as_described(described: Described) -> None:
    ask, data = described.ask, bell().to_bytes()
    done = ask("POST /v1/jobs", asked=ASKED, content=data).json()["id"]
    assert ask("GET /v1/jobs/{job}", job=done, params={"wait_s": 20}).json()["state"] == "completed"
    assert ask("GET /v1/jobs/{job}/result", job=done).status_code == 200
    assert ask("GET /v1/jobs/{job}/why", job=done).json()["tasks"][0]["policy"] == "weighted"
    lease = ask("DELETE /v1/leases", params={"qpu": "fake", "lease": "loop"})
    assert lease.json() == {"lease": "loop"}
    assert ask("POST /v1/jobs", asked=ASKED, content=data).status_code == 200
    doubtful = ask("POST /v1/jobs", asked=ASKED | {"call": 1}, content=data).json()["id"]
    seen = ask("GET /v1/jobs/{job}", job=doubtful, params={"wait_s": 20}).json()
    assert seen["state"] == "uncertain"
    word = {"verdict": "failed", "reason": "the device's log has nothing"}
    seen = ask("POST /v1/jobs/{job}/resolve", job=doubtful, json=word).json()
    assert seen["state"] == "failed"
    assert ask("POST /v1/qpus/{qpu}/drain", qpu="fake", json={"reason": "cooling"}).json()["reason"]
    waits = ask("POST /v1/jobs", asked=ASKED | {"call": 2}, content=data).json()["id"]
    assert ask("GET /v1/jobs/{job}/result", job=waits).status_code == 202
    assert ask("POST /v1/jobs/{job}/cancel", job=waits).json()["too_late"] is False
    assert ask("POST /v1/jobs/{job}/cancel", job=done).json()["too_late"] is True
    assert ask("POST /v1/qpus/{qpu}/resume", qpu="fake").json()["state"] == "online"
    assert ask("GET /v1/qpus/{qpu}/target", qpu="fake").json()["num_qubits"] == 10
    ready = ask("GET /v1/qpus/{qpu}/readiness", qpu="fake").json()
    assert (ready["operational"], ready["has_room"]) == (True, True)
    assert set(ready["sources"]) == {"status", "capacity", "readiness"}
    assert all(source["at"] and source["credentials"] for source in ready["sources"].values())
    wanted = {"run": "r", "needs": {"qubits": 3, "labels": []}}
    assert ask("POST /v1/choices", json=wanted).json()["qpu"] == "fake"
    assert len(ask("GET /v1/jobs", params={"limit": 5, "run": "r"}).json()) == 3
    for name in ("GET /health", "GET /metrics", "GET /v1/projects", "GET /v1/qpus"):
        ask(name)
    for name in ("GET /v1/timeline", "GET /v1/whoami", "GET /v1/statement"):
        ask(name)
    limit = {"unit": "qpu-s", "amount": 500.0}
    ask("POST /v1/budgets/projects", json={"project": "ops", **limit})
    assert ask("GET /v1/budgets/projects").json()[0]["budgets"][0]["amount"] == 500.0
    ask("POST /v1/budgets/runs", json={"run": "r", **limit})
    assert ask("GET /v1/budgets/runs", params={"run": "r"}).json()["budgets"][0]["spent"] > 0
    assert sorted(described.answers) == sorted(OPERATIONS)
    assert {name for name, codes in described.answers.items() if not codes & {200, 201}} == set()


@pytest.mark.filterwarnings("ignore")
def test_every_refusal_is_described(described: Described, tmp_path: Path) -> None:
    ask, data = described.ask, bell().to_bytes()
    theirs = ask("POST /v1/jobs", "owner", asked=ASKED, content=data).json()["id"]
    for name in OPERATIONS:
        if name != "GET /health":
            body = {"verdict": "failed", "reason": "x"}
            filled = {"job": theirs, "qpu": "fake", "params": ASKED, "content": json.dumps(body)}
            assert ask(name, "nobody", **filled).status_code == 401
            assert ask(name, "revoked", **filled).status_code == 401
        if "{job}" in name:
            word = {"json": {"verdict": "failed", "reason": "x"}} if "resolve" in name else {}
            assert ask(name, job=UNKNOWN, **word).status_code == 404
            assert ask(name, job="nonsense", **word).status_code == 422
            if "resolve" not in name:
                assert ask(name, "other", job=theirs).status_code == 404
        if "{qpu}" in name:
            body = {"json": {"reason": "x"}} if "drain" in name else {}
            assert ask(name, qpu="nowhere", **body).status_code == 404
    ask("GET /v1/jobs/{job}", job=theirs, params={"wait_s": 20})
    word = {"verdict": "failed", "reason": "x"}
    assert ask("POST /v1/jobs/{job}/resolve", job=theirs, json=word).status_code == 409
    refused = [
        ask("POST /v1/jobs/{job}/resolve", "owner", job=theirs, json=word),
        ask("POST /v1/qpus/{qpu}/drain", "owner", qpu="fake", json={"reason": "x"}),
        ask("POST /v1/qpus/{qpu}/resume", "owner", qpu="fake"),
        ask("GET /metrics", "owner"),
        ask("POST /v1/jobs", "owner", asked=ASKED | {"project": "optics"}, content=data),
    ]
    assert {answer.status_code for answer in refused} == {403}
    none = {"unit": "qpu-s", "amount": 0.0}
    for name, whose in (("projects", {"project": "ops"}), ("runs", {"run": "r"})):
        assert ask(f"POST /v1/budgets/{name}", json=whose | none).status_code == 200
        poor = ask("POST /v1/jobs", asked=ASKED | {"call": 9}, content=data)
        assert (poor.status_code, poor.json()["error_type"]) == (402, "BudgetExhausted")
        ask(f"POST /v1/budgets/{name}", json=whose | {"unit": "qpu-s", "amount": None})
        wrong = ask(f"POST /v1/budgets/{name}", json=whose | {"unit": "euro", "amount": 1})
        assert "no QPU here bills in 'euro'; the units are: qpu-s" in wrong.json()["detail"]
    assert ask("GET /v1/statement", params={"month": "soon"}).status_code == 422
    assert ask("GET /v1/budgets/runs").status_code == 422
    cancelled = ask("POST /v1/jobs", asked=ASKED | {"call": 7}, content=data).json()["id"]
    ask("POST /v1/jobs/{job}/cancel", job=cancelled)
    ask("GET /v1/jobs/{job}", job=cancelled, params={"wait_s": 20})
    assert ask("GET /v1/qpus/{qpu}/target", qpu="broken").status_code == 503
    assert ask("POST /v1/jobs", asked=ASKED, content=b"no payload").status_code == 422
    zipped = {"Content-Encoding": "gzip"}
    assert ask("POST /v1/jobs", asked=ASKED, content=data, headers=zipped).status_code == 415


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("limits", "code"),
    [(RequestLimits(body_bytes=10), 413), (RequestLimits(requests_per_s=0.01, burst=1), 429)],
)
def test_limits_are_described(tmp_path: Path, limits: RequestLimits, code: int) -> None:
    with open_room(tmp_path, limits=limits) as room:
        described = Described(room)
        for _ in range(2):
            answer = described.ask("POST /v1/jobs", asked=ASKED, content=bell().to_bytes())
        assert answer.status_code == code
        assert answer.json()["detail"]
