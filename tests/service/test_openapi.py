"""The served description and the service agree: no fault, and no answer that is not declared."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.calls import OPERATIONS
from tests.service.rooms import Room, room

__all__ = ["room"]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def operations(room: Room) -> dict[str, Any]:
    described = schemathesis.openapi.from_dict(room.http.get("/openapi.json").json())
    found = [each.ok() for each in described.get_all_operations()]
    return {f"{each.method.upper()} {each.path}": each for each in found}


def test_every_operation_is_tried(operations: dict[str, Any]) -> None:
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.filterwarnings("ignore")  # Schemathesis's own
def test_every_answer_is_declared(room: Room, operations: dict[str, Any], name: str) -> None:
    @settings(
        max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(case=operations[name].as_strategy())
    def tried(case: Case) -> None:
        check(case, room)

    tried()


def check(case: Case, room: Room) -> None:
    sent = case.as_transport_kwargs(base_url="http://localhost")
    for caller in ("nobody", "owner", "operator"):
        options = {name: sent[name] for name in ("params", "cookies") if sent.get(name) is not None}
        for name, other in (("data", "content"), ("json", "json")):
            if sent.get(name) is not None:
                options[other] = sent[name]
        headers = dict(sent.get("headers") or {}) | room.headers[caller]
        try:
            answer = room.http.request(sent["method"], sent["url"], headers=headers, **options)
        except (UnicodeError, ValueError, TypeError):
            continue  # httpx does not send it
        response = Response(
            status_code=answer.status_code,
            headers={name: [value] for name, value in answer.headers.items()},
            content=answer.content,
            request=_request(case),
            elapsed=0.0,
            verify=False,
            encoding="utf-8",
        )
        case.validate_response(response, checks=CHECKS)


def _request(case: Case) -> Any:
    import requests

    sent = case.as_transport_kwargs(base_url="http://localhost")
    return requests.Request(
        method=sent["method"], url=sent["url"], params=sent.get("params")
    ).prepare()
