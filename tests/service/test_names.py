"""Names at the API: allowed ones, errors for others, and never a NUL."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.calls import bell
from tests.service.rooms import Room, room

__all__ = ["room"]

CONTROLS = ("a\x1b[31mb", "a\nb", "a\x00b", "\x9bb", "a\u202eb", "a\u200bb", "\ufeffa", "a\u2028")
PROJECTS = ("a b", "", "x" * 65, "-a", "ä", "a/b", *CONTROLS)
RUNS = ("a b", "", "x" * 201, ".a", "ä", "a/b", *CONTROLS)


def ask(room: Room, method: str, path: str, **options: Any) -> Any:
    return room.http.request(method, path, headers=room.headers["operator"], **options)


def refused(answer: Any, given: str, expected: str) -> None:
    assert answer.status_code == 422, answer.text
    detail = answer.json()["detail"]
    assert detail.startswith("invalid "), detail
    assert repr(given)[:80] in detail
    assert expected in detail
    assert detail.isprintable()


def test_the_message_says_what_was_given_and_what_is_expected(room: Room) -> None:
    body = {"project": "a b", "unit": "qpu-s", "amount": 1}
    answer = ask(room, "POST", "/v1/budgets/projects", json=body)
    assert answer.json()["detail"] == (
        "invalid project name 'a b': use 1-64 ASCII letters, digits or . _ @ -, and begin with a "
        "letter or digit"
    )


def test_names_of_projects_are_of_letters_and_digits(room: Room) -> None:
    for name in PROJECTS:
        body = {"project": name, "unit": "qpu-s", "amount": 1}
        refused(
            ask(room, "POST", "/v1/budgets/projects", json=body), name, "use 1-64 ASCII letters"
        )
        asked = {"run": "r", "qpu": "fake", "project": name}
        for method, path in (("POST", "/v1/jobs"), ("GET", "/v1/statement")):
            sent = {"asked": asked} if method == "POST" else {"params": asked}
            answer = ask(room, method, path, content=b"", **sent)
            refused(answer, name, "use 1-64 ASCII letters")


def test_names_of_runs_are_of_letters_and_digits(room: Room) -> None:
    for name in RUNS:
        answers = [
            ask(room, "POST", "/v1/jobs", asked={"run": name, "qpu": "fake"}, content=b""),
            ask(room, "GET", "/v1/jobs", params={"run": name}),
            ask(room, "GET", "/v1/budgets/runs", params={"run": name}),
            ask(room, "POST", "/v1/budgets/runs", json={"run": name, "unit": "u", "amount": 1}),
        ]
        for answer in answers:
            refused(answer, name, "use 1-200 ASCII letters")


def named(field: str, name: str) -> dict[str, Any]:
    return {field: {"id": name, "longest_s": 1, "idle_s": 1} if field == "lease" else name}


@pytest.mark.parametrize("field", ["stage", "lease", "calibration", "qpu"])
def test_other_names_are_a_line_of_text(room: Room, field: str) -> None:
    for name in CONTROLS:
        asked = {"run": "r", "qpu": "fake"} | named(field, name)
        refused(ask(room, "POST", "/v1/jobs", asked=asked, content=b""), name, "one line of text")
    for name in ("Grundzustand für H₂", "a [b] (c)/d", "量子"):
        asked = {"run": "r", "qpu": "fake"} | named(field, name)
        answer = ask(room, "POST", "/v1/jobs", asked=asked, content=bell().to_bytes())
        assert "invalid" not in answer.json().get("detail", ""), answer.text


def test_nul_is_refused_wherever_text_is_taken(room: Room) -> None:
    """PostgreSQL cannot store it."""
    described = room.http.get("/openapi.json").json()
    free = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            for one in operation.get("parameters", []):
                free += [
                    f"{method} {path} {one['name']}"
                    for schema in one["schema"].get("anyOf", [one["schema"]])
                    if schema.get("type") == "string"
                    and not {"pattern", "enum", "contentSchema"} & set(schema)
                ]
            body = json.dumps([operation.get("requestBody"), operation.get("parameters")])
            for name, model in described["components"]["schemas"].items():
                if f'schemas/{name}"' in body:
                    free += [
                        f"{method} {path} {key}"
                        for key, schema in model.get("properties", {}).items()
                        if schema.get("type") == "string" and not {"pattern", "enum"} & set(schema)
                    ]
    assert free == []
    for path in ("/v1/jobs/%00", "/v1/jobs/j%00/why", "/v1/qpus/%00/target", "/v1/%00", "/%00"):
        assert ask(room, "GET", path).status_code in (404, 422)


def test_refusals_do_not_carry_control_characters(room: Room) -> None:
    for path in ("/v1/jobs/%1b[31m", "/v1/qpus/%1b[31m/target", "/%1b[31m"):
        assert "\x1b" not in ask(room, "GET", path).text
