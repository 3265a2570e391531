"""The statement of a month is the sum of the sites' own formulas over the tasks in the ledger."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.api import Backend, Target, Usage
from backends.metering import Metering
from backends.payloads import SamplerPayload
from backends.profiles import load_profile
from orchestrator.broker.api.budgets import monthly_statement, set_budget
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.budgets import StatementLine, leases_held, month_bounds, statement
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.pacing import STANDARD_PACING, Pacing
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import SERVICE_SCOPE, JobId, Payer, ProjectAccount
from orchestrator.transpile import Transpiler
from tests.patience import PATIENCE_S

PROFILED = ("vlq", "piast-q", "euro-q-exa")
FAKE_OPTIONS = {"fail": [2], "run_s": 0.01, "coalesces": False}
ADA, BOB = Payer(user="ada", project="chem"), Payer(user="bob", project="optics")
LATE = Usage(qpu_seconds=3.0, shots=50, circuits=1, tasks=1)


class Clock:
    """Real time from a chosen moment on, which can be moved."""

    def __init__(self, begin: datetime) -> None:
        self._shift = begin - datetime.now(UTC)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._shift

    def forward(self, by: timedelta) -> None:
        self._shift += by


def site_settings() -> dict[str, QpuSettings]:
    qpus = {
        name: QpuSettings(name=name, backend="aer", options={"profile": name, "time_scale": 0})
        for name in PROFILED
    }
    return qpus | {"fake": QpuSettings(name="fake", backend="fake", options=FAKE_OPTIONS)}


def open_site(
    folder: Path,
    clock: Clock,
    qpus: Mapping[str, QpuSettings],
    pacing: Pacing = STANDARD_PACING,
) -> Broker:
    def open_backend(qpu: str) -> Backend:
        settings = qpus[qpu]
        return registry.create(settings.backend, settings.options, state_dir=folder / qpu)

    ledger = Ledger.open(folder / "ledger.sqlite")
    return Broker(qpus=qpus, ledger=ledger, clock=clock, open_backend=open_backend, pacing=pacing)


def payload(target: Target, qubits: int, shots: int) -> SamplerPayload:
    """Return what a client hands in: a chain of entangled qubits, transpiled for its QPU."""
    circuit = QuantumCircuit(qubits)
    circuit.h(0)
    for qubit in range(1, qubits):
        circuit.cx(qubit - 1, qubit)
    circuit.measure_all()
    plain = SamplerPayload.coerce([circuit], shots=shots)
    transpiler = Transpiler()
    pubs = [
        replace(pub, circuit=transpiler.transpile(pub.circuit, target).circuit)
        for pub in plain.pubs
    ]
    return SamplerPayload(pubs=tuple(pubs))


async def a_day(site: Broker, clock: Clock) -> None:
    """Work of two projects on four QPUs over the end of a month."""
    targets = {qpu: await site.target(qpu) for qpu in site.qpus}
    made: list[JobView] = []

    async def submit(qpu: str, payer: Payer, qubits: int = 2, shots: int = 100) -> JobId:
        call = JobRequest(run="r", call=len(made), qpu=qpu, project=payer.project)
        view, _ = await site.submit(
            call, payer.user, CheckedPayload.of(payload(targets[qpu], qubits, shots))
        )
        made.append(view)
        return view.id

    await set_budget(site, str(ProjectAccount("chem")), "billed-s", 100.0, "olga")
    await site.drain("vlq", "olga", "so that small jobs meet")
    small = [await submit("vlq", payer, shots=50) for payer in (ADA, BOB, ADA)]
    cancelled = await submit("vlq", BOB)
    await site.cancel(cancelled)
    await site.resume("vlq", "olga")
    small.append(await submit("piast-q", ADA, shots=500))  # 200 shots a task there
    small.append(await submit("euro-q-exa", BOB, qubits=3))
    for job in small:
        assert (await site.wait(job, PATIENCE_S)).state is JobState.COMPLETED
    assert (await site.wait(await submit("fake", ADA), 20)).state is JobState.COMPLETED
    broken = await site.wait(await submit("fake", ADA), 20)
    assert broken.state is JobState.FAILED
    charge = Metering().charge(qpu_seconds=3.0, shots=50, num_qubits=2)
    late = ev.TaskCompleted(tag=broken.tasks[0].tag, usage=replace(LATE, charges=(charge,)))
    await site.events.post(late)
    clock.forward(timedelta(days=1))
    for payer in (ADA, BOB):
        assert (await site.wait(await submit("vlq", payer, shots=400), 60)).state.is_final


def formulas(ledger: Ledger, qpus: Mapping[str, QpuSettings]) -> dict[tuple[str, str], float]:
    """Return by QPU and month what the tasks in the ledger cost by each site's own formula."""
    metering = {
        name: load_profile(name).metering if one.backend == "aer" else Metering()
        for name, one in qpus.items()
    }
    jobs: dict[JobId, ev.JobSubmitted] = {}
    planned: dict[str, ev.TaskPlanned] = {}
    ended: dict[str, datetime] = {}
    total: dict[tuple[str, str], float] = defaultdict(float)
    for event, at in ledger.events(SERVICE_SCOPE):
        match event:
            case ev.JobSubmitted():
                jobs[event.job] = event
            case ev.TaskPlanned():
                planned[event.tag] = event
            case ev.TaskErred() | ev.TaskStopped():
                ended[event.tag] = at
            case ev.TaskCompleted(tag=tag, usage=usage):
                plan = planned[tag]
                shots = sum(part.points * part.shots for part in plan.parts)
                width = max(jobs[part.job].num_qubits for part in plan.parts)
                if tag not in ended:
                    assert usage.shots == shots
                charge = metering[plan.qpu].charge(
                    qpu_seconds=usage.qpu_seconds, shots=usage.shots, num_qubits=width
                )
                total[plan.qpu, f"{ended.get(tag, at):%Y-%m}"] += charge.amount
            case _:
                pass
    return total


