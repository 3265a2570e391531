"""A variational loop beside a long sampling job on one QPU: how long its steps take then."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from backends.aer import create
from backends.payloads import SamplerPayload
from benchmarks.rows import Row
from orchestrator.broker.core.job_request import JobRequest, LeaseWish
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.config.bounds import LeaseBounds
from orchestrator.config.qpu_tables import QpuSettings, ScheduleSettings

__all__ = ["measure"]

# A clock ten times as fast as VLQ's: a step of 500 shots takes 0.1 s, the long job 20 s.
_OPTIONS = {"profile": "vlq", "time_scale": 0.1}
_STEPS = 60
_STEP_SHOTS = 500
_CLASSICAL_S = 0.05
_LONG_SHOTS = 500_000
_FIFO = ScheduleSettings(policy="fifo", slice_s=0.0, lease=None)
_SHIPPED = ScheduleSettings(lease=LeaseBounds(longest_s=6.0, idle_s=0.5))


def measure() -> list[Row]:
    """Take the loop alone, and beside the long job as shipped and as first in, first out."""
    alone, _ = _walk(_SHIPPED, beside=False)
    shared, through = _walk(_SHIPPED, beside=True)
    fifo, _ = _walk(_FIFO, beside=True)
    return [
        Row(
            name="mean step of a loop beside a long job, leases and slices",
            ours=f"{shared * 1e3:.0f} ms",
            against=f"{alone * 1e3:.0f} ms",
            what="the same loop alone",
            ratio=shared / alone,
            goal="≤ 2",
            met=shared <= 2 * alone,
        ),
        Row(
            name="the same, part of the long job done meanwhile",
            ours=f"{through:.0%}",
            against="–",
            what="of its shots",
            ratio=None,
            goal="> 0",
            met=through > 0,
        ),
        Row(
            name="the same, first in, first out, whole jobs",
            ours=f"{shared * 1e3:.0f} ms",
            against=f"{fifo * 1e3:.0f} ms",
            what="FIFO without slices or leases",
            ratio=shared / fifo,
            goal="< 1",
            met=shared < fifo,
        ),
    ]


def _walk(schedule: ScheduleSettings, *, beside: bool) -> tuple[float, float]:
    """Return the mean seconds of a step, and which part of the long job ran meanwhile."""
    with _broker(schedule) as broker:
        long = None
        if beside:
            call = JobRequest(run="long", stage=None, call=0, qpu="vlq", seed=1)
            long = broker.submit(call, _rotation(1.0, _LONG_SHOTS))
        took = []
        for number in range(_STEPS):
            began = time.perf_counter()
            call = JobRequest(
                run="loop",
                stage=None,
                call=number,
                qpu="vlq",
                seed=1,
                lease=LeaseWish(id="loop", longest_s=60.0, idle_s=5.0),
            )
            broker.result(broker.submit(call, _rotation(0.1 * number, _STEP_SHOTS)))
            took.append(time.perf_counter() - began)
            time.sleep(_CLASSICAL_S)
        done = broker.view(long).usage.shots / _LONG_SHOTS if long is not None else 0.0
        return statistics.fmean(took) + _CLASSICAL_S, done


def _rotation(angle: float, shots: int) -> SamplerPayload:
    circuit, theta = QuantumCircuit(1), Parameter("theta")
    circuit.r(theta, 0.0, 0)
    circuit.measure_all()
    return SamplerPayload.coerce([(circuit, [angle])], shots=shots, seed=1)


@contextmanager
def _broker(schedule: ScheduleSettings) -> Iterator[EmbeddedBroker]:
    settings = QpuSettings(name="vlq", backend="aer", options=_OPTIONS, schedule=schedule)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        broker = EmbeddedBroker(
            run="r",
            state_dir=folder,
            open_backend=lambda name: create(_OPTIONS, state_dir=folder / name),
            qpus={"vlq": settings},
        ).open()
        try:
            yield broker
        finally:
            broker.close()
