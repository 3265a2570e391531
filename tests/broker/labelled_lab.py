"""Fake QPUs of a site that states which labels of data they accept, and brokers on them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from qiskit import QuantumCircuit

from backends.api import Backend, QpuTaskId, SessionId
from backends.fake import FakeBackend, create
from backends.hpcqc import create as remote
from backends.payloads import Payload, SamplerPayload
from orchestrator.broker.api.app import ApiSettings, create_app
from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.config.qpu_tables import QpuSettings
from tests.patience import until
from tests.service.rooms import BorrowingIntake

__all__ = [
    "FAR_QPUS",
    "LABELS",
    "PROJECTS",
    "QPUS",
    "Far",
    "Lab",
    "far_site",
    "payload",
    "request",
    "site",
]

QPUS = ("home", "abroad", "cloud")
BEYOND = "beyond"  # a QPU behind another site's broker, where a test has one
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


def lab_qpu(name: str, labels: Sequence[str]) -> QpuSettings:
    places = [one.partition(":")[2] for one in labels if one.startswith("jurisdiction:")]
    others = [one for one in labels if not one.startswith("jurisdiction:")]
    kind = "hpcqc" if name == BEYOND else "fake"
    return QpuSettings(name=name, backend=kind, accepts=others, jurisdictions=places)


def site(accepts: Mapping[str, Sequence[str]]) -> dict[str, QpuSettings]:
    names = [*QPUS, BEYOND] if BEYOND in accepts else QPUS
    return {name: lab_qpu(name, accepts.get(name, ())) for name in names}


FAR_QPUS = {
    f"far{number}": tuple(one for bit, one in enumerate(LABELS) if number >> bit & 1)
    for number in range(1 << len(LABELS))
}


@dataclass
class Far:
    """Another site's broker, with a QPU for each set of labels that one may accept."""

    url: str
    token: str
    lab: Lab


@contextmanager
def far_site(folder: Path) -> Iterator[Far]:
    """Serve a broker's application over HTTP in this process."""
    lab = Lab(folder, {"run_s": 0.01, "durable": True}, FAR_QPUS)
    ledger = Ledger.open(folder / "ledger.sqlite")
    broker = Broker(
        qpus={name: lab_qpu(name, accepted) for name, accepted in FAR_QPUS.items()},
        ledger=ledger,
        clock=lambda: datetime.now(UTC),
        open_backend=lab.open_backend,
        intake=BorrowingIntake(),
    )
    tokens = TokenFile(folder / "tokens.json")
    _, token = tokens.add("near", "user", ["chem"], now=datetime.now(UTC))
    app = create_app(broker, ApiSettings(tokens=tokens.path))
    settings = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Far(f"http://127.0.0.1:{port}", token, lab)
    finally:
        server.should_exit = True
        thread.join()
        ledger.close()


@dataclass
class Lab:
    """Fake QPUs that outlive brokers, and note whose data they got while what was accepted."""

    folder: Path
    script: Mapping[str, Any] = field(default_factory=dict)
    accepts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scripts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of single QPUs
    got: list[tuple[str, int, frozenset[str]]] = field(default_factory=list)
    backends: dict[str, FakeBackend] = field(default_factory=dict)
    far: Far | None = None
    beyond: str = ""  # the far site's QPU that is called beyond here

    def open_backend(self, qpu: str) -> Backend:
        if qpu == BEYOND:
            assert self.far is not None
            options = {"url": self.far.url, "token": self.far.token, "project": "chem"}
            (self.folder / qpu).mkdir(parents=True, exist_ok=True)
            return remote({**options, "qpu": self.beyond}, state_dir=self.folder / qpu)
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
