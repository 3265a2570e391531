"""Answers about very many jobs: made in slices, so that others get the event loop between them."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backends.shapes import ItemShape
from orchestrator.broker.api import budgets, operations
from orchestrator.broker.api import jobs as jobs_api
from orchestrator.broker.core import events as ev
from orchestrator.broker.runtime import broker as host
from orchestrator.identity import JobId
from tests.service.rooms import Room, open_room

MANY = 3000
# About 30 µs each: 50 ms are 1 600 of them.
MOST_AT_ONCE = 1000


def fill(room: Room) -> None:
    """Have many jobs queued, as after a day of a drained QPU."""
    state, now = room.app.state.broker.events.state, datetime.now(UTC)

    async def handle() -> None:
        state.handle(ev.QpuDrained(qpu="fake", by="olga", reason="full"), now)
        for number in range(MANY):
            submitted = ev.JobSubmitted(
                job=JobId(f"j{number:020x}"),
                run="r",
                stage=None,
                call=number,
                qpu="fake",
                backend="fake",
                payload_kind="sampler",
                digest="d",
                pubs=(ItemShape(points=1, shots=1, num_qubits=1, depth=1.0),),
                num_qubits=1,
                seed=1,
                project="p",
                user="owner",
            )
            assert state.handle(submitted, now).refused is None

    room.http.wait(handle())


@pytest.mark.parametrize(
    "path", ["/v1/jobs?limit=10000", "/v1/timeline", "/v1/statement", "/v1/projects"]
)
def test_a_listing_never_keeps_the_event_loop_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    made, slices, on_loop = 0, [0], threading.Event()

    def counted(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        return host_view(*arguments)

    host_view = host.job_view
    monkeypatch.setattr(host, "job_view", counted)
    with open_room(tmp_path) as room:
        fill(room)
        loop_thread = room.http._thread

        def off_loop(function: Any) -> Any:
            def checked(*arguments: Any) -> Any:
                if threading.current_thread() is loop_thread:
                    on_loop.set()
                return function(*arguments)

            return checked

        async def asked() -> Any:
            nonlocal made
            ask = asyncio.to_thread(room.http.get, path, headers=room.headers["operator"])
            answer = asyncio.ensure_future(ask)
            while not answer.done():
                slices.append(made)
                made = 0
                await asyncio.sleep(0)
            return await answer

        monkeypatch.setattr(operations, "_slot", off_loop(operations._slot))
        monkeypatch.setattr(budgets, "statement", off_loop(budgets.statement))
        monkeypatch.setattr(jobs_api, "_VIEWS", _Writer(off_loop(jobs_api._VIEWS.dump_json)))
        answer = room.http.wait(asked())
    assert answer.status_code == 200, answer.text
    assert sum(slices) + made >= MANY
    assert max(slices) <= MOST_AT_ONCE
    assert not on_loop.is_set()
    if path.startswith("/v1/jobs"):
        assert len(answer.json()) == MANY


class _Writer:
    def __init__(self, dump_json: Any) -> None:
        self.dump_json = dump_json
