"""Fake QPUs of a site that states which labels of data they accept, and brokers on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qiskit import QuantumCircuit

from backends.api import Backend, QpuTaskId, SessionId
from backends.fake import FakeBackend, create
from backends.payloads import Payload, SamplerPayload
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.config.site import QpuSettings

__all__ = ["LABELS", "PROJECTS", "QPUS", "Lab", "payload", "request", "site"]

QPUS = ("home", "abroad", "cloud")
LABELS = ("embargoed", "jurisdiction:EU", "project:chem")
PROJECTS = ("chem", "bio")


def payload(number: int) -> SamplerPayload:
    """Return a payload that can be told from all others by its shots."""
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=10 + number)


def request(qpu: str, labels: Sequence[str] = (), **options: Any) -> JobRequest:
    asked: dict[str, Any] = {"run": "r", "project": "chem", **options}
    return JobRequest(qpu=qpu, labels=tuple(labels), **asked)


def site(accepts: Mapping[str, Sequence[str]]) -> dict[str, QpuSettings]:
    found = {}
    for name in QPUS:
        labels = accepts.get(name, ())
        places = [one.partition(":")[2] for one in labels if one.startswith("jurisdiction:")]
        others = [one for one in labels if not one.startswith("jurisdiction:")]
        found[name] = QpuSettings(name=name, backend="fake", accepts=others, jurisdictions=places)
    return found


@dataclass
class Lab:
    """Fake QPUs that outlive brokers, and note whose data they got while what was accepted."""

    folder: Path
    script: Mapping[str, Any] = field(default_factory=dict)
    accepts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scripts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of single QPUs
    got: list[tuple[str, int, frozenset[str]]] = field(default_factory=list)
    backends: dict[str, FakeBackend] = field(default_factory=dict)

    def open_backend(self, qpu: str) -> Backend:
        lab, accepted = self, frozenset(self.accepts.get(qpu, ()))
        made = create(dict(self.scripts.get(qpu, self.script)), state_dir=self.folder / qpu)

        class Noting(FakeBackend):
            def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
                assert isinstance(payload, SamplerPayload)
                lab.got.extend((qpu, int(pub.shots) - 10, accepted) for pub in payload.pubs)
                return super().start(session, payload, tag)

        made.__class__ = Noting
        self.backends[qpu] = made
        return made

    @asynccontextmanager
    async def broker(
        self, accepts: Mapping[str, Sequence[str]], **options: Any
    ) -> AsyncIterator[Broker]:
        self.accepts = accepts
        ledger = Ledger.open(self.folder / "ledger.sqlite")
        broker = Broker(
            qpus=site(accepts),
            ledger=ledger,
            clock=lambda: datetime.now(UTC),
            open_backend=self.open_backend,
            **options,
        )
        await broker.open()
        try:
            yield broker
        finally:
            await broker.close()
            ledger.close()
