"""A service keeps labelled data from its QPUs, whatever a client says or leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.calls import bell, job_head
from tests.service.rooms import Room, open_room

PAYLOAD = bell().to_bytes()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A service at which all data of project qml is personal; its QPU accepts no label."""
    with open_room(tmp_path, run_s=0.0) as opened:
        opened.app.state.broker.labels = {"qml": ("personal",)}
        yield opened


def submit(room: Room, **asked: Any) -> Any:
    head = {**room.headers["owner"], **job_head(**asked)}
    return room.http.post("/v1/jobs", content=PAYLOAD, headers=head)


def jobs(room: Room) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = room.http.get("/v1/jobs", headers=room.headers["owner"]).json()
    return found


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ({"project": "chem", "labels": ["embargoed"]}, "embargoed"),
        ({"project": "qml"}, "personal"),
        ({"project": "qml", "labels": []}, "personal"),
    ],
)
def test_the_refusal_says_so_and_the_ledger_keeps_it(room: Room, asked: Any, label: str) -> None:
    answer = submit(room, **asked)
    assert answer.status_code == 403
    assert answer.json()["error_type"] == "DataRefused"
    assert label in answer.json()["detail"]
    (kept,) = jobs(room)
    assert (kept["state"], kept["error_type"], kept["labels"]) == ("failed", "DataRefused", [label])
    assert kept["tasks"] == []


def test_labels_are_names_and_not_too_many(room: Room) -> None:
    for labels in (["a b"], [""], ["x"] * 33, "embargoed"):
        assert submit(room, project="chem", labels=labels).status_code == 422
    assert jobs(room) == []


def test_a_choice_of_a_labelled_project_names_no_qpu_that_does_not_accept_it(room: Room) -> None:
    def chosen(project: str) -> str:
        body = {"run": "r", "project": project}
        answer = room.http.post("/v1/choices", json=body, headers=room.headers["owner"])
        assert answer.status_code == 200, answer.text
        found: str = answer.json()["qpu"]
        return found

    assert chosen("chem") == "fake"
    assert chosen("qml") == ""
