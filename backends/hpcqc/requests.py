"""What a broker's API is sent and answers: headers, names of runs, jobs and their results (pure)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from backends import errors
from backends.api import Result, TaskState, Usage
from backends.errors import (
    AccessDenied,
    BackendError,
    CalibrationChanged,
    PayloadRejected,
    QpuBusy,
    TaskFailed,
)
from backends.payloads import Payload
from backends.results import result_from_bytes, usage_from_json

__all__ = [
    "BYTES",
    "accepted_at",
    "content_digest",
    "failure_of",
    "is_job",
    "job_request",
    "refusal_of",
    "result_of",
    "run_name",
    "state_of",
    "unheeded",
]

BYTES = "application/octet-stream"
_JOB = re.compile(r"j[0-9a-f]{20}")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,199}")
_UNCERTAIN = "uncertain"
_STATES = {state.value: state for state in TaskState}
# Of a job that another site accepted, the failures that mean the same here.
_SAME_HERE = ("CalibrationChanged", "InsufficientMemory", "PayloadRejected")


def content_digest(data: bytes) -> str:
    """Return the checksum of a body as the API states it (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def is_job(text: object) -> bool:
    """Return whether something is the id of a job at a broker."""
    return isinstance(text, str) and _JOB.fullmatch(text) is not None


def run_name(client: str, tag: str) -> str:
    """Return the run that a task is at the other site: one for each task, so that it can be found.

    >>> run_name("2f9c", "j6183d980265fdcb25604.0")
    '2f9c:j6183d980265fdcb25604.0'
    >>> run_name("2f9c", "a+b")
    '2f9c:44c64b77e8ee39ba0f2855a3650b8b29'
    """
    name = f"{client}:{tag}"
    if _RUN.fullmatch(name):
        return name
    return f"{client}:{hashlib.blake2b(tag.encode(), digest_size=16).hexdigest()}"


def job_request(
    payload: Payload,
    *,
    run: str,
    qpu: str,
    project: str,
    labels: tuple[str, ...],
    calibration: str,
) -> Mapping[str, str]:
    """Return the headers that state a job: equal ones with an equal payload are one job."""
    stated: dict[str, Any] = {"run": run, "qpu": qpu, "flow": "hpcqc"}
    optional = {
        "seed": payload.seed,
        "project": project or None,
        "labels": list(labels) or None,
        "calibration": calibration or None,
    }
    stated |= {name: value for name, value in optional.items() if value is not None}
    return {"Job-Request": json.dumps(stated, separators=(",", ":"))}


def accepted_at(listed: Any, qpu: str) -> frozenset[str] | None:
    """Return the labels of data that a QPU accepts, from a list of QPUs; None if it says nothing.

    Raises ``ValueError`` for what is no such list, and one without the QPU.
    """
    known = listed if isinstance(listed, list) else []
    found = [one for one in known if isinstance(one, dict) and one.get("name") == qpu]
    if len(found) != 1:
        raise ValueError(f"no list of QPUs with {qpu!r}")
    labels = found[0].get("accepts")
    if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
        return None
    return frozenset(labels)


def unheeded(labels: tuple[str, ...], job: Mapping[str, Any]) -> list[str]:
    """Return the labels that a job of the other broker does not have."""
    kept = job.get("labels")
    return [one for one in labels if not isinstance(kept, list) or one not in kept]


def refusal_of(status: int, problem: Mapping[str, Any], reason: str) -> BackendError:
    """Return what a refused job means here, by the class that the other broker names."""
    error_type, words = str(problem.get("error_type") or ""), f"the other broker refused: {reason}"
    if error_type == "CalibrationChanged":
        return CalibrationChanged(words)
    if error_type == "InsufficientMemory":
        return errors.InsufficientMemory(words)
    if status == 404:
        return AccessDenied(words)
    if status == 409 and error_type == "TaskCancelled":
        return QpuBusy(words)
    return PayloadRejected(words)


def state_of(job: Mapping[str, Any]) -> TaskState | None:
    """Return a job's state; None for one that a broker itself is uncertain about.

    Raises ``ValueError`` for any other state.
    """
    stated = job.get("state")
    if stated == _UNCERTAIN:
        return None
    state = _STATES.get(stated) if isinstance(stated, str) else None
    if state is None:
        raise ValueError(f"state {stated!r:.40}; expected {', '.join((*_STATES, _UNCERTAIN))}")
    return state


def failure_of(job: Mapping[str, Any]) -> BackendError:
    """Return why a job failed: of the same class where that has the same consequences."""
    name, words = str(job.get("error_type") or "TaskFailed"), str(job.get("error") or "no reason")
    text = f"job {job.get('id')} of the other broker failed with {name}: {words}"
    if name in _SAME_HERE:
        kind: type[BackendError] = getattr(errors, name)
        return kind(text)
    return TaskFailed(text)


def result_of(job: Mapping[str, Any], data: bytes) -> Result:
    """Return the result of a completed job, with the usage of the other ledger.

    Raises ``ValueError`` for bytes that are no result, and for a usage that cannot be.
    """
    found = result_from_bytes(data)
    try:
        usage: Usage = usage_from_json(job["usage"])
        # However a broker cut the job, it is one task here.
        counted = Usage(
            qpu_seconds=float(usage.qpu_seconds),
            shots=int(usage.shots),
            circuits=int(usage.circuits),
            tasks=1,
            charges=usage.charges,
        )
        metadata = {**_task_metadata(job), **found.metadata, "remote_job": job.get("id")}
        return Result(native=found.native, usage=counted, metadata=metadata)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its usage cannot be read: {type(error).__name__}: {error}") from error


def _task_metadata(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how the last task of a job ran, for results that are put together of several."""
    tasks = job.get("tasks")
    listed = [one for one in tasks if isinstance(one, dict)] if isinstance(tasks, list) else []
    stated = listed[-1].get("metadata") if listed else None
    return stated if isinstance(stated, dict) else {}
