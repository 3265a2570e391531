"""A service that is full: of jobs, of data, of disk. It says so, and goes on when there is room."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from qiskit import QuantumCircuit

from backends.fake import create
from backends.payloads import SamplerPayload
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.budgets import BudgetExhausted
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import Entries, Ledger, LedgerUnwritable
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.pacing import Pacing
from orchestrator.broker.runtime.quotas import StorageFull, TooManyJobs
from orchestrator.config.broker_tables import BrokerLimits
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import SERVICE_SCOPE, Payer, ProjectAccount
from tests.errors import naming
from tests.postgres import PostgresServer
from tests.service.calls import job_head
from tests.service.conftest import Start
from tests.service.rooms import open_room

ADA, BOB = Payer(user="ada", project="chem"), Payer(user="bob", project="chem")
NO_LIMITS = BrokerLimits(reserve=0)


def some_limits(**stated: int) -> BrokerLimits:
    return NO_LIMITS.model_copy(update=stated)


def payload(shots: int = 10) -> SamplerPayload:
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots)


def at_a_site(
    folder: Path,
    work: Callable[[Broker], Any],
    *,
    limits: BrokerLimits = NO_LIMITS,
    where: Path | str | None = None,
    **options: Any,
) -> Any:
    async def live() -> Any:
        ledger = Ledger.open(where or folder / "ledger.sqlite", patience_s=1.0)
        with closing(ledger):
            site = Broker(
                qpus={"q": QpuSettings(name="q", backend="fake")},
                ledger=ledger,
                clock=lambda: datetime.now(UTC),
                open_backend=lambda _: create(options, state_dir=folder),
                limits=limits,
                pacing=Pacing(stalled_s=0.01),
            )
            await site.open()
            try:
                return await work(site)
            finally:
                await site.close()

    return asyncio.run(live())


async def hand_in(site: Broker, number: int = 0, payer: Payer = ADA) -> JobView:
    made = JobRequest(run=payer.user, call=number, qpu="q", project=payer.project)
    return (await site.submit(made, payer.user, CheckedPayload.of(payload())))[0]


def test_open_jobs_of_a_user_and_of_a_project_are_limited(tmp_path: Path) -> None:
    limits = some_limits(open_jobs_per_user=2, open_jobs_per_project=3)

    async def work(site: Broker) -> None:
        await site.drain("q", "olga", "full")
        first = await hand_in(site, 0)
        await hand_in(site, 1)
        with pytest.raises(TooManyJobs, match=naming("ada", 2)):
            await hand_in(site, 2)
        assert (await hand_in(site, 1)).id, "a call that comes again is no further job"
        await hand_in(site, 0, BOB)
        with pytest.raises(TooManyJobs, match=naming("chem", 3)):
            await hand_in(site, 1, BOB)
        await site.cancel(first.id)
        await site.wait(first.id, 30)
        await hand_in(site, 2)

    at_a_site(tmp_path, work, limits=limits)

    async def again(site: Broker) -> None:
        with pytest.raises(TooManyJobs):
            await hand_in(site, 3)

    at_a_site(tmp_path, again, limits=limits)


def test_calls_in_flight_do_not_exceed_the_limit_together(tmp_path: Path) -> None:
    async def work(site: Broker) -> None:
        await site.drain("q", "olga", "full")
        calls = (hand_in(site, number) for number in range(12))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(one, JobView) for one in answers) == 2
        assert sum(isinstance(one, TooManyJobs) for one in answers) == 10
        assert len(site.events.state.jobs) == 2

    at_a_site(tmp_path, work, limits=some_limits(open_jobs_per_user=2))


def test_what_is_stored_within_a_day_is_limited(tmp_path: Path) -> None:
    size = len(payload().to_bytes())
    limits = some_limits(stored_per_user=2 * size, stored_per_project=3 * size)

    async def work(site: Broker) -> None:
        for number in range(2):
            await site.wait((await hand_in(site, number)).id, 30)
        with pytest.raises(StorageFull, match=naming("ada")):
            await hand_in(site, 2)
        await hand_in(site, 0, BOB)
        with pytest.raises(StorageFull, match=naming("chem")):
            await hand_in(site, 1, BOB)
        site.clock = lambda: datetime(2100, 1, 1, tzinfo=UTC)
        await hand_in(site, 3)

    at_a_site(tmp_path, work, limits=limits)


def test_a_reserve_of_the_disk_is_left_to_jobs_that_run(tmp_path: Path) -> None:
    async def work(site: Broker) -> None:
        running = await hand_in(site)
        free = 10**6
        site.quotas.free_bytes = lambda: free
        site.quotas.limits = some_limits(reserve=10**6)
        with pytest.raises(StorageFull, match="disk") as refused:
            await hand_in(site, 1)
        assert str(tmp_path) not in str(refused.value)
        assert (await site.wait(running.id, 30)).state is JobState.COMPLETED
        free = 10**8
        await hand_in(site, 1)

    at_a_site(tmp_path, work)


def test_refusals_of_a_full_service_are_problem_documents(tmp_path: Path) -> None:
    with open_room(tmp_path) as room:
        room.http.post(
            "/v1/qpus/fake/drain", headers=room.headers["operator"], json={"reason": "full"}
        )
        quotas = room.app.state.broker.quotas

        def ask(number: int) -> httpx.Response:
            return room.http.post(
                "/v1/jobs",
                asked={"run": "r", "qpu": "fake", "call": number},
                headers=room.headers["owner"],
                content=payload().to_bytes(),
            )

        assert ask(0).status_code == 201
        quotas.limits = some_limits(open_jobs_per_user=1)
        busy = ask(1)
        assert (busy.status_code, busy.json()["error_type"]) == (429, "TooManyJobs")
        assert busy.headers["retry-after"]
        quotas.limits = some_limits(stored_per_user=1)
        full = ask(1)
        assert (full.status_code, full.json()["error_type"]) == (507, "StorageFull")
        assert full.headers["content-type"] == "application/problem+json"


def test_the_budgets_that_a_user_sets_for_runs_are_limited(tmp_path: Path) -> None:
    with open_room(tmp_path) as room:
        site = room.app.state.broker
        site.quotas.limits = some_limits(run_budgets_per_user=3)

        def limit(run: str, who: str = "owner") -> httpx.Response:
            body = {"run": run, "unit": "qpu-s", "amount": 1.0}
            return room.http.post("/v1/budgets/runs", headers=room.headers[who], json=body)

        assert [limit(f"invented-{number}").status_code for number in range(4)] == [200] * 3 + [507]
        refused = limit("invented-0")
        assert (refused.status_code, refused.json()["error_type"]) == (507, "StorageFull")
        assert "user 'ada' set budgets of runs 3 times within a day" in refused.json()["detail"]
        assert limit("invented-4", "other").status_code == 200
        assert len(site.events.state.books.accounts) == 4
        site.clock = lambda: datetime(2100, 1, 1, tzinfo=UTC)
        assert limit("invented-5").status_code == 200


class Unwritable:
    """A ledger whose commits fail for a while, before or after they are written."""

    def __init__(self, ledger: Ledger) -> None:
        self.append, self.failing, self.tries = ledger.append, False, 0
        ledger.append = self  # type: ignore[method-assign, assignment]

    def __call__(self, scope: str, entries: Entries) -> None:
        if self.failing:
            self.tries += 1
            raise LedgerUnwritable("ledger /secret/place cannot be written: disk is full")
        self.append(scope, entries)


def test_the_broker_goes_on_when_its_ledger_can_be_written_again(tmp_path: Path) -> None:

    async def work(site: Broker) -> None:
        ledger = Unwritable(site.ledger)
        running = await hand_in(site)
        ledger.failing = True
        calls = [asyncio.ensure_future(hand_in(site, number)) for number in (1, 2)]
        while ledger.tries < 5:
            await asyncio.sleep(0.01)
        assert await site.fault()
        with pytest.raises(LedgerUnwritable, match="one job") as refused:
            await hand_in(site, 3)
        assert "/secret" not in str(refused.value)
        ledger.failing = False
        jobs = [running]
        for number, call in enumerate(calls, 1):
            try:
                jobs.append(await call)
            except LedgerUnwritable:
                jobs.append(await hand_in(site, number))
        for job in jobs:
            assert (await site.wait(job.id, 30)).state is JobState.COMPLETED
        assert await site.fault() is None
        await hand_in(site, 3)
        written = [event for event, _ in site.ledger.events(SERVICE_SCOPE)]
        tags = [event.tag for event in written if isinstance(event, ev.TaskPlanned)]
        assert len(tags) == len(set(tags))
        submitted = [event.job for event in written if isinstance(event, ev.JobSubmitted)]
        assert len(submitted) == len(set(submitted)) == 4

    at_a_site(tmp_path, work, run_s=0.05)


def test_a_call_that_is_made_again_while_the_ledger_is_away_is_stored_once(tmp_path: Path) -> None:
    limits = some_limits(stored_per_user=2 * len(payload().to_bytes()))

    async def work(site: Broker) -> None:
        ledger = Unwritable(site.ledger)
        ledger.failing = True
        first = asyncio.ensure_future(site.drain("q", "olga", "to begin the stall"))
        while await site.fault() is None:
            await asyncio.sleep(0.01)
        for _ in range(5):
            with pytest.raises(LedgerUnwritable):
                await hand_in(site)
        await asyncio.sleep(0)
        assert not site.events.blobs.payloads
        ledger.failing = False
        await asyncio.gather(first, return_exceptions=True)
        while await site.fault() is not None:
            await asyncio.sleep(0.01)
        await hand_in(site)

    at_a_site(tmp_path, work, limits=limits)


def test_a_call_that_is_refused_after_the_ledger_was_away_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def work(site: Broker) -> None:
        recall, left = site.ledger.recall_for, 3

        def away(scope: str, state: BrokerState, event: ev.Event) -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                raise LedgerUnwritable("the server is away")
            recall(scope, state, event)

        empty = ev.BudgetSet(
            account=str(ProjectAccount("chem")), unit="qpu-s", amount=0.0, by="olga"
        )
        await site.events.post(empty)
        monkeypatch.setattr(site.ledger, "recall_for", away)
        with pytest.raises(LedgerUnwritable):
            await hand_in(site)
        while left >= 0:
            await asyncio.sleep(0.01)
        with pytest.raises(BudgetExhausted):
            await hand_in(site)

    at_a_site(tmp_path, work)


@pytest.mark.slow
def test_a_server_that_goes_away_for_long_stops_nothing(
    tmp_path: Path,
    postgres_server: PostgresServer,
    postgres_url: str,
) -> None:

    async def work(site: Broker) -> None:
        first = await hand_in(site)
        postgres_server.stop(signal.SIGKILL)
        call = asyncio.ensure_future(hand_in(site, 1))
        while await site.fault() is None:
            await asyncio.sleep(0.05)
        postgres_server.start()
        try:
            second = await call
        except LedgerUnwritable:
            second = await hand_in(site, 1)
        for job in (first, second):
            assert (await site.wait(job.id, 60)).state is JobState.COMPLETED

    at_a_site(tmp_path, work, where=postgres_url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)],
            capture_output=True,
            check=False,
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small file system takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_refuses_work_and_loses_nothing(start_service: Start, small_disk: Path) -> None:
    """A real service whose ledger is on a disk that others fill, and clear again."""
    service = start_service(
        broker=f"ledger = 'sqlite:///{small_disk}/ledger.sqlite'\n"
        "[broker.limits]\nreserve = '1 MiB'",
        options="run_s = 0.2",
    )
    process = service.process
    assert process is not None
    client = service.client()
    call = JobRequest(run="r", stage=None, call=0, qpu="fake")
    running = client.submit(call, payload())
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            pass
    transport = httpx.HTTPTransport(uds=service.socket.removeprefix("unix:"))
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as raw:
        refused = raw.post("/v1/jobs", content=payload().to_bytes(), headers=job_head(call=1))
        assert refused.status_code in (503, 507)
        assert str(small_disk) not in refused.text
        ballast.unlink()
        assert client.result(running, timeout_s=120)[0].data.meas.num_shots == 10
        second = client.submit(replace(call, call=1), payload())
        assert client.result(second, timeout_s=120)[0].data.meas.num_shots == 10
        assert raw.get("/health").status_code == 200
    client.close()
    assert process.poll() is None
    assert all(count == 1 for count in service.starts().values())
    assert len(service.starts()) == 2
