"""A broker whose QPU cannot be opened: its tasks wait for it, and the other QPUs go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backends.api import Backend, QpuUnavailable
from backends.fake import create
from orchestrator.broker.client.status import NotUncertain
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.pacing import Pacing
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import SERVICE_SCOPE, JobId
from tests.broker.embedded_rooms import bell
from tests.patience import PATIENCE_S


@asynccontextmanager
async def serving(
    folder: Path,
    names: str = "ab",
    down: Collection[str] = (),
    run_s: float = 0.5,
    watch_s: float = 30.0,
) -> AsyncIterator[Broker]:
    def open_backend(name: str) -> Backend:
        if name in down:
            raise QpuUnavailable(f"the vendor of {name} does not answer")
        options = {"durable": True, "run_s": run_s if name == "a" else 0.0}
        return create(options, state_dir=folder / name)

    ledger = Ledger.open(folder / "ledger.sqlite")
    broker = Broker(
        qpus={name: QpuSettings(name=name, backend="fake") for name in names},
        ledger=ledger,
        clock=lambda: datetime.now(UTC),
        open_backend=open_backend,
        pacing=Pacing(watch_s=watch_s),
    )
    try:
        await broker.open()
        yield broker
    finally:
        await broker.close()
        ledger.close()


async def submit(broker: Broker, qpu: str, call: int = 0) -> JobId:
    request = JobRequest(run="r", call=call, qpu=qpu, project="p")
    return (await broker.submit(request, "ada", CheckedPayload.of(bell())))[0].id


async def left_running(folder: Path, **options: Any) -> tuple[JobId, JobId]:
    """Return a job that runs on QPU a and one that waits for it, both left by a broker."""
    async with serving(folder, **options) as broker:
        running, waiting = await submit(broker, "a"), await submit(broker, "a", 1)
        while (await broker.view(running)).started_at is None:
            await asyncio.sleep(0.01)
    return running, waiting


async def b_works_and_a_waits(broker: Broker, running: JobId) -> None:
    view = await broker.wait(await submit(broker, "b"), PATIENCE_S)
    assert view.state is JobState.COMPLETED
    assert (await broker.view(running)).state is JobState.RUNNING
    assert [reason.tag for reason in (await broker.why(running)).tasks] == [f"{running}.0"]


def assert_adopted(broker: Broker, *views: JobView) -> None:
    assert [view.state for view in views] == [JobState.COMPLETED] * len(views)
    assert [[task.starts for task in view.tasks] for view in views] == [[1]] * len(views)
    kinds = [event.kind for event, _ in broker.ledger.events(SERVICE_SCOPE)]
    assert kinds.count("task-adopted") == 1
    backend = broker.opened("a")
    assert set(backend.starts.values()) == {1}  # type: ignore[union-attr]


def test_a_task_is_adopted_when_the_vendor_of_its_qpu_is_back(tmp_path: Path) -> None:
    async def work() -> None:
        jobs = await left_running(tmp_path)
        down = {"a"}
        async with serving(tmp_path, down=down) as broker:
            assert broker.status("a").state == "unavailable"
            await b_works_and_a_waits(broker, jobs[0])
            down.clear()
            await broker.backend("a")
            assert_adopted(broker, *[await broker.wait(job, PATIENCE_S) for job in jobs])

    asyncio.run(work())


def test_a_task_of_a_removed_qpu_is_adopted_when_the_site_has_it_again(tmp_path: Path) -> None:
    async def work() -> None:
        jobs = await left_running(tmp_path)
        async with serving(tmp_path, "b") as broker:
            await b_works_and_a_waits(broker, jobs[0])
        async with serving(tmp_path) as broker:
            assert_adopted(broker, *[await broker.wait(job, PATIENCE_S) for job in jobs])

    asyncio.run(work())


def test_a_job_cancelled_while_its_qpu_is_away_is_stopped_when_it_is_back(tmp_path: Path) -> None:
    async def work() -> None:
        running, waiting = await left_running(tmp_path, run_s=600.0)
        down = {"a"}
        async with serving(tmp_path, down=down, run_s=600.0) as broker:
            for job in (running, running, waiting):
                await broker.cancel(job)
            assert (await broker.view(waiting)).state is JobState.CANCELLED
            assert (await broker.view(running)).state is JobState.RUNNING
            down.clear()
            await broker.backend("a")
            view = await broker.wait(running, PATIENCE_S)
            assert view.state is JobState.CANCELLED
            assert [task.state for task in view.tasks] == ["cancelled"]

    asyncio.run(work())


def test_waiting_work_goes_on_by_itself_when_its_qpu_is_back(tmp_path: Path) -> None:
    async def work() -> None:
        jobs = await left_running(tmp_path)
        down = {"a"}
        async with serving(tmp_path, down=down, watch_s=0.05) as broker:
            await b_works_and_a_waits(broker, jobs[0])
            down.clear()
            assert_adopted(broker, *[await broker.wait(job, PATIENCE_S) for job in jobs])
            assert broker.status("a").state == "online"

    asyncio.run(work())


def test_an_operator_resolves_a_task_of_a_removed_qpu(tmp_path: Path) -> None:
    async def work() -> None:
        running, waiting = await left_running(tmp_path)
        async with serving(tmp_path, "b") as broker:
            view = await broker.resolve(running, "failed", by="op", reason="the QPU is gone")
            assert view.state is JobState.FAILED
            with pytest.raises(NotUncertain):  # it has no task
                await broker.resolve(waiting, "failed", by="op", reason="the QPU is gone")
            await broker.cancel(waiting)
            assert (await broker.view(waiting)).state is JobState.CANCELLED

    asyncio.run(work())


def test_a_task_of_a_qpu_that_is_only_down_is_not_resolved(tmp_path: Path) -> None:
    async def work() -> None:
        running, _ = await left_running(tmp_path)
        async with serving(tmp_path, down={"a"}) as broker:
            with pytest.raises(NotUncertain):
                await broker.resolve(running, "failed", by="op", reason="in a hurry")

    asyncio.run(work())
