"""A ledger whose payloads have digests of another kind, as earlier versions computed them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from qiskit import QuantumCircuit

from backends.fake import create
from backends.payloads import SamplerPayload
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.config.qpu_tables import QpuSettings

EARLIER = "0123456789abcdef0123456789abcdef"
CALL = JobRequest(run="r", stage=None, call=0, qpu="q")


def broker_on(folder: Path) -> EmbeddedBroker:
    return EmbeddedBroker(
        run="r",
        state_dir=folder,
        open_backend=lambda _: create({}, state_dir=folder),
        qpus={"q": QpuSettings(name="q", backend="fake")},
    ).open()


def test_jobs_under_earlier_digests_keep_payload_and_result(tmp_path: Path) -> None:
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    payload = SamplerPayload.coerce([circuit], shots=30)
    with closing(broker_on(tmp_path)) as broker:
        job = broker.submit(CALL, payload)
        broker.result(job, 20)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE payloads SET digest = ?", (EARLIER,))
        ledger.execute("UPDATE events SET body = replace(body, ?, ?)", (payload.digest, EARLIER))
    with closing(broker_on(tmp_path)) as broker:
        assert broker.view(job).digest == EARLIER
        assert broker.view(job).state is JobState.COMPLETED
        assert broker.result(job, 20)[0].data.meas.get_counts() == {"1": 30}