@pytest.mark.slow
@pytest.mark.parametrize("forgetful", [False, True])
def test_the_statement_of_mixed_work_is_the_sum_of_the_sites_formulas(
    tmp_path: Path, forgetful: bool
) -> None:
    pacing = Pacing(ended_s=0.0, checkpoint_events=5) if forgetful else STANDARD_PACING
    clock, qpus = Clock(datetime(2026, 11, 30, 12, tzinfo=UTC)), site_settings()

    async def work(site: Broker) -> dict[str, list[StatementLine]]:
        await a_day(site, clock)
        if forgetful:
            assert len(site.events.state.jobs) < 9
        found = {m: await monthly_statement(site, m, None) for m in ("2026-11", "2026-12")}
        mine = await monthly_statement(site, "2026-11", ("chem",))
        assert mine == [line for line in found["2026-11"] if line.project == "chem"]
        # The books hold the same sums as the statements.
        for project in ("chem", "optics"):
            for stands in site.events.state.books.status(str(ProjectAccount(project))):
                charged = sum(
                    line.charged
                    for lines in found.values()
                    for line in lines
                    if (line.project, line.unit) == (project, stands.unit)
                )
                assert stands.spent == pytest.approx(charged)
                assert stands.reserved == pytest.approx(0.0, abs=1e-9)
        return found

    months = in_a_site(tmp_path, clock, qpus, work, pacing)
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    expected = formulas(ledger, qpus)
    ledger.close()
    stated: dict[tuple[str, str], float] = defaultdict(float)
    for month, lines in months.items():
        for line in lines:
            assert line.month == month
            stated[line.qpu, month] += line.charged
    assert stated == pytest.approx(expected)
    assert set(stated) == {(qpu, "2026-11") for qpu in qpus} | {("vlq", "2026-12")}
    check_lines({(x.project, x.qpu): x for x in months["2026-11"]})


