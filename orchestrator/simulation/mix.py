"""Made-up workloads: short jobs of people who wait for them, and long ones (seeded)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from orchestrator.broker.core.events import JobSubmitted, PubShape
from orchestrator.identity import JobId
from orchestrator.simulation.workload import Arrival, Workload

__all__ = ["Mix", "made_up"]

_START = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How a mix is made: both kinds come at random times (Poisson), each at its own pace.

    jobs: in all. short: the part of them that is short: one circuit of 100 to 2000 shots, of one of
    ``users`` people of project ``interactive``. The others are a sweep of 20 to 100 circuits of
    1000 to 8000 shots, of one of three people of project ``batch``. mean_gap_s: between two jobs.
    """

    seed: int
    jobs: int = 2000
    short: float = 0.9
    users: int = 12
    mean_gap_s: float = 15.0


def made_up(mix: Mix) -> Workload:
    """Return the jobs; equal settings give equal ones."""
    return Workload.of(
        f"mix {mix.seed}",
        _arrivals(mix),
        (
            (
                f"made up with seed {mix.seed}: {mix.short:.0%} short jobs of one circuit, 100 to 2000 "
                "shots; the others sweeps of 20 to 100 circuits, 1000 to 8000 shots each"
            ),
        ),
    )


def _arrivals(mix: Mix) -> Iterator[Arrival]:
    dice, at_s = random.Random(mix.seed), 0.0
    for number in range(mix.jobs):
        at_s += dice.expovariate(1 / mix.mean_gap_s)
        is_short = dice.random() < mix.short
        points = 1 if is_short else dice.randint(20, 100)
        shots = dice.randint(100, 2000) if is_short else dice.randint(1000, 8000)
        user = dice.randrange(mix.users if is_short else 3)
        name = f"mix{number:06d}"
        job = JobSubmitted(
            job=JobId(name),
            run=name,
            stage=None,
            call=0,
            qpu="",
            backend="",
            payload_kind="sampler",
            digest=name,
            pubs=(PubShape(points=points, shots=shots, num_qubits=5, depth=20),),
            num_qubits=5,
            seed=None,
            project="interactive" if is_short else "batch",
            user=f"user{user}",
        )
        yield Arrival(at=_START + timedelta(seconds=at_s), job=job)
