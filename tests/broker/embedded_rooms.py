"""One embedded broker on a fake QPU called q: what its tests submit, and what they ask it."""

from __future__ import annotations

from collections.abc import Callable

from qiskit import QuantumCircuit

from backends.fake import FakeBackend
from backends.payloads import SamplerPayload
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.identity import JobId
from tests.patience import PATIENCE_S

Open = Callable[..., EmbeddedBroker]

# Kept as they were: a process that is killed does not destroy its tasks one by one either.
DEAD: list[EmbeddedBroker] = []


def bell(shots: int = 100, seed: int = 1) -> SamplerPayload:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots, seed=seed)


def call(occurrence: int = 0) -> JobRequest:
    return JobRequest(run="run", stage=None, call=occurrence, qpu="q")


def fake_of(broker: EmbeddedBroker) -> FakeBackend:
    backend = broker.backend("q")
    assert isinstance(backend, FakeBackend)
    return backend


def starts(broker: EmbeddedBroker) -> dict[str, int]:
    return dict(fake_of(broker).starts)


def counts_of(broker: EmbeddedBroker, job: JobId) -> dict[str, int]:
    counts: dict[str, int] = broker.result(job, PATIENCE_S)[0].data.meas.get_counts()
    return counts


def die(broker: EmbeddedBroker) -> None:
    """Leave everything as a killed process does: no goodbye, but lock and connections are gone."""
    broker._loop.call_soon_threadsafe(broker._loop.stop)
    broker._thread.join(PATIENCE_S)
    broker._loop.close()
    broker._closed = True
    assert broker._lock_file is not None
    broker._lock_file.close()
    assert broker._ledger is not None
    broker._ledger.close()
    DEAD.append(broker)
