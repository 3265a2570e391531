"""Payloads and results of jobs: in memory while they are needed, else read from the ledger."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from typing import Any

from backends import registry
from backends.api import Result, Target, Usage
from backends.payloads import Payload, payload_from_bytes, payload_kind
from backends.payloads.registry import GROUP as KINDS
from backends.plugins import installed
from backends.results import result_from_bytes, result_to_bytes
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.packing import whole_parts
from orchestrator.broker.core.snapshot import EndedJob, ended_job
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import JobState, QpuTaskState
from orchestrator.broker.ledger import Ledger, LedgerError
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.config.backend_environments import environment_identity
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.identity import JobId, reuse_tag

__all__ = ["AT_HAND_BYTES", "BlobStore", "reuse_key", "versions_of"]

# Larger payloads and results are read from the ledger when they are needed.
AT_HAND_BYTES = 1 << 16

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class BlobStore:
    """Payloads and results of one ledger scope's jobs."""

    state: BrokerState
    ledger: Ledger
    payloads: dict[JobId, Payload | bytes] = field(default_factory=dict)  # in memory
    results: dict[str, Result] = field(default_factory=dict)  # in memory, by tag

    def result(self, ended: EndedJob) -> Any:
        """Return a completed job's result, merged from its tasks'; from any thread."""
        submitted = ended.job.submitted
        if submitted.reuse is not None and submitted.source is not None:
            kept = self.ledger.result(reuse_tag(submitted.reuse.key))
            return result_from_bytes(kept).native
        kind = payload_kind(submitted.payload_kind)
        pieces: list[tuple[ev.Part, Any]] = []
        for task in ended.tasks:
            if task.state is QpuTaskState.COMPLETED:
                tag = task.planned.tag
                found = self.results.get(tag) or result_from_bytes(self.ledger.result(tag))
                items = kind.items(found.native)
                # Before there were other kinds, a result was stored with one item for each part.
                ran: Sequence[ev.Part] = task.planned.parts
                if len(items) != len(ran):
                    ran = _blocks(ran)
                mine = zip(ran, items, strict=True)
                pieces += [(piece, item) for piece, item in mine if piece.job == submitted.job]
        merged = kind.merge(pieces, lambda: self._payload(submitted))
        # Kinds whose results are plain lists have no place for it; the job's record says it.
        if ended.job.moved_from and hasattr(merged, "metadata"):
            _label_qpus(merged, ended)
        return merged

    def encoded_result(self, ended: EndedJob) -> bytes:
        """Return the bytes of a completed job's result: the task's, where there was no other work."""
        submitted = ended.job.submitted
        if submitted.reuse is not None and submitted.source is not None:
            return self.ledger.result(reuse_tag(submitted.reuse.key))
        done = [task for task in ended.tasks if task.state is QpuTaskState.COMPLETED]
        alone = len(done) == 1 and not ended.job.moved_from
        if alone and _is_all_of(submitted, done[0].planned.parts):
            return self.ledger.result(done[0].planned.tag)
        result = Result(native=self.result(ended), usage=Usage())
        return result_to_bytes(result, submitted.payload_kind)

    def source(self, key: str) -> JobId | None:
        """Return the job whose result is kept for this key, None if there is none."""
        try:
            kept = result_from_bytes(self.ledger.result(reuse_tag(key)))
        except LedgerError:
            return None
        return JobId(kept.metadata["job"])

    def is_reusable(self, job: JobId) -> bool:
        """Whether the result of a job that has ended may be kept for others of its key."""
        record = self.state.jobs[job]
        submitted = record.submitted
        asked = submitted.reuse is not None and submitted.source is None
        return asked and record.state is JobState.COMPLETED

    def reusable(self, ended: Iterable[JobId]) -> dict[str, bytes]:
        """Return what to keep, by tag, of jobs that `is_reusable` names; blocks."""
        return {tag: data for job in ended for tag, data in self._kept_of(job).items()}

    def _kept_of(self, job: JobId) -> dict[str, bytes]:
        """Return a completed job's result under its key, if it may be kept."""
        reuse = self.state.jobs[job].submitted.reuse
        assert reuse is not None
        ended = ended_job(self.state, job)
        done = [task.metadata for task in ended.tasks if task.state is QpuTaskState.COMPLETED]
        if any(task.provisional for task in ended.tasks) or ended.job.moved_from:
            return {}
        if any(m.get("calibration_id") != reuse.calibration for m in done):
            return {}  # it ran under another calibration than it was handed in for
        try:
            kept = Result(native=self.result(ended), usage=Usage(), metadata={"job": job})
        except Exception as error:  # noqa: BLE001  # to keep it is a courtesy, and stops nothing
            _log.warning("the result of job %s is not kept for reuse: %s", job, error)
            return {}
        return {reuse_tag(reuse.key): result_to_bytes(kept, ended.job.submitted.payload_kind)}

    def forget(self, job: JobId) -> None:
        """Drop what only this job's result needed; the ledger still has it."""
        self.payloads.pop(job, None)
        record = self.state.jobs.get(job)
        for tag in record.tasks if record else ():
            if len(self.state.tasks[tag].jobs) == 1:
                self.results.pop(tag, None)

    def drop_unknown(self, job: JobId) -> None:
        """Drop the payload of a job that was not accepted."""
        if job not in self.state.jobs:
            self.payloads.pop(job, None)

    def put(self, job: JobId, payload: CheckedPayload) -> None:
        """Have a payload at hand; the bytes of a large one are read from the ledger when needed."""
        if payload.payload is not None:
            self.payloads[job] = payload.payload
        elif len(payload.data) <= AT_HAND_BYTES:
            self.payloads[job] = payload.data

    def task_payload(self, parts: Sequence[ev.Part]) -> Payload:
        """Return what a task of these parts carries; blocks, so not on the loop."""
        jobs = {part.job: self.state.jobs[part.job].submitted for part in parts}
        payloads = {job: self._payload(submitted) for job, submitted in jobs.items()}
        first = jobs[parts[0].job]
        if _is_all_of(first, parts):
            return payloads[first.job]
        if len(kinds := {submitted.payload_kind for submitted in jobs.values()}) > 1:
            raise ValueError(f"a task has parts of payloads of several kinds: {sorted(kinds)}")
        kind = payload_kind(first.payload_kind)
        return kind.assemble([(payloads[piece.job], piece) for piece in _blocks(parts)])

    def _payload(self, submitted: ev.JobSubmitted) -> Payload:
        """Return a job's payload, from the ledger if it is not at hand."""
        at_hand = self.payloads.get(submitted.job)
        if at_hand is None:
            at_hand = self.ledger.payload(submitted.digest)
        return payload_from_bytes(at_hand) if isinstance(at_hand, bytes) else at_hand


