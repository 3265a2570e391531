"""From a request and its payload to the event that begins a job: one way, for every broker."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from orchestrator.broker.core.events import JobSubmitted, Reuse
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.identity import OwnedName

__all__ = ["job_submitted"]

_REQUEST = tuple(field.name for field in fields(JobRequest))


def job_submitted(
    request: JobRequest,
    payload: CheckedPayload,
    backend: str,
    *,
    user: str = "",
    reuse: Reuse | None = None,
) -> JobSubmitted:
    """Return the event of a new job.

    backend: what drives the QPU. user: empty where one broker serves one process. reuse: set where
    an equal job's result will do.
    """
    asked: dict[str, Any] = {name: getattr(request, name) for name in _REQUEST}
    if request.lease is not None and user:  # users cannot join each other's leases
        owned = str(OwnedName(user, request.lease.id))
        asked["lease"] = replace(request.lease, id=owned)
    return JobSubmitted(
        **asked,
        job=request.job_id(payload.digest),
        backend=backend,
        payload_kind=payload.kind,
        digest=payload.digest,
        pubs=payload.pubs,
        num_qubits=payload.num_qubits,
        user=user,
        reuse=reuse,
    )
