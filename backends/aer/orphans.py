"""Tasks whose parent process is gone: what their files say, and how they are stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from backends.aer.spool import Claim, Record, Spool, is_alive
from backends.api import TaskState
from backends.results import result_from_bytes

__all__ = ["ends_at", "judged", "stop_orphan"]

_DEATH_S = 2.0
_LOST = "the simulation process died together with its parent before it had a result"


def judged(spool: Spool, tag: str) -> Record | None:
    """Read a task's record; one that nobody works on any more has failed.

    That verdict is written down, so that it stays the same.
    """
    record = spool.read(tag)
    if record is None or record.state is not TaskState.RUNNING:
        return record
    if _is_worked_on(record):
        return record
    # It may have ended between the look at its files and the look at its process.
    record = spool.read(tag)
    if record is None or record.state is not TaskState.RUNNING:
        return record
    spool.fail(tag, _LOST)
    return Record(state=TaskState.FAILED, claims=record.claims, reason=_LOST)


def _is_worked_on(record: Record) -> bool:
    missing = _unfinished(record)
    if any(not is_alive(claim.claimer) for claim in missing):
        return False
    # A part that nobody has claimed yet is taken over by a process that holds another part.
    return bool(missing) or any(is_alive(claim.claimer) for claim in record.claims)


def _unfinished(record: Record) -> list[Claim]:
    done = {path.name.partition("of")[0] for path in record.results}
    return [claim for claim in record.claims if str(claim.part) not in done]


def ends_at(record: Record) -> float | None:
    """Return when the modelled device is done with a completed task, None if it has no clock."""
    if record.state is not TaskState.COMPLETED:
        return None
    result = result_from_bytes(record.results[0].read_bytes())
    end = result.metadata["ends_at"]
    return None if end is None else float(end)


def stop_orphan(spool: Spool, tag: str) -> None:
    """Kill whoever works on a task of a dead parent, then record that it was cancelled."""
    record = spool.read(tag)
    claims = _unfinished(record) if record else []
    for claim in claims:
        if is_alive(claim.claimer):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(claim.pid, signal.SIGKILL)
    deadline = time.monotonic() + _DEATH_S
    while time.monotonic() < deadline and any(is_alive(c.claimer) for c in claims):
        time.sleep(0.005)
    record = spool.read(tag)
    if record is not None and not record.state.is_final:
        spool.cancel(tag)
