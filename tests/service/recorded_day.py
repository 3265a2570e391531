"""The ledger of a service after one day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from backends.api import Usage
from backends.metering import Charge
from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Entries, Ledger
from orchestrator.identity import SERVICE_SCOPE, JobId

__all__ = ["write_history"]


def write_history(ledger_file: Path) -> None:
    """Write a day of work into a ledger that no broker has opened yet."""
    chance, now = Random(3), datetime.now(UTC)
    events: list[tuple[ev.Event, datetime]] = []
    for qpu, pause_s, length_s in (("fake", 700, 260), ("aer", 1500, 70), ("vlq", 2400, 500)):
        at, number = now - timedelta(hours=26), 0
        while at < now - timedelta(minutes=20):
            at += timedelta(seconds=chance.uniform(0.2, 1.8) * pause_s)
            length = timedelta(seconds=chance.uniform(0.3, 1.7) * length_s)
            events += past_job(qpu, number, at, length, failed=chance.random() < 0.06)
            at += length
            number += 1
    events.sort(key=lambda entry: entry[1])
    ledger = Ledger.open(ledger_file)
    ledger.append(SERVICE_SCOPE, Entries(events=events))
    ledger.close()


def past_job(
    qpu: str, number: int, at: datetime, length: timedelta, *, failed: bool
) -> list[tuple[ev.Event, datetime]]:
    user, project = (("alice", "chemistry"), ("bob", "optimization"))[hash_of(qpu, number) % 2]
    job = JobId("j" + f"{qpu.encode().hex()}{number:x}".rjust(20, "0")[-20:])
    part = ev.Part(job=job, pub=0, first_point=0, end_point=1, first_shot=0, end_shot=1000)
    tag = f"{job}.0"
    submitted = ev.JobSubmitted(
        job=job,
        run=f"{user}-{number}",
        stage=None,
        call=0,
        qpu=qpu,
        backend="fake" if qpu == "fake" else "aer",
        payload_kind="sampler",
        digest="0" * 64,
        pubs=(ItemShape(points=1, shots=1000),),
        num_qubits=2,
        seed=None,
        project=project,
        user=user,
    )
    seconds = length.total_seconds()
    usage = Usage(
        qpu_seconds=seconds,
        shots=1000,
        circuits=1,
        tasks=1,
        charges=(Charge(amount=seconds / 60, unit="credits"),),
    )
    end: ev.Event = ev.TaskCompleted(tag=tag, usage=usage)
    if failed:
        end = ev.TaskErred(tag=tag, error="the cryostat warmed up", error_type="TaskFailed")
    return [
        (submitted, at - timedelta(seconds=40)),
        (ev.TaskPlanned(tag=tag, qpu=qpu, parts=(part,)), at),
        (ev.TaskStarted(tag=tag, qpu_task=f"t{number}"), at),
        (end, at + length),
    ]


def hash_of(qpu: str, number: int) -> int:
    return Random(f"{qpu}{number}").randrange(1000)
