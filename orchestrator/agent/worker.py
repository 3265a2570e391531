"""The agent's Prefect worker: an ordinary process worker on the agent's work pool.

``python -m orchestrator.agent.worker POOL FLOWS FOLDER``
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.agent.flow_records import FlowRecords
from orchestrator.agent.recovery import Recovery

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

__all__ = ["main"]

_EVERY_S = 2.0
_log = logging.getLogger("prefect.hpcqc.worker")


def main() -> None:
    """Work until SIGTERM; flows under way end with this process and are taken up by the next."""
    # Prefect would wait half a minute for each flow. They see that we are gone.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    pool, flows, folder = sys.argv[1:]
    _use_own_temporary_folder(Path(folder) / "worker-tmp")
    asyncio.run(_work(pool, int(flows), Path(folder)))


def _use_own_temporary_folder(place: Path) -> None:
    """Let this process alone have its temporary files in an empty folder that nobody else enters.

    Prefect's runner needs ``runner_storage`` in the temporary folder, a name that another user of the
    machine may have taken.
    """
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
        if again := await recovery.take_up(client):
            _log.info("%d flow runs go on where they were", again)
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
    """Make the work pool, or bring it up to date: the interpreter may be another.

    The limit is the pool's, since a worker with one of its own stops when a run that it has
    not quite done with is scheduled again.
    """
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
    """Say that the loop is alive, whether or not the server is."""
    while True:
        file.write_text(str(time.time()), encoding="ascii")
        await asyncio.sleep(_EVERY_S)


async def _look_after(client: PrefectClient, recovery: Recovery) -> None:
    """Put killed flow runs back into the schedule."""
    import httpx

    while True:
        try:
            if again := await recovery.revive_crashed(client):
                _log.info("%d killed flow runs go on where they were", again)
        except httpx.HTTPError as error:
            _log.info("the Prefect server does not answer: %s", error)
        except Exception:  # noqa: BLE001  # whatever it is, the next look may go well
            _log.exception("killed flow runs were not looked for")
        await asyncio.sleep(_EVERY_S)


if __name__ == "__main__":
    from orchestrator.agent.lifeline import PARENT
    from orchestrator.config.environment import hand_down

    hand_down({PARENT: str(os.getpid())})
    main()
