"""Which crashed flow runs an agent's worker schedules again."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, State

from orchestrator.agent import worker
from orchestrator.agent.worker import Recovery


class Server:
    """A Prefect server's flow runs, as far as a recovery asks for them."""

    def __init__(self, *ids: UUID) -> None:
        self.states: dict[UUID, State[Any]] = {id_: Crashed(message="") for id_ in ids}

    async def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return [
            FlowRun(id=id_, flow_id=id_, state=state)
            for id_, state in self.states.items()
            if state.is_crashed()
        ]

    async def set_flow_run_state(self, id_: UUID, state: State[Any], *, force: bool) -> None:
        assert force
        self.states[id_] = state


class Records:
    """The processes that a worker has started, by flow run."""

    def __init__(self, *ids: UUID) -> None:
        self.ids = {str(id_) for id_ in ids}

    def process_of(self, name: str) -> str | None:
        return name if name in self.ids else None

    def remove(self, name: str) -> None:
        self.ids.discard(name)


KILLED = "Process exited with status code: -9. Some explanation"


@pytest.fixture
def run() -> UUID:
    return uuid4()


def revived(recovery: Recovery, server: Server) -> int:
    return asyncio.run(recovery.revive_crashed(cast("Any", server)))


def test_a_killed_run_goes_on_although_its_death_is_reported_twice(run: UUID) -> None:
    server, records = Server(run), Records(run)
    recovery = Recovery("pool", cast("Any", records))
    server.states[run] = Crashed(message=KILLED)
    assert revived(recovery, server) == 1
    assert server.states[run].is_scheduled()
    server.states[run] = Crashed(message="infrastructure exited with non-zero status code -9.")
    assert revived(recovery, server) == 1
    assert server.states[run].is_scheduled()
    assert revived(recovery, server) == 0


def test_what_crashed_by_itself_or_is_not_ours_stays(run: UUID) -> None:
    other = uuid4()
    server, records = Server(run, other), Records(run)
    server.states = {
        run: Crashed(message="Process exited with status code: 1."),
        other: Crashed(message=KILLED),
    }
    recovery = Recovery("pool", cast("Any", records))
    for _ in range(2):
        assert revived(recovery, server) == 0
    assert all(state.is_crashed() for state in server.states.values())


def test_a_late_report_counts_for_a_while_only(run: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    server, records = Server(run), Records(run)
    recovery = Recovery("pool", cast("Any", records))
    server.states[run] = Crashed(message=KILLED)
    assert revived(recovery, server) == 1
    monkeypatch.setattr(worker, "_ECHO_S", 0.0)
    server.states[run] = Crashed(message=KILLED)
    assert revived(recovery, server) == 0
