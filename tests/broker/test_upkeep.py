"""A real broker over closures, rates, calendars that change and calibrations that do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.api import Backend, CalibrationChanged, QpuUnavailable
from backends.fake import FakeBackend
from backends.payloads import SamplerPayload
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import Ledger, LedgerUnwritable
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.pacing import Pacing
from orchestrator.config.bounds import Rate
from orchestrator.config.qpu_tables import QpuSettings, ScheduleSettings, WindowSettings
from orchestrator.identity import SERVICE_SCOPE
from tests.errors import naming
from tests.patience import PATIENCE_S

_calls = itertools.count()


def now() -> datetime:
    return datetime.now(UTC)


def qpu(name: str = "q", **schedule: Any) -> QpuSettings:
    return QpuSettings(name=name, backend="fake", schedule=ScheduleSettings(**schedule))


def closed(start_s: float, end_s: float, **more: Any) -> WindowSettings:
    begin = now()
    start, end = (begin + timedelta(seconds=s) for s in (start_s, end_s))
    return WindowSettings(start=start, end=end, **more)


@asynccontextmanager
async def serving(folder: Path, *qpus: QpuSettings) -> AsyncIterator[Broker]:
    ledger = Ledger.open(folder / "ledger.sqlite")
    by_name = {one.name: one for one in qpus}
    broker = Broker(
        qpus=by_name,
        ledger=ledger,
        clock=now,
        open_backend=lambda name: registry.create(
            "fake", by_name[name].options, state_dir=folder / name
        ),
        pacing=Pacing(watch_s=0.05, stalled_s=0.01),
    )
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()
        ledger.close()


async def submit(broker: Broker, name: str = "q", **more: Any) -> JobView:
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    payload = SamplerPayload.coerce([circuit], shots=10, seed=1)
    call = JobRequest(run="r", call=next(_calls), qpu=name, project="p1", **more)
    return (await broker.submit(call, "ada", CheckedPayload.of(payload)))[0]


async def ended(broker: Broker, *jobs: JobView) -> list[JobView]:
    return [await broker.wait(job.id, PATIENCE_S) for job in jobs]


def played(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))


def test_work_goes_on_by_itself_when_a_closure_ends_and_others_are_not_held_up(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        window = closed(-1, 3.0, title="filling helium")
        async with serving(tmp_path, qpu(window=[window]), qpu("other")) as broker:
            status = broker.status("q")
            assert status.closed
            assert status.closure is not None
            assert (status.closure.title, status.closure.end) == ("filling helium", window.end)
            assert not broker.status("other").closed
            waiting, free = await submit(broker), await submit(broker, "other")
            (free,) = await ended(broker, free)
            assert free.state is JobState.COMPLETED
            assert (await broker.view(waiting.id)).state is JobState.QUEUED
            (waiting,) = await ended(broker, waiting)
            assert waiting.state is JobState.COMPLETED
            assert window.end is not None
            assert waiting.tasks[0].planned_at >= window.end
            assert not broker.status("q").closed

    played(work)


def test_a_rate_is_kept_and_work_goes_on_when_it_allows(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, qpu(rate=Rate(starts=2, per_s=0.5))) as broker:
            jobs = await ended(broker, *[await submit(broker) for _ in range(5)])
            assert {job.state for job in jobs} == {JobState.COMPLETED}
            at = sorted(job.tasks[0].planned_at for job in jobs)
            gaps = [b - a for a, b in zip(at, at[2:], strict=False)]
            assert min(gaps) >= timedelta(seconds=0.5)

    played(work)


def test_results_outside_quality_windows_are_provisional(tmp_path: Path) -> None:
    async def work() -> None:
        good, bad = closed(-60, 60, kind="quality"), closed(60, 120, kind="quality")
        async with serving(tmp_path, qpu(window=[good]), qpu("bad", window=[bad])) as broker:
            jobs = await ended(broker, await submit(broker), await submit(broker, "bad"))
            assert [job.provisional for job in jobs] == [False, True]
            assert jobs[1].tasks[0].provisional

    played(work)


CLOSED = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//s//EN\r\nBEGIN:VEVENT\r\nUID:1\r\n"
    "DTSTAMP:20260101T000000Z\r\nDTSTART:20260101T000000Z\r\nDTEND:20260101T235900Z\r\n"
    "RRULE:FREQ=DAILY\r\nSUMMARY:Repair\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)
OPEN = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//s//EN\r\nEND:VCALENDAR\r\n"


def test_a_changed_calendar_counts_and_one_that_breaks_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:

    async def work() -> None:
        file = tmp_path / "q.ics"
        file.write_text(CLOSED.replace("20260101T235900Z", "20260102T000000Z"))
        async with serving(tmp_path, qpu(calendar=file)) as broker:
            job = await submit(broker)
            file.write_text("no calendar any more")
            while "keeps the calendar it had" not in caplog.text:
                await asyncio.sleep(0.02)
            assert broker.status("q").closed
            assert (await broker.view(job.id)).state is JobState.QUEUED
            file.write_text(OPEN)
            (job,) = await ended(broker, job)
            assert job.state is JobState.COMPLETED

    played(work)


def test_a_calendar_that_changes_while_its_qpu_is_opened_counts(tmp_path: Path) -> None:

    async def work() -> None:
        file = tmp_path / "q.ics"
        file.write_text(CLOSED.replace("20260101T235900Z", "20260102T000000Z"))
        async with serving(tmp_path, qpu(calendar=file)) as broker:
            file.write_text(OPEN)
            while broker.status("q").closed:
                await asyncio.sleep(0.02)

    played(work)


@pytest.mark.parametrize("on", [1, 2])
def test_a_backend_whose_first_opening_fails_is_closed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: int
) -> None:
    async def work() -> None:
        built: list[Backend] = []
        closed: list[Backend] = []

        def build(_: str) -> Backend:
            faults = [] if built else [{"call": "target", "on": [on]}]
            backend = registry.create("fake", {"faults": faults}, state_dir=tmp_path)
            monkeypatch.setattr(backend, "close", lambda: closed.append(backend))
            built.append(backend)
            return backend

        async with serving(tmp_path) as broker:
            broker.qpus, broker.open_backend = {"q": qpu()}, build
            for _ in range(2):
                with suppress(QpuUnavailable):
                    await broker.target("q")
            (job,) = await ended(broker, await submit(broker))
            assert job.state is JobState.COMPLETED
            backend = broker.opened("q")
            assert isinstance(backend, FakeBackend)
            assert sum(backend.starts.values()) == 1
            assert closed == [one for one in built if one is not backend]

    played(work)


def test_a_day_later_the_calendar_is_written_out_anew(tmp_path: Path) -> None:

    async def work() -> None:
        daily = WindowSettings(daily="03:00-04:00")
        async with serving(tmp_path, qpu(window=[daily])) as broker:
            last = broker.events.state.rules["q"].calendar.closures[-1].end
            later = timedelta(days=30)
            broker.events.clock = lambda: now() + later
            while broker.events.state.rules["q"].calendar.closures[-1].end < last + later / 2:
                await asyncio.sleep(0.02)

    played(work)


def test_rules_change_in_turn_with_the_events(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, qpu()) as broker:
            events = broker.events
            before = events.state.rules["q"]
            after = replace(before, shares={"chem": 2.0})
            changing = asyncio.create_task(events.reconfigure("q", after))
            await asyncio.sleep(0)  # handed in, and not looked at yet
            assert events.state.rules["q"] == before
            await changing
            assert events.state.rules["q"] == after

    played(work)


def test_a_ledger_that_was_away_ends_no_look_at_calendars_and_calibrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def away(*_: Any) -> None:
        raise LedgerUnwritable("the disk is full")

    async def work() -> None:
        daily = WindowSettings(daily="03:00-04:00")
        async with serving(tmp_path, qpu(window=[daily])) as broker:
            rules, later = broker.events.state.rules, timedelta(days=30)
            last = rules["q"].calendar.closures[-1].end
            with monkeypatch.context() as full:
                full.setattr(broker.ledger, "append", away)
                drain = asyncio.ensure_future(broker.drain("q", "olga", "to stall"))
                while await broker.fault() is None:
                    await asyncio.sleep(0.01)
                target = await broker.target("q")
                changed = replace(target, calibration=replace(target.calibration, id="fake-9"))
                with pytest.raises(LedgerUnwritable):
                    await broker.watch.note("q", changed)
                broker.events.clock = lambda: now() + later  # renewal is due, and refused
                await asyncio.sleep(0.2)
            await asyncio.gather(drain, return_exceptions=True)
            while await broker.fault() is not None:
                await asyncio.sleep(0.01)
            while rules["q"].calendar.closures[-1].end < last + later / 2:
                await asyncio.sleep(0.02)
            await broker.watch.note("q", changed)
            told = [event for event, _ in broker.ledger.events(SERVICE_SCOPE)]
            news = [e.calibration for e in told if isinstance(e, ev.QpuRecalibrated)]
            assert news.count("fake-9") == 1

    played(work)


def test_a_service_gives_back_what_waits_when_its_qpu_is_calibrated_anew(tmp_path: Path) -> None:

    async def work() -> None:
        drifting = qpu().model_copy(update={"options": {"drift_every": 1, "run_s": 0.6}})
        async with serving(tmp_path, drifting) as broker:
            first = await submit(broker, calibration="fake-0")
            while (await broker.target("q")).calibration.id != "fake-1":  # its start made it so
                await asyncio.sleep(0.01)
            await broker.drain("q", "olga", "to hand in what waits")
            waiting = await submit(broker, calibration="")
            with pytest.raises(CalibrationChanged, match=naming("fake-0", "fake-1")):
                await submit(broker, calibration="fake-0")
            stale = await submit(broker, calibration="fake-1")
            await broker.resume("q", "olga")
            first, waiting, stale = await ended(broker, first, waiting, stale)
            # The second task's start made it fake-2, while the third job waited.
            assert [first.state, waiting.state] == [JobState.COMPLETED] * 2
            assert (stale.state, stale.error_type) == (JobState.FAILED, "CalibrationChanged")
            assert stale.tasks == ()
            assert "fake-1" in (stale.error or "")

    played(work)
