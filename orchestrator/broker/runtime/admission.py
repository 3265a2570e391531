"""From a call and its payload to the event that begins a job: one way, for every broker."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.broker.client.protocol import Call
from orchestrator.broker.core.events import JobSubmitted, LeaseWish, Reuse
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.identity import JobId, OwnedName, Payer

__all__ = ["NOBODY", "job_submitted"]

# Where one broker serves one process, nobody is told apart and nobody pays.
NOBODY = Payer(user="", project="")


def job_submitted(
    job: JobId,
    call: Call,
    payload: CheckedPayload,
    backend: str,
    *,
    payer: Payer = NOBODY,
    reuse: Reuse | None = None,
) -> JobSubmitted:
    """Return the event of a new job.

    backend: what drives the QPU. reuse: set where an equal job's result will do.
    """
    return JobSubmitted(
        job=job,
        run=call.run,
        stage=call.stage,
        call=call.occurrence,
        qpu=call.qpu,
        backend=backend,
        payload_kind=payload.kind,
        digest=payload.digest,
        pubs=payload.pubs,
        num_qubits=payload.num_qubits,
        seed=call.seed,
        lease=_owned(call.lease, payer.user),
        priority=call.priority,
        project=payer.project,
        user=payer.user,
        calibration=call.calibration,
        reuse=reuse,
    )


def _owned(lease: LeaseWish | None, user: str) -> LeaseWish | None:
    """Prefix a lease with its user, so that users cannot join each other's leases."""
    if lease is None or not user:
        return lease
    return replace(lease, id=str(OwnedName(user, lease.id)))
