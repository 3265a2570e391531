"""An operator's word on a job whose task may or may not have run."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.application.jobs import has_ledger, job_of, ledger_path
from orchestrator.application.qpus import target_from_settings
from orchestrator.application.service import open_service
from orchestrator.arguments import expect
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from orchestrator.identity import SERVICE_SCOPE, is_scope_of

if TYPE_CHECKING:
    from backends.metering import Metering
    from orchestrator.broker.core.events import Verdict
    from orchestrator.broker.core.metered import Metered
    from orchestrator.broker.core.views import JobView

__all__ = ["resolve_job"]

_log = logging.getLogger(__name__)

_VERDICTS: tuple[Verdict, ...] = ("failed", "not-started")


def resolve_job(
    job: str,
    verdict: str,
    reason: str,
    *,
    used_s: float = 0.0,
    charged: float | None = None,
    site: Path | str | None = None,
) -> JobView:
    """Settle the uncertain tasks of a job, at the broker service or in the ledger of its run.

    Args:
        job: The job's id, or the unambiguous start of it.
        verdict: ``failed`` gives it up, ``not-started`` lets it be started again. A run with a broker
            of its own tries either again when it is continued.
        reason: For the ledger.
        used_s: QPU-seconds that the site's meter has for these tasks together; with ``failed`` alone.
        charged: What the site bills for them, in the QPU's unit; None for what the QPU's metering
            makes of ``used_s``, as the service, or the site file, has it.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        The job as it is now.

    Raises:
        ConfigError: The site file, the verdict or what was metered is wrong, or there is no such job.
        NotUncertain: It has no uncertain task.
        RunBusy: A process still works on the job's run.
        BrokerUnreachable: The site's service does not answer.
        BrokerRefused: The service refuses, or knows no such job.
    """
    from orchestrator.broker.core.metered import Metered, MeteredRefused

    expect("job", job, str, "a job's id, or the start of one")
    stated = next((known for known in _VERDICTS if known == verdict), None)
    if stated is None:
        raise ConfigError(f"--as {verdict!r}; expected one of: {', '.join(_VERDICTS)}")
    try:
        metered = Metered(used_s=used_s, charged=charged)
        metered.check(stated)
    except MeteredRefused as error:
        raise ConfigError(str(error)) from None
    found = load_site(site)
    if found.broker.url is None and has_ledger(found.state_dir):
        known = _in_run(found, job)
        if known is not None:
            view, scope = known
            try:
                return _settled(found, scope, view, stated, reason, metered)
            except MeteredRefused as error:
                raise ConfigError(str(error)) from None
    with closing(open_service(site=site)) as service:
        return service.resolve(job, stated, reason, metered)


def _in_run(site: Site, job: str) -> tuple[JobView, str] | None:
    """Return a job of a run's own broker with its scope; None if there is a service to ask for it.

    Raises ``LedgerError`` for a job that is nowhere.
    """
    from orchestrator.broker.ledger import Ledger, LedgerError

    try:
        view = job_of(site, job)
    except LedgerError:
        if (site.state_dir / "broker.sock").exists():
            return None
        raise
    with closing(Ledger.open(ledger_path(site.state_dir))) as ledger:
        for scope in ledger.runs():
            if scope != SERVICE_SCOPE and is_scope_of(scope, view.run):
                state = ledger.restore(scope)
                if view.id in state.jobs or ledger.recall(scope, state, view.id):
                    return view, scope
    return None


def _settled(
    site: Site, scope: str, job: JobView, verdict: Verdict, reason: str, metered: Metered
) -> JobView:
    from backends.api import Backend, QpuUnavailable
    from orchestrator.broker.runtime.embedded import EmbeddedBroker

    def unopened(qpu: str) -> Backend:
        raise QpuUnavailable(f"QPU {qpu!r} is not asked")

    needed = metered.used_s and metered.charged is None
    metering = _metering(site, job.qpu) if needed else None
    broker = EmbeddedBroker(
        run=scope,
        state_dir=site.state_dir,
        open_backend=unopened,
        qpus={name: qpu.model_copy(update={"slurm": None}) for name, qpu in site.qpus.items()},
    )
    try:
        return broker.open(follows=False).resolve(job.id, verdict, reason, metered, metering)
    finally:
        broker.close()


def _metering(site: Site, qpu: str) -> Metering | None:
    """Return how a QPU charges, as the site file's QPU of that name is described; None if it is not."""
    from backends.api import BackendError

    settings = site.qpus.get(qpu)
    if settings is None:
        return None
    try:
        return target_from_settings(settings).metering
    except (BackendError, ValueError) as error:  # of its options or its secrets
        _log.debug("how QPU %s charges is not known: %s", qpu, error)
        return None
