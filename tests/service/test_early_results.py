"""A result is asked for between a task's end and the commit that records it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from backends.results import result_from_bytes
from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Entries, Ledger
from tests.patience import until
from tests.service.calls import bell, counts
from tests.service.rooms import open_room


def test_it_waits_for_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Ledger.append

    def slow_append(ledger: Ledger, scope: str, entries: Entries) -> None:
        if any(isinstance(event, ev.TaskCompleted) for event, _ in entries.events):
            time.sleep(0.5)
        append(ledger, scope, entries)

    monkeypatch.setattr(Ledger, "append", slow_append)
    with open_room(tmp_path, run_s=0.0) as room:
        owner = room.headers["owner"]
        job = room.http.post("/v1/jobs", asked={}, headers=owner, content=bell().to_bytes()).json()
        path = f"/v1/jobs/{job['id']}"
        until(lambda: room.http.get(path, headers=owner).json()["state"] == "completed")
        answer = room.http.get(f"{path}/result", headers=owner)
        assert answer.status_code == 200, answer.text
        assert sum(counts(result_from_bytes(answer.content).native).values()) == 100
