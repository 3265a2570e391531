"""What tests send to a service."""

from __future__ import annotations

import json
from typing import Any

from qiskit import QuantumCircuit

from backends.payloads import SamplerPayload
from orchestrator.broker.core.job_request import JobRequest

__all__ = ["OPERATIONS", "bell", "call", "counts", "job_head", "request_head"]

# Every operation of the service's description.
OPERATIONS = (
    """
DELETE /v1/leases
GET /health|GET /metrics|GET /v1/budgets/projects|GET /v1/budgets/runs
GET /v1/jobs|GET /v1/jobs/{job}|GET /v1/jobs/{job}/result
GET /v1/jobs/{job}/why|GET /v1/projects|GET /v1/qpus|GET /v1/qpus/{qpu}/readiness
GET /v1/qpus/{qpu}/target
GET /v1/statement|GET /v1/timeline|GET /v1/whoami
POST /v1/budgets/projects|POST /v1/budgets/runs|POST /v1/choices
POST /v1/jobs|POST /v1/jobs/{job}/cancel|POST /v1/jobs/{job}/resolve
POST /v1/qpus/{qpu}/drain|POST /v1/qpus/{qpu}/resume
""".strip()
    .replace("\n", "|")
    .split("|")
)


def bell(shots: int = 100, seed: int | None = 1) -> SamplerPayload:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=shots, seed=seed)


def call(occurrence: int = 0, qpu: str = "fake", run: str = "r") -> JobRequest:
    return JobRequest(run=run, stage=None, call=occurrence, qpu=qpu)


def job_head(**asked: Any) -> dict[str, str]:
    """Return the header of a job that is handed in: on the QPU ``fake`` if none is named."""
    return {"Job-Request": json.dumps({"run": "r", "qpu": "fake"} | asked)}


def counts(result: Any) -> dict[str, int]:
    found: dict[str, int] = result[0].data.meas.get_counts()
    return found


def request_head(path: str, host: str, *more: bytes, method: str = "GET") -> bytes:
    """Return the head of an HTTP request as bytes, with a Host of the test's choice."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: " + host.encode(), *more]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])
