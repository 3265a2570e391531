"""A real broker on a scaled clock starts jobs in the simulated order."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import pi
from pathlib import Path

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.payloads import SamplerPayload
from backends.profiles import load_profile
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.policies import make_policy
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.site_rules import qpu_rules
from orchestrator.config.qpu_tables import QpuSettings, ScheduleSettings
from orchestrator.identity import SERVICE_SCOPE, JobId, Payer
from orchestrator.simulation.sources import read_recorded
from orchestrator.simulation.study import Study
from orchestrator.simulation.workload import Arrival, Workload, on_qpu
from tests.patience import PATIENCE_S

JOBS, SEED, SCALE = 12, 39, 0.15
# On the virtual clock: a job may come so late, or the QPU be free so late.
JITTER_S = 0.4
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def settings_of(policy: str) -> QpuSettings:
    return QpuSettings(
        name="vlq",
        backend="aer",
        options={"profile": "vlq", "time_scale": SCALE},
        schedule=ScheduleSettings(policy=policy, slice_s=8.0),
    )


def seeded() -> list[tuple[float, int, Payer]]:
    """Return virtual second, shots and payer of each job; no two come close to each other."""
    dice = random.Random(SEED)
    jobs = []
    for number in range(JOBS):
        shots = dice.choice((400, 900, 2500, 12_000, 45_000))
        payer = Payer(user=f"u{dice.randrange(2)}", project=dice.choice("pq"))
        jobs.append((1.5 * number + dice.random(), shots + number, payer))
    return jobs


def payload(shots: int) -> SamplerPayload:
    circuit = QuantumCircuit(1)
    circuit.r(pi, 0, 0)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots)


async def serve(policy: str, path: Path) -> None:
    """Hand the workload to a real broker at scaled times, and wait for its end."""
    ledger = Ledger.open(path)
    settings = settings_of(policy)
    site = Broker(
        qpus={"vlq": settings},
        ledger=ledger,
        clock=lambda: datetime.now(UTC),
        open_backend=lambda _: registry.create("aer", settings.options, state_dir=path.parent),
    )
    await site.open()
    try:
        warm = JobRequest(run="warm", stage=None, call=0, qpu="vlq")
        first, _ = await site.submit(
            warm, "", CheckedPayload.of(payload(10))
        )  # the simulator is loaded by it
        await site.wait(first.id, PATIENCE_S)
        loop = asyncio.get_running_loop()
        start, ids = loop.time(), []
        for number, (at_s, shots, payer) in enumerate(seeded()):
            await asyncio.sleep(start + SCALE * at_s - loop.time())
            call = JobRequest(run="r", stage=f"s{number}", qpu="vlq", project=payer.project)
            ids.append(
                (await site.submit(call, payer.user, CheckedPayload.of(payload(shots))))[0].id
            )
        for job in ids:
            await site.wait(job, PATIENCE_S)
    finally:
        await site.close()
        ledger.close()


def starts(policy: str, arrivals: list[Arrival]) -> list[JobId]:
    workload = on_qpu(Workload.of("seeded", arrivals), "vlq", "aer")
    rules = qpu_rules(settings_of(policy), load_profile("vlq").target(), NOW)
    return Study(workload=workload, rules=rules).under(make_policy(policy)).seen.starts


def assert_robust(policy: str, arrivals: list[Arrival], expected: list[JobId]) -> None:
    """See that the order stays when jobs come late; else no real clock could be asked for it."""
    dice = random.Random(0)
    for _ in range(20):
        late = [
            replace(a, at=a.at + timedelta(seconds=dice.uniform(0, JITTER_S))) for a in arrivals
        ]
        assert starts(policy, late) == expected


def played(policy: str, path: Path) -> tuple[list[JobId], list[JobId], list[JobId]]:
    """Return the jobs as they came, and as they were started by the broker and the simulation."""
    asyncio.run(serve(policy, path))
    recorded = read_recorded(path, scope=SERVICE_SCOPE)
    ledger = Ledger.open(path)
    events = [event for event, _ in ledger.events(SERVICE_SCOPE)]
    ledger.close()
    real = [event.parts[0].job for event in events if isinstance(event, ev.TaskPlanned)]
    # As the workload says, not as the real clock had it.
    times = [NOW + timedelta(seconds=at_s) for at_s in (-60, *(at_s for at_s, _, _ in seeded()))]
    arrivals = [
        Arrival(at=at, job=replace(a.job, predicted_s=None))
        for at, a in zip(times, recorded.arrivals, strict=True)
    ]
    expected = starts(policy, arrivals)
    assert_robust(policy, arrivals, expected)
    return [a.job.job for a in arrivals], real, expected


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["fifo", "shortest", "fair-share", "weighted"])
def test_the_real_service_starts_jobs_in_the_simulated_order(policy: str, tmp_path: Path) -> None:
    # A machine that stands still for longer than the jitter says nothing about the order.
    for attempt in range(3):
        (tmp_path / str(attempt)).mkdir()
        came, real, expected = played(policy, tmp_path / str(attempt) / "ledger.sqlite")
        if real == expected:
            break
    assert real == expected
    assert real != sorted(real, key=came.index) or policy == "fifo"