def _label_qpus(native: Any, ended: EndedJob) -> None:
    """Say in a result whose job moved on which QPU each number was made: executions by QPU."""
    ran: dict[int, dict[str, int]] = {}
    for task in ended.tasks:
        if task.state is QpuTaskState.COMPLETED:
            for part in task.planned.parts:
                if part.job == ended.job.submitted.job:
                    by_qpu = ran.setdefault(part.pub, {})
                    number = part.points * (part.shots or 1)
                    by_qpu[task.planned.qpu] = by_qpu.get(task.planned.qpu, 0) + number
    native.metadata["failover"] = {
        "from": ended.job.moved_from,
        "to": ended.job.submitted.qpu,
        "reason": ended.job.moved_for,
    }
    for number, item in enumerate(native):
        item.metadata["qpus"] = ran.get(number, {})


def _blocks(parts: Sequence[ev.Part]) -> list[ev.Part]:
    """Return the piece that each item of a task's payload runs."""
    return [block for part in parts for block in part.by_block()]


def _is_all_of(submitted: ev.JobSubmitted, parts: Sequence[ev.Part]) -> bool:
    """Whether a task of these parts runs a job's payload as it was submitted."""
    return list(parts) == whole_parts(submitted) == _blocks(parts)


_PACKAGES = ("hpcqc", "qiskit", "qiskit-aer")


def reuse_key(
    payload: Payload | CheckedPayload,
    settings: QpuSettings,
    target: Target,
    audience: str,
    labels: tuple[str, ...] = (),
) -> str:
    """Return a digest of all that a result depends on.

    That is: the payload with circuits, values, shots, precision and seeds; the QPU's name,
    backend and options with method and noise; its calibration; and the versions of what computes.
    audience: a project whose results are its own, or what stands for those that share theirs.
    labels: of the data; results of labelled data are for jobs with the same labels alone.
    """
    options = registry.result_options(settings.backend, settings.options)
    parts = [
        audience,
        payload.kind,
        payload.digest,
        settings.name,
        settings.backend,
        options,
        target.name,
        target.calibration.id,
        versions_of(settings.backend, payload.kind),
    ]
    if settings.environment is not None:
        parts.append(environment_identity(settings))
    if labels:
        parts.append(sorted(labels))
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@functools.lru_cache(maxsize=64)
def versions_of(backend: str, kind: str) -> tuple[str, ...]:
    """Return the versions of what turns a payload of this kind into a result on a backend."""
    ours = map(_version, _PACKAGES)
    of_the_kind = _distribution(installed(KINDS).get(kind))
    found = (*ours, _distribution(registry.available().get(backend)))
    return (*found, of_the_kind) if of_the_kind else found  # hpcqc's own kinds change with hpcqc


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _distribution(point: EntryPoint | None) -> str:
    if point is None or point.dist is None:
        return ""
    return f"{point.dist.name} {point.dist.version}"
