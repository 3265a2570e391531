"""Workloads from a ledger: the jobs that were really handed in, with their times."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from orchestrator.broker.core.events import JobSubmitted
from orchestrator.broker.ledger import Ledger
from orchestrator.simulation.workload import Arrival, Workload, WorkloadError

__all__ = ["read_recorded"]


def read_recorded(path: Path, *, scope: str | None = None, qpu: str | None = None) -> Workload:
    """Return the jobs of a ledger, of one scope or all, for one QPU or all.

    Their times stay as they were, also of jobs that really waited for others to end. Raises
    `WorkloadError` if there is no such file, scope or job; ``LedgerError``.
    """
    if not path.is_file():  # opening would make one
        raise WorkloadError(f"there is no ledger {path}; give the file, such as ledger.sqlite")
    arrivals: dict[str, Arrival] = {}
    elsewhere: Counter[str] = Counter()
    with closing(Ledger.open(path)) as ledger:
        scopes = ledger.runs()
        if scope is not None and scope not in scopes:
            raise WorkloadError(
                f"ledger {path} has no scope {scope!r}; it has: {', '.join(scopes[:10]) or 'none'}"
            )
        for name in [scope] if scope is not None else scopes:
            for event, at in ledger.events(name):
                if not isinstance(event, JobSubmitted):
                    continue
                if qpu not in (None, event.qpu):
                    elsewhere[event.qpu] += 1
                    continue
                # What was expected and set aside then, the simulated broker finds out by itself.
                job = replace(event, predicted_s=None, reserved=None)
                arrivals.setdefault(event.job, Arrival(at=at, job=job))
    notes = ["as recorded, the times at which jobs were handed in unchanged"]
    if elsewhere:
        others = ", ".join(f"{name} ({count:,})" for name, count in sorted(elsewhere.items()))
        notes.append(f"jobs for other QPUs left out: {others}")
    return Workload.of(path.name, arrivals.values(), notes)
