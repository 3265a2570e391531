"""Flow runs whose process died are scheduled again, under the same id.

Prefect leaves a run that loses its worker in "Running" for ever, and one whose process is killed in
"Crashed" (PrefectHQ/prefect, issues 16746 and 18257). A flow of ours can be run again at any time:
its id is its run id, so it finds the stages and the quantum jobs that it had finished.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.agent.flow_records import FlowRecords
from orchestrator.agent.policy import RestartPolicy

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

__all__ = ["Recovery", "killed_by_signal"]

_CODE = re.compile(r"status code: (-?\d+)")
_END_S = 5.0
_MOST = 200  # what one answer of the server holds
_AGAIN = "AwaitingRetry"  # a name that Prefect's UI knows
# A flow that is killed time and again, for its memory say, is left crashed in the end.
_POLICY = RestartPolicy(first_s=0.5, longest_s=30.0, window_s=600.0, limit=20)


def killed_by_signal(message: str | None) -> bool:
    """Whether a crash that Prefect reports was the sudden death of the process.

    >>> killed_by_signal("Process exited with status code: -9. Some explanation")
    True
    >>> killed_by_signal("Process exited with status code: 1. Some explanation")
    False
    """
    found = _CODE.search(message or "")
    if found is None:
        return False
    code = int(found.group(1))
    return code < 0 or 128 < code < 160  # 128 + signal, as a shell reports it


class Recovery:
    """Puts flow runs of one work pool back into the schedule."""

    def __init__(self, pool: str, records: FlowRecords) -> None:
        """Take note; nothing is asked yet."""
        self._pool, self._records = pool, records
        self._deaths: dict[str, list[float]] = {}

    async def take_up(self, client: PrefectClient) -> int:
        """Schedule again what an earlier worker was at; return how many runs that are.

        Waits for the processes of those runs to end, and ends them. Call it before a worker
        starts on the pool. Runs that another worker of the pool is at are left alone: they
        have no record here.
        """
        await self._await_ends()
        count = 0
        for run in await self._runs(client, ("PENDING", "RUNNING", "CANCELLING")):
            recorded = self._records.process_of(str(run.id)) is not None
            state = run.state_type.value if run.state_type else ""
            if not recorded and state != "PENDING":
                continue
            if state == "CANCELLING":
                await self._set(client, run, "CANCELLED", "its process ended with the agent")
            else:
                await self._again(client, run, 0.0)
                count += 1
            self._records.remove(str(run.id))
        return count + await self.revive_crashed(client)

    async def revive_crashed(self, client: PrefectClient) -> int:
        """Schedule again the runs whose process was killed; return how many they are."""
        count = 0
        for run in await self._runs(client, ("CRASHED",)):
            name = str(run.id)
            if self._records.process_of(name) is None:
                continue  # never ours, or settled already
            message = run.state.message if run.state else None
            if killed_by_signal(message):
                now = time.monotonic()
                deaths = [*self._deaths.get(name, ()), now]
                delay = _POLICY.delay_s(deaths, now)
                if delay is not None:
                    await self._again(client, run, delay)
                    count += 1
                self._deaths[name] = deaths
            # Last, so that a server that did not answer is asked again.
            self._records.remove(name)
        return count

    async def _await_ends(self) -> None:
        deadline = time.monotonic() + _END_S
        while alive := self._records.alive():
            if time.monotonic() > deadline:
                for process in alive:
                    process.signal(signal.SIGKILL)
            await asyncio.sleep(0.05)

    async def _runs(self, client: PrefectClient, states: Sequence[str]) -> list[FlowRun]:
        from prefect.client.schemas.filters import (
            FlowRunFilter,
            FlowRunFilterState,
            FlowRunFilterStateType,
            WorkPoolFilter,
            WorkPoolFilterName,
        )
        from prefect.client.schemas.objects import StateType
        from prefect.client.schemas.sorting import FlowRunSort

        kinds = FlowRunFilterStateType(any_=[StateType(state) for state in states])
        return await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=kinds)),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool])),
            sort=FlowRunSort.START_TIME_DESC,
            limit=_MOST,
        )

    async def _again(self, client: PrefectClient, run: FlowRun, delay_s: float) -> None:
        from prefect.states import Scheduled

        state: Any = Scheduled(
            scheduled_time=datetime.now(UTC) + timedelta(seconds=delay_s),
            name=_AGAIN,
            message="its process died; it goes on where it was",
        )
        await client.set_flow_run_state(run.id, state, force=True)

    async def _set(self, client: PrefectClient, run: FlowRun, kind: str, message: str) -> None:
        from prefect.client.schemas.objects import State, StateType

        state: Any = State(type=StateType(kind), message=message)
        await client.set_flow_run_state(run.id, state, force=True)
