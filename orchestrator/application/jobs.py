"""Quantum jobs as the site has them: of its broker service, or of the ledger on this machine."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Collection
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.application.service import service_at
from orchestrator.arguments import expect
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from orchestrator.identity import SERVICE_SCOPE, is_scope_of
from orchestrator.provenance.schema import RecordedLink

if TYPE_CHECKING:
    from orchestrator.broker.client.http import RemoteBroker
    from orchestrator.broker.core.explain import Explanation
    from orchestrator.broker.core.rules import Window
    from orchestrator.broker.core.views import JobView
    from orchestrator.broker.ledger import Ledger, Restored

__all__ = [
    "JobsOfRun",
    "check_ledger",
    "has_ledger",
    "job",
    "job_of",
    "jobs",
    "jobs_of",
    "ledger_path",
    "why",
]

_JOB = "a job's id, or the start of one"
_ELSEWHERE = (
    "its place in the queue and its likely start are known only to the process that its broker "
    "lives in, while that runs; here is only what was recorded"
)


def jobs(
    run: str | None = None, *, limit: int | None = None, site: Path | str | None = None
) -> list[JobView]:
    """Return quantum jobs, from the site's broker service or from the ledger on this machine.

    Args:
        run: Id of a run; its jobs include those made inside its workers. None for all runs.
        limit: The latest so many; None for all that are known.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        The jobs in order of submission. No ledger yet means no jobs.

    Raises:
        ConfigError: The site file is wrong.
        LedgerError: The ledger cannot be read.
        BrokerUnreachable: The site's service does not answer.
        BrokerRefused: The service refuses, for want of a valid token, for example.
    """
    return jobs_of(load_site(site), run, limit)


def job(job: str, *, site: Path | str | None = None) -> JobView:
    """Return one quantum job with its tasks.

    Args:
        job: The job's id, or the unambiguous start of it.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        The job as the site's broker service or the ledger on this machine knows it.

    Raises:
        ConfigError: The site file is wrong, or there is no ledger yet.
        LedgerError: The ledger cannot be read, or has no job or several jobs of this id.
        BrokerUnreachable: The site's service does not answer.
        BrokerRefused: The service refuses, or knows no such job.
    """
    expect("job", job, str, _JOB)
    return job_of(load_site(site), job)


def why(job: str | JobView, *, site: Path | str | None = None) -> Explanation:
    """Return why a quantum job waits, why it ran when it did, and when it will probably run.

    Args:
        job: A job, its id, or the unambiguous start of the id.
        site: Path of a site file; None for the one that the usual lookup finds.

    Returns:
        What the site's broker service says, or the broker of a run in this process. Of another
        process's run without a service, what the ledger recorded: its queue is not known here.

    Raises:
        ConfigError: The site file is wrong, or there is no ledger yet.
        LedgerError: The ledger cannot be read, or has no job or several jobs of this id.
        BrokerUnreachable: The site's service does not answer.
        BrokerRefused: The service refuses, or knows no such job.
    """
    name: Any = getattr(job, "id", job)
    expect("job", name, str, _JOB)
    found = load_site(site)
    if found.broker.url is not None:
        with closing(service_at(found, found.broker.url)) as service:
            return service.why(name)
    from orchestrator.broker.core.explain import explain
    from orchestrator.broker.ledger import Ledger

    view = job_of(found, name)
    if (known := _explained_here(view)) is not None:
        return known
    with closing(Ledger.open(ledger_path(found.state_dir))) as ledger:
        scopes = [scope for scope in ledger.runs() if is_scope_of(scope, view.run)]
        for scope in [*scopes, SERVICE_SCOPE]:
            state = ledger.restore(scope)
            if view.id in state.jobs or ledger.recall(scope, state, view.id):
                return explain(state, view.id, datetime.now(UTC), _ELSEWHERE)
    raise ConfigError(f"job {view.id} is not in the ledger any more")


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
    """See that a ledger that is there can be used, or that one can be made. Raises ``LedgerError``."""
    from orchestrator.broker.ledger import Ledger, LedgerError

    if has_ledger(state_dir):
        Ledger.open(ledger_path(state_dir)).close()
        return
    nearest = next(folder for folder in (state_dir, *state_dir.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise LedgerError(
            f"ledger {ledger_path(state_dir)} cannot be made: {nearest} is not a folder one may "
            "write to; name another with HPCQC_STATE_DIR"
        )


def jobs_of(site: Site, run: str | None = None, limit: int | None = None) -> list[JobView]:
    """Return the latest jobs, of a run or of all, or raise ``LedgerError`` or a service's error."""
    if site.broker.url is not None:
        with closing(service_at(site, site.broker.url)) as service:
            return service.jobs(run)[-limit if limit else 0 :]
    if not has_ledger(site.state_dir):
        return []
    from orchestrator.broker.ledger import Ledger

    with closing(Ledger.open(ledger_path(site.state_dir))) as ledger:
        # A service here, the agent's say, writes the jobs of all runs to its own scope.
        return ledger.jobs(run, limit, services=[SERVICE_SCOPE])


