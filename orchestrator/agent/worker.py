"""The agent's Prefect worker: a process worker that schedules flow runs again whose process died.

``python -m orchestrator.agent.worker POOL FLOWS FOLDER``. Prefect leaves a run that loses its worker
in "Running" for ever, and one whose process is killed in "Crashed" (PrefectHQ/prefect, issues 16746
and 18257). A flow of ours can be run again at any time: its id is its run id, so it finds the stages
and the quantum jobs that it had finished.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.agent.folder import FlowRecords
from orchestrator.agent.supervisor import RestartPolicy

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

__all__ = ["Recovery", "killed_by_signal", "main"]

_EVERY_S = 2.0
_CODE = re.compile(r"status code: (-?\d+)")
_END_S = 5.0
_MOST = 200  # what one answer of the server holds
_AGAIN = "AwaitingRetry"  # a name that Prefect's UI knows
# Prefect reports the death of a process twice. On a busy machine the second report comes after we
# have scheduled the run again, and would leave it crashed for good.
_ECHO_S = 60.0
# A flow that is killed again and again, for its memory, for example, is left crashed at last.
_POLICY = RestartPolicy(first_s=0.5, longest_s=30.0, window_s=600.0, limit=20)
_log = logging.getLogger("prefect.hpcqc.worker")


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
        self._pool, self._records = pool, records
        self._deaths: dict[str, list[float]] = {}
        self._revived: dict[str, float] = {}

    async def resume_earlier(self, client: PrefectClient) -> int:
        """End an earlier worker's processes and schedule its runs again; return how many."""
        # Runs of other workers of the pool have no record here and stay as they are.
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
        """Schedule the runs whose process was killed again; return how many there are."""
        count = 0
        for run in await self._runs(client, ("CRASHED",)):
            name, now = str(run.id), time.monotonic()
            if self._records.process_of(name) is None:
                if now < self._revived.get(name, -_ECHO_S) + _ECHO_S:
                    await self._again(client, run, 0.0)
                    count += 1
                continue  # else it is not ours, or settled already
            message = run.state.message if run.state else None
            self._revived.pop(name, None)
            if killed_by_signal(message):
                deaths = [*self._deaths.get(name, ()), now]
                delay = _POLICY.delay_s(deaths, now)
                if delay is not None:
                    await self._again(client, run, delay)
                    self._revived[name] = now
                    count += 1
                self._deaths[name] = deaths
            # Last, so that the request is repeated if the server did not answer.
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
            message="its process died; the run continues where it was",
        )
        await client.set_flow_run_state(run.id, state, force=True)

    async def _set(self, client: PrefectClient, run: FlowRun, kind: str, message: str) -> None:
        from prefect.client.schemas.objects import State, StateType

        state: Any = State(type=StateType(kind), message=message)
        await client.set_flow_run_state(run.id, state, force=True)


def main() -> None:
    """Work until SIGTERM; running flows end with this process, and the next one continues them."""
    # Prefect would wait half a minute for each flow. They notice the end of this process.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    pool, flows, folder = sys.argv[1:]
    _use_own_temporary_folder(Path(folder) / "worker-tmp")
    asyncio.run(_work(pool, int(flows), Path(folder)))


def _use_own_temporary_folder(place: Path) -> None:
    """Use a private folder: another user may have Prefect's ``runner_storage`` in /tmp."""
    shutil.rmtree(place, ignore_errors=True)  # of a worker that was killed
    place.mkdir()
    tempfile.tempdir = str(place)


async def _work(pool: str, flows: int, folder: Path) -> None:
    from prefect import get_client
    from prefect.workers.process import ProcessWorker

    async with get_client() as client:
        await _server_up(client)
        await _offer_pool(client, pool, flows)
        recovery = Recovery(pool, FlowRecords(folder=folder / "flows"))
        if again := await recovery.resume_earlier(client):
            _log.info("%d flow runs continue", again)
        worker = ProcessWorker(work_pool_name=pool, name="hpcqc-agent")
        beside = [
            asyncio.create_task(_beat(folder / "worker.beat")),
            asyncio.create_task(_look_after(client, recovery)),
        ]
        try:
            await worker.start()
        finally:
            for task in beside:
                task.cancel()


async def _server_up(client: PrefectClient) -> None:
    """Return when the server answers; it starts at the same time as this process."""
    while await client.api_healthcheck() is not None:
        await asyncio.sleep(0.1)


async def _offer_pool(client: PrefectClient, pool: str, flows: int) -> None:
    """Make or update the work pool, since the interpreter may have changed."""
    # The pool has the limit: a worker with one stops when an unfinished run is scheduled again.
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template: dict[str, Any] = ProcessWorker.get_default_base_job_template()
    command = [sys.executable, "-P", "-m", "orchestrator.agent.flow_process"]
    template["variables"]["properties"]["command"]["default"] = shlex.join(command)
    try:
        await client.create_work_pool(
            WorkPoolCreate(
                name=pool, type="process", base_job_template=template, concurrency_limit=flows
            )
        )
    except ObjectAlreadyExists:
        update = WorkPoolUpdate(base_job_template=template, concurrency_limit=flows)
        await client.update_work_pool(pool, update)


async def _beat(file: Path) -> None:
    """Touch the beat file while the loop is alive, whether or not the server is."""
    while True:
        file.write_text(str(time.time()), encoding="ascii")
        await asyncio.sleep(_EVERY_S)


async def _look_after(client: PrefectClient, recovery: Recovery) -> None:
    """Schedule killed flow runs again, time after time."""
    import httpx

    while True:
        try:
            if again := await recovery.revive_crashed(client):
                _log.info("%d killed flow runs continue", again)
        except httpx.HTTPError as error:
            _log.info("the Prefect server does not answer: %s", error)
        except Exception:  # noqa: BLE001  # the next attempt may succeed
            _log.exception("killed flow runs could not be looked up")
        await asyncio.sleep(_EVERY_S)


if __name__ == "__main__":
    from orchestrator.agent.lifeline import PARENT
    from orchestrator.config.environment import hand_down

    hand_down({PARENT: str(os.getpid())})
    main()
