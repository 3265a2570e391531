"""A service that moves ended jobs out of memory answers as before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit

from backends.api import TaskCancelled
from backends.fake import create
from backends.payloads import SamplerPayload
from backends.results import result_from_bytes
from orchestrator.broker.client.status import JobUnknown
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import JobFilter, Ledger
from orchestrator.broker.runtime import event_loop as service
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.pacing import Pacing
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import JobId
from tests.errors import naming
from tests.patience import PATIENCE_S

JOBS = 25
Work = Callable[[Broker], Awaitable[Any]]


# Forget at once what has ended, and store a snapshot every few events.
FORGETFUL = Pacing(ended_s=0.0, checkpoint_events=10, stalled_s=0.01, doubtful_s=0.05)


def payload(shots: int) -> SamplerPayload:
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots)


def at_a_site(
    where: Path | str, work: Work, rules: dict[str, Any] | None = None, **options: object
) -> Any:
    """Let a broker live as long as some work takes."""

    async def live() -> Any:
        ledger = Ledger.open(where)
        site = Broker(
            qpus={"q": QpuSettings(name="q", backend="fake", **(rules or {}))},
            ledger=ledger,
            clock=lambda: datetime.now(UTC),
            open_backend=lambda _: create({"coalesces": False, **options}, state_dir=Path()),
            pacing=FORGETFUL,
        )
        await site.open()
        try:
            return await work(site)
        finally:
            await site.close()
            ledger.close()

    return asyncio.run(live())


async def run_job(site: Broker, number: int) -> JobId:
    call = JobRequest(run="r", stage=f"s{number}", qpu="q", project="deep")
    view, _ = await site.submit(call, "eve", CheckedPayload.of(payload(number + 1)))
    return (await site.wait(view.id, 20)).id


def test_all_answers_are_as_if_nothing_were_forgotten(where: Path | str) -> None:
    async def work(site: Broker) -> list[JobId]:
        began = datetime.now(UTC)
        ids = [await run_job(site, number) for number in range(JOBS)]
        assert len(site.events.state.jobs) < JOBS / 2
        assert len(site.events.state.tasks) < JOBS / 2
        assert len(site.events.blobs.payloads) < JOBS / 2
        assert [job.id for job in await site.jobs(JobFilter())] == ids
        assert [job.id for job in await site.jobs(JobFilter(limit=3))] == ids[-3:]
        assert await site.jobs(JobFilter(projects=("shallow",))) == []
        assert (
            len(await site.jobs(JobFilter(projects=("shallow", "deep"), qpu="q", run="r"))) == JOBS
        )
        assert len(await site.jobs(JobFilter(state=JobState.COMPLETED))) == JOBS
        assert await site.jobs(JobFilter(state=JobState.FAILED)) == []
        assert await site.jobs(JobFilter(state=JobState.RUNNING)) == []
        for number, job in enumerate(ids):
            assert (await site.view(job)).state is JobState.COMPLETED
            data = await site.result(job)
            assert result_from_bytes(data).native[0].data.meas.get_counts() == {"1": number + 1}
        uses = await site.uses()
        assert (uses["deep"].jobs, uses["deep"].open) == (JOBS, 0)
        assert uses["deep"].usage.shots == sum(range(1, JOBS + 1))
        assert len(await site.slots(began)) == JOBS
        assert await site.slots(datetime.now(UTC) + timedelta(hours=1)) == []
        assert not await site.cancel(ids[0])
        with pytest.raises(JobUnknown):
            await site.view(JobId("j0"))
        return ids

    ids = at_a_site(where, work)

    async def later(site: Broker) -> None:
        assert len(site.events.state.jobs) == 0
        assert [job.id for job in await site.jobs(JobFilter())] == ids
        assert await run_job(site, 0) == ids[0]
        assert [task.starts for task in (await site.view(ids[0])).tasks] == [1]

    at_a_site(where, later)


def test_a_failed_job_that_was_forgotten_is_tried_again(where: Path | str) -> None:
    async def work(site: Broker) -> None:
        failed = await run_job(site, 0)
        assert (await site.view(failed)).state is JobState.FAILED
        for number in range(1, JOBS):
            await run_job(site, number)
        assert failed not in site.events.state.jobs
        assert await run_job(site, 0) == failed
        again = await site.view(failed)
        assert (again.state, [t.state for t in again.tasks]) == (
            JobState.COMPLETED,
            ["failed", "completed"],
        )
        assert (await site.uses())["deep"].jobs == JOBS

    at_a_site(where, work, fail=[1])


def test_the_late_end_of_a_forgotten_job_is_billed_and_its_result_stored(
    where: Path | str,
) -> None:
    async def work(site: Broker) -> None:
        job = await run_job(site, 4)
        assert (await site.view(job)).state is JobState.UNCERTAIN
        assert (await site.resolve(job, "failed", "olga", "gone")).state is JobState.FAILED
        await site.events.checkpoint()
        assert job not in site.events.state.jobs
        while not (view := await site.view(job)).tasks[0].late:
            await asyncio.sleep(0.01)
        await site.drain("q", "olga", "returns when all before it is written")
        assert (view.state, view.usage.shots, view.usage.qpu_seconds) == (JobState.FAILED, 5, 1.0)
        assert (await site.uses())["deep"].usage.qpu_seconds == 1.0
        result = result_from_bytes(site.ledger.result(view.tasks[0].tag))
        assert result.native[0].data.meas.get_counts() == {"1": 5}

    at_a_site(where, work, rules={"longest_task_s": 0.1}, run_s=1.0)


def test_a_call_handed_in_twice_at_once_is_one_job(where: Path | str) -> None:
    async def work(site: Broker) -> None:
        found = await asyncio.gather(*(run_job(site, 0) for _ in range(5)))
        assert len(set(found)) == 1
        assert [task.starts for task in (await site.view(found[0])).tasks] == [1]

    at_a_site(where, work, run_s=0.05)


def test_after_a_failed_commit_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(site: Broker) -> None:
        await run_job(site, 0)

        def fail(*_: object) -> None:
            raise service.LedgerError("the disk is full")

        stored: list[object] = []
        monkeypatch.setattr(site.ledger, "append", fail)
        monkeypatch.setattr(site.ledger, "checkpoint", lambda *a, **k: stored.append(a) or [])
        monkeypatch.setattr(site.events, "checkpoint_every", 1)
        with pytest.raises(service.LedgerError, match="full"):
            await run_job(site, 1)
        await asyncio.sleep(0.1)
        assert stored == []

    at_a_site(tmp_path / "ledger.sqlite", work)


def test_a_ledger_that_cannot_be_read_holds_everything_up_until_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def work(site: Broker) -> None:
        await run_job(site, 0)

        def away(*_: object) -> None:
            raise service.LedgerError("the server is away")

        with monkeypatch.context() as patched:
            patched.setattr(site.ledger, "recall_for", away)
            with pytest.raises(service.LedgerError, match="one job"):
                await run_job(site, 1)
            assert "takes no commits now" in (site.events.failure or "")
        await asyncio.sleep(0.1)
        await run_job(site, 1)
        assert site.events.failure is None

    at_a_site(tmp_path / "ledger.sqlite", work)


def test_a_fault_of_the_broker_itself_is_told_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(site: Broker) -> None:
        await run_job(site, 0)

        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("oh")

        monkeypatch.setattr(site.ledger, "checkpoint", broken)
        monkeypatch.setattr(site.events, "checkpoint_every", 1)

        async def go_on() -> None:
            for number in range(1, 4):
                await run_job(site, number)

        with pytest.raises(service.LedgerError, match=naming("ZeroDivisionError", "oh")):
            await go_on()
        assert site._serving is not None
        assert isinstance(site._serving.exception(), ZeroDivisionError)

    at_a_site(tmp_path / "ledger.sqlite", work)


def test_calls_that_are_not_written_when_the_broker_closes_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(site: Broker) -> None:
        began, go_on = threading.Event(), threading.Event()

        def hang(*_: object) -> None:
            began.set()
            go_on.wait(PATIENCE_S)

        monkeypatch.setattr(site.ledger, "append", hang)
        calls = [asyncio.ensure_future(site.drain("q", "olga", "in flight"))]
        await asyncio.to_thread(began.wait)
        calls.append(asyncio.ensure_future(site.drain("q", "olga", "queued")))
        await asyncio.sleep(0)
        threading.Timer(0.1, go_on.set).start()
        await site.close()
        done, _ = await asyncio.wait(calls, timeout=5)
        assert done == set(calls)
        assert [type(call.exception()) for call in calls] == [TaskCancelled] * 2

    at_a_site(tmp_path / "ledger.sqlite", work)