class JobsOfRun:
    """A run's jobs, read from any thread; each `read` looks only at what is new in the ledger."""

    def __init__(self, site: Site, run: str) -> None:
        self._site, self._run = site, run
        self._service: RemoteBroker | None = None
        self._ledger: Ledger | None = None
        self._followed: dict[str, Restored] = {}
        self._served: list[JobView] = []
        self._jobs: list[JobView] = []
        self._lock = threading.Lock()

    def read(self) -> list[JobView]:
        """Return the jobs as they are now. Raises as `jobs_of` does."""
        with self._lock:
            url = self._site.broker.url
            if url is not None:
                return self._opened(url).jobs(self._run)
            if self._ledger is None:
                if not has_ledger(self._site.state_dir):
                    return []
                self._open()
            if self._catch_up():
                self._jobs = self._folded()
            return self._jobs

    @property
    def link_facts(self) -> RecordedLink | None:
        """What the link to the run's broker agreed on, None where there is none."""
        with self._lock:
            facts = None if self._service is None else self._service.link_facts
        return None if facts is None else RecordedLink(**facts.to_plain())

    def standstills(self, qpus: Collection[str]) -> list[str]:
        """Return why these QPUs start nothing now, as far as that can be looked up."""
        try:
            if self._site.broker.url is None:
                return [*self._refusals(qpus), *self._closures(qpus)]
            with self._lock:
                service = self._opened(self._site.broker.url)
                found = [one.standstill for one in service.qpus() if one.name in qpus]
            return [words for words in found if words is not None]
        except (ValueError, RuntimeError) as error:  # a calendar, or a service that is away
            logging.getLogger(__name__).info("%s", error)
            return []

    def close(self) -> None:
        """Let the connection go; a later `read` makes a new one."""
        with self._lock:
            for opened in (self._service, self._ledger):
                if opened is not None:
                    opened.close()
            self._service = self._ledger = None
            self._followed.clear()

    def _opened(self, url: str) -> RemoteBroker:
        self._service = self._service or service_at(self._site, url)
        return self._service

    def _refusals(self, qpus: Collection[str]) -> list[str]:
        """Say which QPUs refuse the credentials of this run's brokers, as the ledger was read last."""
        with self._lock:
            denied = [one.state.denied for one in self._followed.values()]
        found = {qpu: lost.words() for known in denied for qpu, lost in known.items()}
        return [words for qpu, words in found.items() if qpu in qpus]

    def _closures(self, qpus: Collection[str]) -> list[str]:
        """Reckon from the site file and Slurm, as the brokers in this run's processes do."""
        from orchestrator.broker.runtime.site_rules import calendar_of

        now, reserved = datetime.now(UTC), _reserved_here(qpus)
        known = {
            qpu: calendar_of(self._site.qpu(qpu), None, now, more=reserved.get(qpu, ()))
            for qpu in qpus
        }
        found = {qpu: calendar.closure_at(now) for qpu, calendar in known.items()}
        return [closure.closed(qpu) for qpu, closure in found.items() if closure is not None]

    def _open(self) -> None:
        from orchestrator.broker.ledger import Ledger

        self._ledger = Ledger.open(ledger_path(self._site.state_dir))
        # Where no service is configured, what one did for this run is past.
        self._served = self._jobs = self._ledger.jobs(self._run, services=[SERVICE_SCOPE])

    def _catch_up(self) -> bool:
        """Read what is new; return whether anything is."""
        assert self._ledger is not None
        before = {scope: followed.seq for scope, followed in self._followed.items()}
        for scope in self._ledger.runs():
            if is_scope_of(scope, self._run):
                followed = self._ledger.follow(scope, self._followed.get(scope))
                self._followed[scope] = followed
        return before != {scope: one.seq for scope, one in self._followed.items()}

    def _folded(self) -> list[JobView]:
        from orchestrator.broker.core.records import job_view

        found = {job.id: job for job in self._served}
        for followed in self._followed.values():
            tasks = followed.state.tasks
            found |= {job: job_view(one, tasks) for job, one in followed.state.jobs.items()}
        return sorted(found.values(), key=lambda job: job.submitted_at)


def job_of(site: Site, job: str) -> JobView:
    """Return one job by its id or the unambiguous start of it. Raises as `jobs_of` does."""
    if site.broker.url is not None:
        with closing(service_at(site, site.broker.url)) as service:
            return service.named(job)
    path = ledger_path(site.state_dir)
    if not has_ledger(site.state_dir):
        raise ConfigError(f"no job {job!r}: there is no ledger at {path} yet")
    from orchestrator.broker.ledger import Ledger

    with closing(Ledger.open(path)) as ledger:
        return ledger.job(job)


def _reserved_here(qpus: Collection[str]) -> dict[str, tuple[Window, ...]]:
    """Return the maintenance that the broker in this process has from Slurm, by QPU."""
    if "orchestrator.resources" not in sys.modules:
        return {}
    from orchestrator.broker.runtime.embedded import EmbeddedBroker
    from orchestrator.resources import opened_broker

    broker = opened_broker()
    if not isinstance(broker, EmbeddedBroker):
        return {}
    return {qpu: broker.reserved(qpu) for qpu in qpus}


def _explained_here(job: JobView) -> Explanation | None:
    """Return what the broker in this process says of a job, None if it does not have it."""
    if "orchestrator.resources" not in sys.modules:
        return None
    from backends.api import TaskCancelled
    from orchestrator.broker.client.status import JobUnknown
    from orchestrator.resources import opened_broker

    broker = opened_broker()
    try:
        return None if broker is None else broker.why(job.id)
    except (JobUnknown, TaskCancelled):  # another run's, or the broker was closed meanwhile
        return None
