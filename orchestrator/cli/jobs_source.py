"""Quantum jobs as the ledger has them, read beside whoever writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.broker.views import JobView

__all__ = ["check_ledger", "has_ledger", "jobs_of", "ledger_path"]


def ledger_path(state_dir: Path) -> Path:
    """Return where a site's ledger is."""
    return state_dir / "ledger.sqlite"


def has_ledger(state_dir: Path) -> bool:
    """Whether a site's ledger is there. Raises ``LedgerError`` if one may not look."""
    path = ledger_path(state_dir)
    try:
        return path.exists()
    except OSError as error:  # a folder that one may not enter, a name that is too long
        from orchestrator.broker.ledger import LedgerError

        raise LedgerError(
            f"ledger {path} cannot be opened: {error.strerror}; name another folder with "
            "HPCQC_STATE_DIR"
        ) from error


def check_ledger(state_dir: Path) -> None:
    """See that a ledger that is there can be used. Raises ``LedgerError``."""
    if has_ledger(state_dir):
        from orchestrator.broker.ledger import Ledger

        Ledger.open(ledger_path(state_dir)).close()


def jobs_of(state_dir: Path, run: str | None = None) -> list[JobView]:
    """Return the jobs of a run, those made inside its workers included, or of all runs.

    No ledger yet means no jobs. Raises ``LedgerError``.
    """
    if not has_ledger(state_dir):
        return []
    from orchestrator.broker.ledger import Ledger

    ledger = Ledger.open(ledger_path(state_dir))
    try:
        if run is None:
            return ledger.jobs()
        # A worker that calls a primitive writes to a scope of its own, "run~stage".
        scopes = [scope for scope in ledger.runs() if scope == run or scope.startswith(f"{run}~")]
        found = [job for scope in scopes for job in ledger.jobs(scope)]
    finally:
        ledger.close()
    return sorted(found, key=lambda job: job.submitted_at)
