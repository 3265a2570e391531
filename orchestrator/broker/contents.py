"""Payloads and results of jobs: at hand while they are needed, else read from the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qiskit.primitives import PrimitiveResult

from backends.api import Result
from backends.payloads import Payload, payload_from_bytes
from backends.results import result_from_bytes
from orchestrator.broker import events as ev
from orchestrator.broker.assembly import job_result
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.snapshot import EndedJob
from orchestrator.broker.state import BrokerState
from orchestrator.broker.views import JobId

__all__ = ["Contents"]


@dataclass(eq=False)
class Contents:
    """What jobs carry in and out. payloads: by job; results: by tag of their tasks."""

    state: BrokerState
    ledger: Ledger
    payloads: dict[JobId, Payload] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)

    def result(self, ended: EndedJob) -> PrimitiveResult[Any]:
        """Return a completed job's result, put together from its tasks'; from any thread."""
        submitted = ended.job.submitted
        pieces: list[tuple[ev.Part, Any]] = []
        for task in ended.tasks:
            if task.state == "completed":
                tag = task.planned.tag
                found = self.results.get(tag) or result_from_bytes(self.ledger.result(tag))
                mine = zip(task.planned.parts, found.native, strict=True)
                pieces += [(part, pub) for part, pub in mine if part.job == submitted.job]
        payload = self.payloads.get(submitted.job)
        return job_result(payload or self._stored_payload(submitted.digest), pieces)

    def forget(self, job: JobId) -> None:
        """Drop what only this job's result needed; the ledger still has it."""
        self.payloads.pop(job, None)
        record = self.state.jobs.get(job)
        for tag in record.tasks if record else ():
            if len(self.state.tasks[tag].jobs) == 1:
                self.results.pop(tag, None)

    def drop_refused(self, event: ev.Event | None) -> None:
        """Drop the payload of a job that was not accepted."""
        if isinstance(event, ev.JobSubmitted) and event.job not in self.state.jobs:
            self.payloads.pop(event.job, None)

    def payload(self, job: JobId) -> Payload:
        """Return a job's payload, from the ledger if it is not at hand."""
        if job not in self.payloads:
            self.payloads[job] = self._stored_payload(self.state.jobs[job].submitted.digest)
        return self.payloads[job]

    def _stored_payload(self, digest: str) -> Payload:
        return payload_from_bytes(self.ledger.payload(digest))
