"""Payloads and results of jobs: at hand while they are needed, else read from the ledger."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qiskit.primitives import PrimitiveResult

from backends.api import Result, Usage
from backends.payloads import Payload, payload_from_bytes
from backends.results import result_from_bytes, result_to_bytes
from orchestrator.broker import events as ev
from orchestrator.broker.assembly import job_result
from orchestrator.broker.ledger import Ledger, LedgerError
from orchestrator.broker.reuse import reuse_tag
from orchestrator.broker.snapshot import EndedJob, ended_job
from orchestrator.broker.state import BrokerState
from orchestrator.broker.views import JobId, JobState

__all__ = ["Contents"]

_log = logging.getLogger(__name__)


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
        if submitted.reuse is not None and submitted.source is not None:
            kept = self.ledger.result(reuse_tag(submitted.reuse.key))
            return result_from_bytes(kept).native
        pieces: list[tuple[ev.Part, Any]] = []
        for task in ended.tasks:
            if task.state == "completed":
                tag = task.planned.tag
                found = self.results.get(tag) or result_from_bytes(self.ledger.result(tag))
                mine = zip(task.planned.parts, found.native, strict=True)
                pieces += [(part, pub) for part, pub in mine if part.job == submitted.job]
        payload = self.payloads.get(submitted.job)
        return job_result(payload or self._stored_payload(submitted.digest), pieces)

    def source(self, key: str) -> JobId | None:
        """Return the job whose result is kept for this key, None if there is none."""
        try:
            kept = result_from_bytes(self.ledger.result(reuse_tag(key)))
        except LedgerError:
            return None
        return JobId(kept.metadata["job"])

    def reusable(self, ending: Iterable[JobId]) -> dict[str, bytes]:
        """Return what to keep, by tag, of jobs that have just ended, if they asked for it."""
        return {tag: data for job in ending for tag, data in self._kept_of(job).items()}

    def _kept_of(self, job: JobId) -> dict[str, bytes]:
        """Return a completed job's result under its key.

        What ran under another calibration than it was handed in for, or outside the quality windows,
        is not kept either.
        """
        submitted = self.state.jobs[job].submitted
        if submitted.reuse is None or submitted.source is not None:
            return {}
        if self.state.jobs[job].state is not JobState.COMPLETED:
            return {}
        ended = ended_job(self.state, job)
        done = [task.metadata for task in ended.tasks if task.state == "completed"]
        if any(task.provisional for task in ended.tasks):
            return {}
        if any(m.get("calibration_id") != submitted.reuse.calibration for m in done):
            return {}
        try:
            kept = Result(native=self.result(ended), usage=Usage(), metadata={"job": job})
        except Exception as error:  # noqa: BLE001  # to keep it is a courtesy, and stops nothing
            _log.warning("the result of job %s is not kept for reuse: %s", job, error)
            return {}
        return {reuse_tag(submitted.reuse.key): result_to_bytes(kept)}

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
