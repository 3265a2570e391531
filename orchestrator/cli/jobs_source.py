"""Quantum jobs as the site has them: of its broker service, or of the ledger on this machine."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import ConfigError, Site, resolve_secrets

if TYPE_CHECKING:
    from orchestrator.broker.remote import RemoteBroker
    from orchestrator.broker.views import JobView

__all__ = ["check_ledger", "has_ledger", "job_of", "jobs_of", "ledger_path"]

# Who only looks does not wait for a service that is being restarted.
_PATIENCE_S = 3.0


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


def jobs_of(site: Site, run: str | None = None) -> list[JobView]:
    """Return the jobs of a run, those made inside its workers included, or of all runs.

    No ledger yet means no jobs. Raises ``LedgerError``, or what a service answers.
    """
    if site.broker.url is not None:
        with closing(_service(site, site.broker.url)) as service:
            return service.jobs(run)
    if not has_ledger(site.state_dir):
        return []
    from orchestrator.broker.host import SERVICE_SCOPE
    from orchestrator.broker.ledger import Ledger

    with closing(Ledger.open(ledger_path(site.state_dir))) as ledger:
        if run is None:
            return ledger.jobs()
        # A worker that calls a primitive writes to a scope of its own, "run~stage".
        scopes = [scope for scope in ledger.runs() if scope == run or scope.startswith(f"{run}~")]
        found = [job for scope in scopes for job in ledger.jobs(scope)]
        # A service here, the agent's say, writes those of all runs to its own.
        served = ledger.jobs(SERVICE_SCOPE)
        found += [job for job in served if job.run == run or job.run.startswith(f"{run}~")]
    return sorted(found, key=lambda job: job.submitted_at)


def job_of(site: Site, job: str) -> JobView:
    """Return one job by its id or the unambiguous start of it. Raises as `jobs_of` does."""
    if site.broker.url is not None:
        with closing(_service(site, site.broker.url)) as service:
            return service.named(job)
    path = ledger_path(site.state_dir)
    if not has_ledger(site.state_dir):
        raise ConfigError(f"no job {job!r}: there is no ledger at {path} yet")
    from orchestrator.broker.ledger import Ledger

    with closing(Ledger.open(path)) as ledger:
        return ledger.job(job)


def _service(site: Site, url: str) -> RemoteBroker:
    from orchestrator.broker.remote import RemoteBroker

    token = resolve_secrets(site.broker.token)
    return RemoteBroker(url, token=token, patience_s=_PATIENCE_S)