def check_lines(lines: dict[tuple[str, str], StatementLine]) -> None:
    """Three small jobs shared a task of VLQ's floor, 0.9 s, which each would have paid alone."""
    ours, theirs = lines["chem", "vlq"], lines["optics", "vlq"]
    assert (ours.jobs, ours.tasks, ours.shots) == (2, 1, 100)
    assert (theirs.jobs, theirs.tasks, theirs.shots) == (1, 1, 50)
    assert ours.charged + theirs.charged == pytest.approx(0.9)
    assert (ours.saved, theirs.saved) == pytest.approx((1.2, 0.6))
    assert lines["chem", "piast-q"].tasks == 3
    assert lines["chem", "fake"].jobs == 2  # one of them failed, and its task completed late
    assert lines["chem", "fake"].charged == pytest.approx(3.01)
    assert {line.unit for line in lines.values()} == {"billed-s", "device-s", "eqs", "qpu-s"}


def in_a_site(
    folder: Path,
    clock: Clock,
    qpus: Mapping[str, QpuSettings],
    work: Callable[[Broker], Awaitable[Any]],
    pacing: Pacing = STANDARD_PACING,
) -> Any:
    async def live() -> Any:
        site = open_site(folder, clock, qpus, pacing)
        await site.open()
        try:
            return await work(site)
        finally:
            await site.close()
            site.ledger.close()

    return asyncio.run(live())


def test_what_a_run_spent_counts_though_its_jobs_were_forgotten(tmp_path: Path) -> None:
    qpus = {"fake": QpuSettings(name="fake", backend="fake", options={"run_s": 0.01})}
    clock = Clock(datetime(2026, 11, 24, tzinfo=UTC))

    async def work(site: Broker) -> None:
        target = await site.target("fake")
        for number in range(10):
            call = JobRequest(run="r", call=number, qpu="fake", project="chem")
            view, _ = await site.submit(call, "ada", CheckedPayload.of(payload(target, 2, 10)))
            await site.wait(view.id, 20)
        assert len(site.events.state.jobs) < 9
        await set_budget(site, "run:ada/r", "qpu-s", 0.05, "ada")
        assert site.events.state.books.status("run:ada/r")[0].spent == pytest.approx(0.1)

    in_a_site(tmp_path, clock, qpus, work, Pacing(ended_s=0.0, checkpoint_events=4))
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    restored = ledger.restore(SERVICE_SCOPE).books.status("run:ada/r")
    ledger.close()
    assert restored[0].spent == pytest.approx(0.1)


def test_a_month_is_told_by_its_bounds() -> None:
    assert month_bounds("2026-12") == (
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    )
    with pytest.raises(ValueError, match=r"\b3"):
        month_bounds("2026-13")


def test_a_lease_counts_where_it_ended_and_for_whom_it_was_opened() -> None:
    at = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)

    def opened(lease: str, project: str) -> ev.LeaseOpened:
        return ev.LeaseOpened(
            lease=lease, qpu="q", run="r", project=project, user="u", until=at, idle_s=1.0
        )

    def closed(lease: str, when: datetime) -> ev.LeaseClosed:
        return ev.LeaseClosed(lease=lease, qpu="q", reason="idle", at=when, held_s=10.0, used_s=4.0)

    events = [
        opened("a", "chem"),
        closed("a", at),
        opened("b", "optics"),
        closed("b", at + timedelta(minutes=2)),
        opened("a", "chem"),
    ]
    held = list(leases_held(events))
    (line,) = statement([], held, "2026-11")
    assert (line.project, line.qpu, line.unit, line.leases) == ("chem", "q", "", 1)
    assert (line.lease_held_s, line.lease_used_s, line.charged) == (10.0, 4.0, 0.0)
    assert [x.project for x in statement([], held, "2026-12")] == ["optics"]
